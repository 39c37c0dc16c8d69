"""Tests of table validation, its messages, and round trips to parquet."""

import errno
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import AfterValidator, BaseModel, ValidationError
from pydantic.fields import FieldInfo

from schemas.errors import IndusCotError
from schemas.indus_cot import INDUS_COT
from schemas.patch import PATCH
from schemas.prior import PRIOR
from schemas.sample import SAMPLE, Sample
from schemas.selection import SPLIT
from schemas.supervision import SUPERVISION, Supervision
from schemas.table import Table
from schemas.trajectory import DRAFT

TABLES = [SAMPLE, SUPERVISION, SPLIT, PATCH, PRIOR, DRAFT, INDUS_COT]
TEXT = st.characters(codec="utf-8")
BOX = st.tuples(*[st.integers(0, 999)] * 2, *[st.integers(1, 1000)] * 2).map(
    lambda b: (min(b[0], b[2] - 1), min(b[1], b[3] - 1), b[2], b[3])
)


def draw_values(annotation: Any, metadata: tuple[Any, ...] = ()) -> st.SearchStrategy[Any]:
    """Strategy for the values that a pydantic field of this annotation accepts."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return draw_values(arguments[0], (*arguments[1:], *metadata))
    if origin in (Union, UnionType):
        return st.one_of(
            *(st.none() if option is type(None) else draw_values(option, metadata) for option in arguments)
        )
    limits: list[Any] = [
        part for item in metadata for part in (item.metadata if isinstance(item, FieldInfo) else [item])
    ]
    low: Any = next((item.ge for item in limits if isinstance(item, annotated_types.Ge)), None)
    low = next((item.gt + 1 for item in limits if isinstance(item, annotated_types.Gt)), low)  # type: ignore[operator]
    high: Any = next((item.le for item in limits if isinstance(item, annotated_types.Le)), None)
    shortest = next((item.min_length for item in limits if isinstance(item, annotated_types.MinLen)), 0)
    pattern = next((item.pattern for item in limits if getattr(item, "pattern", None)), None)
    if any(isinstance(item, AfterValidator) for item in limits):
        return BOX
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is list:
        return st.lists(draw_values(arguments[0]), min_size=shortest, max_size=3)
    if origin is tuple:
        return st.tuples(*map(draw_values, arguments))
    if pattern:
        return st.from_regex(pattern.replace("$", r"\Z"), alphabet=TEXT, fullmatch=True)
    if annotation is str:
        return st.text(TEXT, min_size=shortest, max_size=shortest + 20)
    if annotation is int:
        return st.integers(-(2**63) if low is None else low, 2**63 - 1 if high is None else high)
    if annotation is float:
        return st.floats(low, high, allow_nan=False, allow_infinity=False)
    if annotation is bytes:
        return st.binary(max_size=20)
    return draw_fields(annotation).map(annotation.model_validate)


def draw_fields(record: type[BaseModel]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {name: draw_values(info.annotation, tuple(info.metadata)) for name, info in record.model_fields.items()}
    )


def make_consistent(row: dict[str, Any]) -> dict[str, Any]:
    """Copy a row and change the columns that rules tie to each other so that they agree."""
    row = dict(row)
    if row.get("label") == "normal" or row.get("answer") == "No":
        row |= {"defect_type": None, "boxes": []}
    if row.get("label") == "anomalous":
        row |= {"defect_type": row["defect_type"] or "scratch"}
    if row.get("answer") == "Yes":
        row |= {"defect_type": row["defect_type"] or "scratch", "boxes": row["boxes"] or [(0, 0, 1, 1)]}
    if row.get("review_status") == "auto":
        row["reviewers"] = 0
    if "images" in row:
        row["images"] = row["images"] or [row["image"]]
    return row


def draw_records(table: Table, min_size: int = 0) -> st.SearchStrategy[list[Any]]:
    rows = st.lists(
        draw_fields(table.record).map(make_consistent),
        min_size=min_size,
        max_size=3,
        unique_by=lambda row: tuple(row[name] for name in table.key),
    )
    return rows.map(lambda items: [table.record.model_validate(item) for item in items])


def make_sample(**values: Any) -> Sample:
    row = {
        "sample_id": f"toy/part/{values.pop('number', 0):016x}",
        "source_set": "toy",
        "category": "part",
        "view": "C1",
        "part_id": "part/1",
        "split": "train",
        "width": 64,
        "height": 48,
        "channels": 3,
        "image_format": "PNG",
        "image_sha256": "0" * 64,
        "shard": "shard-00000.parquet",
        "row": 0,
        "region": None,
        "licence": "CC0-1.0",
    }
    return Sample.model_validate(row | values)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_records_survive_a_parquet_round_trip(
    table: Table, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rows = data.draw(draw_records(table))
    path = tmp_path_factory.mktemp("table") / f"{table.name}.parquet"
    table.write(table.frame(rows), path)
    assert table.records(table.read(path)) == rows


ONE_BAD_VALUE = [
    (SAMPLE, "sample_id", "no hash", "matches ^[a-z0-9_]+/.+/[0-9a-f]{16}$"),
    (SAMPLE, "view", "", "length at least 1"),
    (SAMPLE, "view", "x" * 201, "length at most 200"),
    (SAMPLE, "view", None, "not null"),
    (SAMPLE, "width", 0, "greater than 0"),
    (SAMPLE, "channels", 2, "one of 1, 3, 4"),
    (SAMPLE, "image_format", "GIF", "one of JPEG, PNG, BMP, TIFF, WEBP"),
    (SAMPLE, "region", [1, 2, 3], "4 entries"),
    (SAMPLE, "region", [1, 2, 3, None], "each entry: not null"),
    (SUPERVISION, "area_fraction", 1.5, "at most 1"),
    (SUPERVISION, "area_fraction", float("nan"), "at least 0"),
    (SUPERVISION, "mask_row", -1, "at least 0"),
    (SUPERVISION, "boxes", [[0, 0, 1001, 5]], "a box in 0-1000 with x1 < x2 and y1 < y2"),
    (SUPERVISION, "boxes", [[1, 1, 2, 2], [5, 5, 5, 5]], "a box in 0-1000 with x1 < x2 and y1 < y2"),
    (PATCH, "box", [10, 10, 5, 20], "a box in 0-1000 with x1 < x2 and y1 < y2"),
    (PATCH, "score", -0.5, "at least 0"),
    (PRIOR, "text", "short", "length at least 40"),
    (PRIOR, "image_sha256", ["0" * 64, "zz"], "each entry: matches ^[0-9a-f]{64}$"),
    (DRAFT, "tools", ["crop", "Hammer <b>"], "each entry: matches ^[a-z][a-z0-9_]*$"),
    (DRAFT, "violations", [{"gate": "", "reason": "why"}], "each entry: gate: length at least 1"),
    (INDUS_COT, "image", {"bytes": None, "path": None}, "bytes: not null"),
    (INDUS_COT, "patch_pairs", [{"box": [9, 0, 9, 9], "score": 1.0}], "box: a box in 0-1000"),
    (SPLIT, "split", "test", "one of train, validation"),
]


@pytest.mark.parametrize(("table", "column", "value", "rule"), ONE_BAD_VALUE)
@settings(max_examples=1, deadline=None, database=None)
@given(data=st.data())
def test_table_rejects_what_its_record_rejects(
    table: Table, column: str, value: Any, rule: str, data: st.DataObject
) -> None:
    row = data.draw(draw_records(table, min_size=1))[0].model_dump()
    table.validate(pl.DataFrame([row], schema=table.dtypes))
    row[column] = value
    with pytest.raises(ValidationError):
        table.record.model_validate(row)
    with pytest.raises(IndusCotError) as caught:
        table.validate(pl.DataFrame([row], schema=table.dtypes), "here")
    message = str(caught.value)
    assert message.startswith(f"table {table.name} (here)")
    assert f"column {column}: value" in message
    assert rule in message
    key = table.key[0]
    assert f"row 0 ({key}=" in message


def test_all_failures_are_reported_at_once() -> None:
    rows = [make_sample(number=number) for number in range(4)]
    frame = SAMPLE.frame([*rows, rows[1]]).with_columns(
        width=pl.Series([64, -5, 64, 64, 64]), view=pl.Series(["C1", "C1", None, "C1", "C1"])
    )
    with pytest.raises(IndusCotError) as caught:
        SAMPLE.validate(frame)
    lines = str(caught.value).splitlines()
    one, two = f"sample_id='toy/part/{1:016x}'", f"sample_id='toy/part/{2:016x}'"
    assert f"  row 1 ({one}) column width: value -5 breaks 'greater than 0'" in lines
    assert f"  row 2 ({two}) column view: value None breaks 'not null'" in lines
    for row in (1, 4):
        assert f"  row {row} ({one}) column sample_id: value 'toy/part/{1:016x}' breaks 'the key is unique'" in lines
    assert len(lines) == 5


def test_rule_between_columns_names_the_row() -> None:
    row = Supervision(
        sample_id="s",
        source_path="p",
        label="normal",
        raw_type=None,
        defect_type="scratch",
        boxes=[],
        area_fraction=None,
        mask_shard=None,
        mask_row=None,
    )
    with pytest.raises(
        IndusCotError, match=r"row 0 \(sample_id='s'\) column label: value 'normal' breaks 'a normal sa"
    ):
        SUPERVISION.validate(SUPERVISION.frame([row]))


def test_wrong_columns_and_valid_ones_are_checked() -> None:
    frame = SAMPLE.frame([make_sample(channels=3)]).drop("view", "sample_id")
    frame = frame.with_columns(zz=1, width=pl.lit("wide"), channels=pl.lit(2, pl.Int64))
    with pytest.raises(IndusCotError) as caught:
        SAMPLE.validate(frame)
    assert str(caught.value).splitlines()[1:] == [
        "  column sample_id is missing",
        "  column view is missing",
        "  column width has type String instead of Int64",
        "  unexpected column zz",
        "  row 0 () column channels: value 2 breaks 'one of 1, 3, 4'",
    ]


def test_rule_with_missing_column_is_skipped() -> None:
    with pytest.raises(IndusCotError) as caught:
        SUPERVISION.validate(SUPERVISION.frame([]).drop("label"))
    assert str(caught.value).splitlines()[1:] == ["  column label is missing"]


def test_long_failure_lists_are_shortened() -> None:
    frame = SAMPLE.frame([make_sample(number=number) for number in range(50)]).with_columns(width=0, row=-1)
    with pytest.raises(IndusCotError) as caught:
        SAMPLE.validate(frame.with_columns(pl.col("width", "row").cast(pl.Int64)))
    message = str(caught.value)
    assert message.count("column width: value 0") == 5
    assert "column width: 45 more rows break 'greater than 0'" in message
    assert "column row: 45 more rows break 'at least 0'" in message


def test_lazy_frame_is_rejected() -> None:
    with pytest.raises(TypeError, match="collect it first"):
        SAMPLE.validate(SAMPLE.frame([make_sample()]).lazy())  # type: ignore[arg-type]


def test_invalid_table_leaves_old_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "sample.parquet"
    SAMPLE.write(SAMPLE.frame([make_sample()]), path)
    before = path.read_bytes()
    with pytest.raises(IndusCotError, match="greater than 0"):
        SAMPLE.write(SAMPLE.frame([make_sample()]).with_columns(width=pl.lit(0, pl.Int64)), path)
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["sample.parquet"]


def test_failed_write_leaves_no_temporary_file(tmp_path: Path) -> None:
    (tmp_path / "sample.parquet").mkdir()
    with pytest.raises(OSError) as caught:
        SAMPLE.write(SAMPLE.frame([make_sample()]), tmp_path / "sample.parquet")
    assert caught.value.errno in (errno.EISDIR, errno.ENOTEMPTY, errno.EEXIST)
    assert [entry.name for entry in tmp_path.iterdir()] == ["sample.parquet"]


def test_read_errors_name_file_and_cause(tmp_path: Path) -> None:
    path = tmp_path / "sample.parquet"
    with pytest.raises(IndusCotError, match=r"sample\.parquet: no such table; run the stage"):
        SAMPLE.read(path)
    SAMPLE.write(SAMPLE.frame([make_sample()]), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(IndusCotError, match=r"sample\.parquet: not a readable parquet file.*run its stage again"):
        SAMPLE.read(path)
    pl.DataFrame({"zz": [1]}).write_parquet(path)
    with pytest.raises(IndusCotError, match=r"table sample \(.*sample\.parquet\)") as caught:
        SAMPLE.read(path)
    assert "unexpected column zz" in str(caught.value)

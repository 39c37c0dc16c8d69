"""Reading and writing validated parquet: no table is written or read unvalidated."""

import os
import types
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
import pandera.polars as pa
import polars as pl
from pandera.errors import SchemaErrors
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from schemas.errors import IndusCotError

SHOWN_FAILURES = 20


@dataclass(frozen=True)
class Rule:
    """A rule on whole rows: ``expression`` is true where the rule holds."""

    column: str
    text: str
    expression: pl.Expr


@dataclass(frozen=True)
class Table:
    """A pydantic record as a table: its columns, its key and the rules between columns.

    The record is the one place where a column's type and range are written; the pandera schema that
    checks a whole table at once is derived from it.
    """

    name: str
    record: type[BaseModel]
    key: Sequence[str]
    rules: Sequence[Rule] = field(default=())

    @property
    def dtypes(self) -> dict[str, pl.DataType]:
        """Polars type of each column."""
        return {name: _dtype(info.annotation) for name, info in self.record.model_fields.items()}

    def schema(self) -> pa.DataFrameSchema:
        """The pandera schema: types, nullability, ranges, unknown columns, key, rules."""
        columns = {name: _column(name, info) for name, info in self.record.model_fields.items()}
        checks = [
            pa.Check(
                lambda data, rule=rule: data.lazyframe.select(rule.expression.fill_null(False)),
                name=f"{rule.column}: {rule.text}",
                error=f"{rule.column}: {rule.text}",
            )
            for rule in self.rules
        ]
        return pa.DataFrameSchema(columns, checks=checks, strict=True, name=self.name)

    def frame(self, records: Iterable[BaseModel]) -> pl.DataFrame:
        """Records as an unvalidated frame with this table's columns."""
        return pl.DataFrame([record.model_dump() for record in records], schema=self.dtypes)

    def validate(self, frame: pl.DataFrame, where: str = "") -> pl.DataFrame:
        """Return ``frame`` if it holds what the record promises.

        Raises:
            IndusCotError: naming table, row, key, column, value and rule of every failure at once.
        """
        if isinstance(frame, pl.LazyFrame):
            raise TypeError("a LazyFrame is checked for its columns only: collect it first")
        failures: list[str] = []
        try:
            self.schema().validate(frame, lazy=True)
        except SchemaErrors as errors:
            failures += _explain(self, frame, errors)
        failures += self._duplicates(frame)
        if failures:
            more = len(failures) - SHOWN_FAILURES
            tail = f"\n  … and {more} more" if more > 0 else ""
            raise IndusCotError(
                f"table {self.name}{f' ({where})' if where else ''} breaks {len(failures)} rule(s):\n  "
                + "\n  ".join(failures[:SHOWN_FAILURES])
                + tail
            )
        return frame

    def _duplicates(self, frame: pl.DataFrame) -> list[str]:
        if any(column not in frame.columns for column in self.key):
            return []
        repeated = frame.select(self.key).with_row_index("row").filter(frame.select(self.key).is_duplicated())
        return [
            f"row {row['row']} column {'+'.join(self.key)}: value {[row[k] for k in self.key]} breaks 'key is unique'"
            for row in repeated.to_dicts()
        ]

    def write(self, frame: pl.DataFrame, path: Path) -> None:
        """Validate and write; the file appears whole or not at all."""
        self.validate(frame, str(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        frame.write_parquet(partial)
        os.replace(partial, path)

    def read(self, path: Path) -> pl.DataFrame:
        """Read and validate.

        Raises:
            IndusCotError: the file is absent, is no parquet, or its rows break a rule.
        """
        if not path.is_file():
            raise IndusCotError(f"{path}: no such table; run the stage that makes it first (`indus-cot repro`)")
        try:
            frame = pl.read_parquet(path)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise IndusCotError(f"{path}: not a readable parquet file ({error}); run its stage again") from error
        return self.validate(frame, str(path))

    def records(self, frame: pl.DataFrame) -> list[Any]:
        """Rows of a validated frame as records."""
        return [self.record.model_validate(row) for row in frame.iter_rows(named=True)]


def box_within_scale(box: pl.Expr) -> pl.Expr:
    """True where ``box``, a list of four, is a box in 0-1000."""
    x1, y1, x2, y2 = (box.list.get(i, null_on_oob=True) for i in range(4))
    inside = (x1 >= 0) & (x1 < x2) & (x2 <= 1000) & (y1 >= 0) & (y1 < y2) & (y2 <= 1000)
    return (box.list.len() == 4) & inside.fill_null(False)


def boxes_within_scale(column: str) -> pl.Expr:
    """True where every box of a list column is a box in 0-1000."""
    return pl.col(column).list.eval(box_within_scale(pl.element())).list.all()


def _strip(annotation: Any) -> tuple[Any, list[Any], bool]:
    """Annotation without Annotated and None: the bare type, its metadata, whether None is allowed."""
    metadata: list[Any] = []
    nullable = False
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation, *extra = get_args(annotation)
            metadata += extra
        elif origin in (Union, types.UnionType):
            options = [option for option in get_args(annotation) if option is not type(None)]
            nullable = nullable or len(options) < len(get_args(annotation))
            if len(options) != 1:
                raise TypeError(f"a column cannot hold {annotation}")
            annotation = options[0]
        else:
            return annotation, metadata, nullable


def _dtype(annotation: Any) -> pl.DataType:
    bare, _, _ = _strip(annotation)
    origin = get_origin(bare)
    if origin is Literal:
        return pl.String() if isinstance(get_args(bare)[0], str) else pl.Int64()
    if origin is list:
        return pl.List(_dtype(get_args(bare)[0]))
    if origin is tuple:
        return pl.List(_dtype(get_args(bare)[0]))
    if isinstance(bare, type) and issubclass(bare, BaseModel):
        return pl.Struct({name: _dtype(info.annotation) for name, info in bare.model_fields.items()})
    try:
        return {str: pl.String(), int: pl.Int64(), float: pl.Float64(), bool: pl.Boolean(), bytes: pl.Binary()}[bare]
    except KeyError:
        raise TypeError(f"a column cannot hold {annotation}") from None


def _column(name: str, info: FieldInfo) -> pa.Column:
    bare, metadata, nullable = _strip(info.annotation)
    constraints = [*metadata, *info.metadata]
    checks: list[pa.Check] = []
    if get_origin(bare) is Literal:
        checks.append(pa.Check.isin(list(get_args(bare))))
    for item in _flatten(constraints):
        checks += _checks(item)
    return pa.Column(_dtype(info.annotation), checks=checks, nullable=nullable, name=name)


def _flatten(items: Iterable[Any]) -> Iterable[Any]:
    for item in items:
        if isinstance(item, FieldInfo):
            yield from item.metadata
        else:
            yield item


def _checks(item: Any) -> list[pa.Check]:
    if isinstance(item, annotated_types.Ge):
        return [pa.Check.ge(item.ge)]
    if isinstance(item, annotated_types.Gt):
        return [pa.Check.gt(item.gt)]
    if isinstance(item, annotated_types.Le):
        return [pa.Check.le(item.le)]
    if isinstance(item, annotated_types.Lt):
        return [pa.Check.lt(item.lt)]
    if isinstance(item, annotated_types.MinLen):
        return [_length(item.min_length, None)]
    if isinstance(item, annotated_types.MaxLen):
        return [_length(None, item.max_length)]
    pattern = getattr(item, "pattern", None)
    return [pa.Check.str_matches(pattern)] if pattern else []


def _length(low: int | None, high: int | None) -> pa.Check:
    text = f"length {'>= ' + str(low) if low is not None else '<= ' + str(high)}"

    def check(data: Any) -> pl.LazyFrame:
        column = pl.col(data.key)
        dtype = data.lazyframe.collect_schema()[data.key]
        size = column.list.len() if isinstance(dtype, pl.List) else column.str.len_chars()
        return data.lazyframe.select(size >= low if low is not None else size <= high)

    return pa.Check(check, name=text, error=text)


def _explain(table: Table, frame: pl.DataFrame, errors: SchemaErrors) -> list[str]:
    lines = []
    for case in errors.failure_cases.to_dicts():
        column, rule, row = case["column"], case["check"], case["index"]
        if case["schema_context"] == "DataFrameSchema" and row is not None and ": " in str(rule):
            column, rule = str(rule).split(": ", 1)
        if row is None:
            lines.append(f"column {column or case['failure_case']}: value {case['failure_case']!r} breaks '{rule}'")
            continue
        keys = ", ".join(f"{k}={frame[k][row]!r}" for k in table.key if k in frame.columns)
        value = frame[column][row] if column in frame.columns else case["failure_case"]
        value = value.to_list() if isinstance(value, pl.Series) else value
        lines.append(f"row {row} ({keys}) column {column}: value {str(value)[:120]!r} breaks '{rule}'")
    return lines

"""Tables in parquet that are validated on every read and write."""

import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
import numpy as np
import polars as pl
from pydantic import AfterValidator, BaseModel
from pydantic.fields import FieldInfo

from schemas.errors import IndusCotError
from schemas.files import replace_file
from schemas.geometry import check_box

if TYPE_CHECKING:
    import pandera.polars as pa

# Import pandera only where a table is validated: the import takes most of a second, and worker processes that only read
# records do not need it.

SHOWN_FAILURES = 40
"""Failures listed in one message."""
SHOWN_ROWS = 5
"""Rows listed per broken rule."""
SHOWN_CHARACTERS = 120
"""Characters shown of a value."""
Expression = Callable[[pl.Expr], pl.Expr]
Constraint = tuple[str, Expression]
ColumnRule = tuple[str, str, pl.Expr]
"""Column, text of the rule, and an expression that is true for valid rows."""


@dataclass(frozen=True)
class Rule:
    """A rule on whole rows: ``expression`` is true for valid rows."""

    column: str
    text: str
    expression: pl.Expr


@dataclass(frozen=True)
class Table:
    """A pydantic record as a table, with its key and the rules between columns.

    The record alone defines the type and range of each column. The pandera schema that validates a whole table at once
    is derived from the record, including the entries of lists and structs.
    """

    name: str
    record: type[BaseModel]
    key: Sequence[str]
    rules: Sequence[Rule] = field(default=())

    @property
    def dtypes(self) -> dict[str, pl.DataType]:
        """Polars data type of each column."""
        return {name: _to_polars_type(info.annotation) for name, info in self.record.model_fields.items()}

    def schema(self, columns: Iterable[str] | None = None) -> "pa.DataFrameSchema":
        """Build the pandera schema: types, nullability, ranges, unknown columns, rules.

        Args:
            columns: Columns to include. Rules that need another column are left out. None includes all columns.
        """
        import pandera.polars as pa

        fields = self.record.model_fields
        chosen = list(fields) if columns is None else [name for name in fields if name in set(columns)]
        rules = [rule.all().alias(str(number)) for number, (_, _, rule) in enumerate(self._list_rules(chosen))]
        # Check all rules in one pass. With one check per rule, pandera takes a tenth of a second even for an empty
        # table, and it writes each failing row as JSON, which fails for bytes.
        hold = pa.Check(lambda data: all(data.lazyframe.select(pl.lit(True), *rules).collect().row(0)), name=self.name)
        # Nulls are checked by our own rule, because pandera cannot report nulls together with other failures.
        columns = {
            name: pa.Column(_to_polars_type(fields[name].annotation), nullable=True, name=name) for name in chosen
        }
        return pa.DataFrameSchema(columns, checks=[hold], strict=True, name=self.name)

    def _list_rules(self, columns: Sequence[str]) -> list[ColumnRule]:
        """List the rules on these columns and between them."""
        fields = self.record.model_fields
        single = [rule for name in columns for rule in _list_column_rules(name, fields[name])]
        between = [
            (rule.column, rule.text, rule.expression.fill_null(False))
            for rule in self.rules
            if set(rule.expression.meta.root_names()) <= set(columns)
        ]
        return single + between

    def frame(self, records: Iterable[BaseModel]) -> pl.DataFrame:
        """Convert records to a frame with the columns of this table, without validation."""
        return pl.DataFrame([record.model_dump() for record in records], schema=self.dtypes)

    def validate(self, frame: pl.DataFrame, where: str = "") -> pl.DataFrame:
        """Return ``frame`` if every row is a valid record and all rules hold.

        Raises:
            IndusCotError: the frame is invalid. The message lists table, row, key, column, value and rule of all
                failures. For a rule that many rows break, it shows the first rows and the number of the others.
            TypeError: ``frame`` is lazy.
        """
        from pandera.errors import SchemaError

        if isinstance(frame, pl.LazyFrame):
            raise TypeError("a LazyFrame cannot be validated, only its columns: collect it first")
        sound, failures = self._check_columns(frame)
        if sound:
            try:
                self.schema(sound).validate(frame.select(sound))
            except SchemaError as error:
                failures += self._describe_broken_rules(frame, sound) or [str(error)]
        failures += self._find_duplicates(frame, sound)
        if failures:
            more = len(failures) - SHOWN_FAILURES
            tail = f"\n  … and {more} more" if more > 0 else ""
            raise IndusCotError(
                f"table {self.name}{f' ({where})' if where else ''} failed validation:\n  "
                + "\n  ".join(failures[:SHOWN_FAILURES])
                + tail
            )
        return frame

    def _check_columns(self, frame: pl.DataFrame) -> tuple[list[str], list[str]]:
        sound, failures = [], []
        for name, dtype in self.dtypes.items():
            if name not in frame.columns:
                failures.append(f"column {name} is missing")
            elif frame.schema[name] != dtype:
                failures.append(f"column {name} has type {frame.schema[name]} instead of {dtype}")
            else:
                sound.append(name)
        failures += [f"unexpected column {name}" for name in frame.columns if name not in self.record.model_fields]
        return sound, failures

    def _describe_broken_rules(self, frame: pl.DataFrame, sound: Sequence[str]) -> list[str]:
        lines = []
        for column, text, rule in self._list_rules(sound):
            rows = np.flatnonzero(~frame.select(rule).to_series().to_numpy())
            lines += _format_failures(self, frame, rows.tolist(), column, text)
        return lines

    def _find_duplicates(self, frame: pl.DataFrame, sound: Sequence[str]) -> list[str]:
        if not set(self.key) <= set(sound):
            return []
        # Compare hashes first: they find possible duplicates faster than the exact check below.
        hashes = np.sort(frame.select(self.key).hash_rows().to_numpy())
        if not (hashes[1:] == hashes[:-1]).any():
            return []
        rows = np.flatnonzero(frame.select(self.key).is_duplicated().to_numpy())
        return (
            _format_failures(self, frame, rows.tolist(), "+".join(self.key), "the key is unique") if rows.size else []
        )

    def write(self, frame: pl.DataFrame, path: Path) -> None:
        """Validate the frame and write it to ``path`` atomically."""
        self.validate(frame, str(path))
        with replace_file(path) as partial:
            frame.write_parquet(partial)

    def read(self, path: Path) -> pl.DataFrame:
        """Read a table and validate it.

        Raises:
            IndusCotError: the file is missing, is no parquet file, or its rows break a rule.
        """
        if not path.is_file():
            raise IndusCotError(f"{path}: no such table; run the stage that writes it first (`indus-cot repro`)")
        try:
            frame = pl.read_parquet(path)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise IndusCotError(
                f"{path}: not a readable parquet file (damaged or truncated); run its stage again"
            ) from error
        return self.validate(frame, str(path))

    def records(self, frame: pl.DataFrame) -> list[Any]:
        """Convert the rows of a validated frame to records."""
        return [self.record.model_validate(row) for row in frame.iter_rows(named=True)]


def _is_box(box: pl.Expr) -> pl.Expr:
    """Build an expression that is true if ``box``, a list of four, is a valid box in 0-1000."""
    x1, y1, x2, y2 = (box.list.get(i, null_on_oob=True) for i in range(4))
    inside = (x1 >= 0) & (x1 < x2) & (x2 <= 1000) & (y1 >= 0) & (y1 < y2) & (y2 <= 1000)
    return (box.list.len() == 4) & inside.fill_null(False)


def unwrap_annotation(annotation: Any) -> tuple[Any, list[Any], bool]:
    """Unwrap Annotated and Optional: return the bare type, its metadata, and whether None is allowed."""
    metadata: list[Any] = []
    nullable = False
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation, *extra = get_args(annotation)
            metadata += extra
        elif origin in (Union, types.UnionType) and type(None) in get_args(annotation):
            nullable = True
            rest = [item for item in get_args(annotation) if item is not type(None)]
            if len(rest) > 1:
                return Union[tuple(rest)], metadata, True  # noqa: UP007 - built at run time
            annotation = rest[0]
        else:
            return annotation, metadata, nullable


def _to_polars_type(annotation: Any) -> pl.DataType:
    bare, _, _ = unwrap_annotation(annotation)
    origin = get_origin(bare)
    if origin is Literal:
        return pl.String() if isinstance(get_args(bare)[0], str) else pl.Int64()
    if origin is list:
        return pl.List(_to_polars_type(get_args(bare)[0]))
    if origin is tuple:
        return pl.List(_to_polars_type(get_args(bare)[0]))
    if isinstance(bare, type) and issubclass(bare, BaseModel):
        return pl.Struct({name: _to_polars_type(info.annotation) for name, info in bare.model_fields.items()})
    try:
        return {str: pl.String(), int: pl.Int64(), float: pl.Float64(), bool: pl.Boolean(), bytes: pl.Binary()}[bare]
    except KeyError:
        raise TypeError(f"a column cannot hold {annotation}") from None


def _list_column_rules(name: str, info: FieldInfo) -> list[ColumnRule]:
    return [(name, text, rule(pl.col(name))) for text, rule in _list_value_constraints(info.annotation, info.metadata)]


def _list_constraints(bare: Any, metadata: Iterable[Any]) -> Iterator[Constraint]:
    """Yield the constraints on a value besides its polars type: a text, and an expression that is true if it holds."""
    for item in metadata:
        for constraint in item.metadata if isinstance(item, FieldInfo) else [item]:
            yield from _translate_constraint(bare, constraint)
    origin, arguments = get_origin(bare), get_args(bare)
    if origin is Literal:
        yield f"one of {', '.join(map(str, arguments))}", lambda value: value.is_in(list(arguments))
    elif origin in (list, tuple):
        if origin is tuple:
            yield f"{len(arguments)} entries", lambda value: value.list.len() == len(arguments)
        for text, rule in _list_value_constraints(arguments[0]):
            yield f"each entry: {text}", _apply_to_entries(rule)
    elif isinstance(bare, type) and issubclass(bare, BaseModel):
        for name, info in bare.model_fields.items():
            for text, rule in _list_value_constraints(info.annotation, info.metadata):
                yield f"{name}: {text}", _apply_to_field(name, rule)


def _list_value_constraints(annotation: Any, metadata: Sequence[Any] = ()) -> Iterator[Constraint]:
    """Yield all constraints on a value, including whether null is allowed."""
    bare, own, nullable = unwrap_annotation(annotation)
    if not nullable:
        yield "not null", lambda value: value.is_not_null()
    for text, rule in _list_constraints(bare, [*own, *metadata]):
        yield text, _accept_null(rule)


def _apply_to_entries(rule: Expression) -> Expression:
    return lambda value: value.list.eval(rule(pl.element())).list.all()


def _apply_to_field(name: str, rule: Expression) -> Expression:
    # Accept a null struct: its fields are null without having been written.
    return lambda value: rule(value.struct.field(name)) | value.is_null()


def _accept_null(rule: Expression) -> Expression:
    return lambda value: rule(value).fill_null(True)


def _translate_constraint(bare: Any, item: Any) -> Iterator[Constraint]:
    """Translate one constraint of pydantic.

    Raises:
        TypeError: no record has used this kind of constraint so far. It is refused, because ignoring it would leave the
            column unchecked.
    """
    if isinstance(item, annotated_types.Interval | annotated_types.Len):
        for part in item:
            yield from _translate_constraint(bare, part)
    elif isinstance(item, annotated_types.Ge):
        yield f"at least {item.ge}", _reject_nan(bare, lambda value: value >= pl.lit(item.ge))
    elif isinstance(item, annotated_types.Gt):
        yield f"greater than {item.gt}", _reject_nan(bare, lambda value: value > pl.lit(item.gt))
    elif isinstance(item, annotated_types.Le):
        yield f"at most {item.le}", _reject_nan(bare, lambda value: value <= pl.lit(item.le))
    elif isinstance(item, annotated_types.Lt):
        yield f"less than {item.lt}", _reject_nan(bare, lambda value: value < pl.lit(item.lt))
    elif isinstance(item, annotated_types.MinLen):
        yield f"length at least {item.min_length}", lambda value: _length_of(bare, value) >= item.min_length
    elif isinstance(item, annotated_types.MaxLen):
        yield f"length at most {item.max_length}", lambda value: _length_of(bare, value) <= item.max_length
    elif isinstance(item, AfterValidator) and item.func is check_box:
        yield "a box in 0-1000 with x1 < x2 and y1 < y2", _is_box
    elif pattern := getattr(item, "pattern", None):
        yield f"matches {pattern}", lambda value: value.str.contains(pattern)
    else:
        raise TypeError(f"a table cannot check the constraint {item!r}; add it to schemas/table.py")


def _reject_nan(bare: Any, rule: Expression) -> Expression:
    # Reject NaN: Polars sorts it above every number, while pydantic accepts it in no range.
    return (lambda value: rule(value) & value.is_not_nan()) if bare is float else rule


def _length_of(bare: Any, value: pl.Expr) -> pl.Expr:
    return value.list.len() if get_origin(bare) is list else value.str.len_chars()


def _format_failures(table: Table, frame: pl.DataFrame, rows: Sequence[int], column: str, rule: str) -> list[str]:
    lines = []
    for row in rows[:SHOWN_ROWS]:
        keys = ", ".join(f"{key}={frame[key][row]!r}" for key in table.key if key in frame.columns)
        value = [frame[name][row] for name in column.split("+")]
        shown = [item.to_list() if isinstance(item, pl.Series) else item for item in value]
        text = repr(shown[0] if len(shown) == 1 else shown)
        text = text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"
        lines.append(f"row {row} ({keys}) column {column}: value {text} breaks '{rule}'")
    if len(rows) > SHOWN_ROWS:
        lines.append(f"column {column}: {len(rows) - SHOWN_ROWS} more rows break '{rule}'")
    return lines

"""Reading and writing validated parquet: no table is written or read unvalidated."""

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

# pandera takes most of a second to import and a worker process that only reads records never needs it:
# it is imported where a table is validated.

SHOWN_FAILURES = 40
SHOWN_ROWS = 5
SHOWN_CHARACTERS = 120
Expression = Callable[[pl.Expr], pl.Expr]
Constraint = tuple[str, Expression]
ColumnRule = tuple[str, str, pl.Expr]


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
    checks a whole table at once is derived from it, down to the entries of lists and structs.
    """

    name: str
    record: type[BaseModel]
    key: Sequence[str]
    rules: Sequence[Rule] = field(default=())

    @property
    def dtypes(self) -> dict[str, pl.DataType]:
        """Polars type of each column."""
        return {name: _dtype(info.annotation) for name, info in self.record.model_fields.items()}

    def schema(self, columns: Iterable[str] | None = None) -> "pa.DataFrameSchema":
        """The pandera schema: types, nullability, ranges, unknown columns, rules.

        Args:
            columns: Only these, and the rules that need no other; all where None.
        """
        import pandera.polars as pa

        fields = self.record.model_fields
        chosen = list(fields) if columns is None else [name for name in fields if name in set(columns)]
        rules = [rule.all().alias(str(number)) for number, (_, _, rule) in enumerate(self._rules(chosen))]
        # One check for all rules, answered in one pass: a check each takes pandera a tenth of a second for an empty
        # table, and it would write each failing row as JSON, which bytes do not have.
        hold = pa.Check(lambda data: all(data.lazyframe.select(pl.lit(True), *rules).collect().row(0)), name=self.name)
        # `nullable` is a rule of its own: pandera cannot report nulls and other failures of one frame together.
        columns = {name: pa.Column(_dtype(fields[name].annotation), nullable=True, name=name) for name in chosen}
        return pa.DataFrameSchema(columns, checks=[hold], strict=True, name=self.name)

    def _rules(self, columns: Sequence[str]) -> list[ColumnRule]:
        """Of these columns, and between them."""
        fields = self.record.model_fields
        single = [rule for name in columns for rule in _column_rules(name, fields[name])]
        between = [
            (rule.column, rule.text, rule.expression.fill_null(False))
            for rule in self.rules
            if set(rule.expression.meta.root_names()) <= set(columns)
        ]
        return single + between

    def frame(self, records: Iterable[BaseModel]) -> pl.DataFrame:
        """Records as an unvalidated frame with this table's columns."""
        return pl.DataFrame([record.model_dump() for record in records], schema=self.dtypes)

    def validate(self, frame: pl.DataFrame, where: str = "") -> pl.DataFrame:
        """Return ``frame`` if it holds what the record promises.

        Raises:
            IndusCotError: naming table, row, key, column, value and rule of every failure at once; of a rule
                that many rows break, the first few rows and their number.
            TypeError: ``frame`` is lazy.
        """
        from pandera.errors import SchemaError

        if isinstance(frame, pl.LazyFrame):
            raise TypeError("a LazyFrame is checked for its columns only: collect it first")
        sound, failures = self._columns(frame)
        if sound:
            try:
                self.schema(sound).validate(frame.select(sound))
            except SchemaError as error:
                failures += self._explain(frame, sound) or [str(error)]
        failures += self._duplicates(frame, sound)
        if failures:
            more = len(failures) - SHOWN_FAILURES
            tail = f"\n  … and {more} more" if more > 0 else ""
            raise IndusCotError(
                f"table {self.name}{f' ({where})' if where else ''} does not hold what it must:\n  "
                + "\n  ".join(failures[:SHOWN_FAILURES])
                + tail
            )
        return frame

    def _columns(self, frame: pl.DataFrame) -> tuple[list[str], list[str]]:
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

    def _explain(self, frame: pl.DataFrame, sound: Sequence[str]) -> list[str]:
        lines = []
        for column, text, rule in self._rules(sound):
            rows = np.flatnonzero(~frame.select(rule).to_series().to_numpy())
            lines += _told(self, frame, rows.tolist(), column, text)
        return lines

    def _duplicates(self, frame: pl.DataFrame, sound: Sequence[str]) -> list[str]:
        if not set(self.key) <= set(sound):
            return []
        # Equal rows have equal hashes; only where two hashes meet is the exact, slower question asked.
        hashes = np.sort(frame.select(self.key).hash_rows().to_numpy())
        if not (hashes[1:] == hashes[:-1]).any():
            return []
        rows = np.flatnonzero(frame.select(self.key).is_duplicated().to_numpy())
        return _told(self, frame, rows.tolist(), "+".join(self.key), "the key is unique") if rows.size else []

    def write(self, frame: pl.DataFrame, path: Path) -> None:
        """Validate and write; the file appears whole or not at all."""
        self.validate(frame, str(path))
        with replace_file(path) as partial:
            frame.write_parquet(partial)

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
            raise IndusCotError(
                f"{path}: not a readable parquet file: it is damaged or cut short; run its stage again"
            ) from error
        return self.validate(frame, str(path))

    def records(self, frame: pl.DataFrame) -> list[Any]:
        """Rows of a validated frame as records."""
        return [self.record.model_validate(row) for row in frame.iter_rows(named=True)]


def _is_box(box: pl.Expr) -> pl.Expr:
    """True where ``box``, a list of four, is a box in 0-1000."""
    x1, y1, x2, y2 = (box.list.get(i, null_on_oob=True) for i in range(4))
    inside = (x1 >= 0) & (x1 < x2) & (x2 <= 1000) & (y1 >= 0) & (y1 < y2) & (y2 <= 1000)
    return (box.list.len() == 4) & inside.fill_null(False)


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


def _column_rules(name: str, info: FieldInfo) -> list[ColumnRule]:
    return [(name, text, rule(pl.col(name))) for text, rule in _value_rules(info.annotation, info.metadata)]


def _constraints(bare: Any, metadata: Iterable[Any]) -> Iterator[Constraint]:
    """What a value must hold beyond its polars type: plain words, and an expression that is true where it does."""
    for item in metadata:
        for constraint in item.metadata if isinstance(item, FieldInfo) else [item]:
            yield from _constraint(bare, constraint)
    origin, arguments = get_origin(bare), get_args(bare)
    if origin is Literal:
        yield f"one of {', '.join(map(str, arguments))}", lambda value: value.is_in(list(arguments))
    elif origin in (list, tuple):
        if origin is tuple:
            yield f"{len(arguments)} entries", lambda value: value.list.len() == len(arguments)
        for text, rule in _value_rules(arguments[0]):
            yield f"each entry: {text}", _of_each_entry(rule)
    elif isinstance(bare, type) and issubclass(bare, BaseModel):
        for name, info in bare.model_fields.items():
            for text, rule in _value_rules(info.annotation, info.metadata):
                yield f"{name}: {text}", _of_struct_field(name, rule)


def _value_rules(annotation: Any, metadata: Sequence[Any] = ()) -> Iterator[Constraint]:
    """What a value must hold, null or not."""
    bare, own, nullable = _strip(annotation)
    if not nullable:
        yield "not null", lambda value: value.is_not_null()
    for text, rule in _constraints(bare, [*own, *metadata]):
        yield text, _unless_null(rule)


def _of_each_entry(rule: Expression) -> Expression:
    return lambda value: value.list.eval(rule(pl.element())).list.all()


def _of_struct_field(name: str, rule: Expression) -> Expression:
    # The fields of a null struct are null, which says nothing of them.
    return lambda value: rule(value.struct.field(name)) | value.is_null()


def _unless_null(rule: Expression) -> Expression:
    return lambda value: rule(value).fill_null(True)


def _constraint(bare: Any, item: Any) -> Iterator[Constraint]:
    """One of pydantic's constraints; kinds that no record uses so far are refused, not passed over."""
    if isinstance(item, annotated_types.Interval | annotated_types.Len):
        for part in item:
            yield from _constraint(bare, part)
    elif isinstance(item, annotated_types.Ge):
        yield f"at least {item.ge}", _number(bare, lambda value: value >= pl.lit(item.ge))
    elif isinstance(item, annotated_types.Gt):
        yield f"greater than {item.gt}", _number(bare, lambda value: value > pl.lit(item.gt))
    elif isinstance(item, annotated_types.Le):
        yield f"at most {item.le}", _number(bare, lambda value: value <= pl.lit(item.le))
    elif isinstance(item, annotated_types.Lt):
        yield f"less than {item.lt}", _number(bare, lambda value: value < pl.lit(item.lt))
    elif isinstance(item, annotated_types.MinLen):
        yield f"length at least {item.min_length}", lambda value: _length(bare, value) >= item.min_length
    elif isinstance(item, annotated_types.MaxLen):
        yield f"length at most {item.max_length}", lambda value: _length(bare, value) <= item.max_length
    elif isinstance(item, AfterValidator) and item.func is check_box:
        yield "a box in 0-1000 with x1 < x2 and y1 < y2", _is_box
    elif pattern := getattr(item, "pattern", None):
        yield f"matches {pattern}", lambda value: value.str.contains(pattern)
    else:
        raise TypeError(f"a table cannot check {item!r}")


def _number(bare: Any, rule: Expression) -> Expression:
    # Polars orders NaN above every number, pydantic nowhere.
    return (lambda value: rule(value) & value.is_not_nan()) if bare is float else rule


def _length(bare: Any, value: pl.Expr) -> pl.Expr:
    return value.list.len() if get_origin(bare) is list else value.str.len_chars()


def _told(table: Table, frame: pl.DataFrame, rows: Sequence[int], column: str, rule: str) -> list[str]:
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

"""Does an entry's data fit its table? Exactly what was sent comes out as Arrow, or a refusal that says what is wrong and where."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc

from coordinator.entry import Entry, Format
from coordinator.json_rows import JsonRow, fit_json, read_json
from parallax.errors import BadEntry
from parallax.replication.record import Op
from parallax.replication.spec import TableSpec

FIRST_DAY = (date.min - date(1970, 1, 1)).days
LAST_DAY = (date.max - date(1970, 1, 1)).days


@dataclass(slots=True)
class Rows:
    """What an entry's data holds, read but not yet held against the table: JSON rows, or an Arrow table.

    Rows of neighbouring entries that are alike can be joined and checked together, which costs a fraction.
    """

    op: Op
    json: list[JsonRow] | None
    arrow: list[pa.Table]  # one, or several of one schema

    def is_like(self, other: "Rows") -> bool:
        """Say whether the two can be joined."""
        if self.op is not Op.UPDATE or other.op is not Op.UPDATE or (self.json is None) != (other.json is None):
            return False
        return self.json is not None or bool(self.arrow[0].schema.equals(other.arrow[0].schema))

    def __len__(self) -> int:
        return len(self.json) if self.json is not None else sum(table.num_rows for table in self.arrow)


def read(entry: Entry) -> Rows:
    """Read an entry's data.

    Raises:
        BadEntry: it is not what its format says.
    """
    if entry.op is Op.CLEAR:
        return Rows(entry.op, [], [])
    if entry.format is Format.ARROW:
        return Rows(entry.op, None, [_read_arrow(entry.data)])
    return Rows(entry.op, read_json(entry.data), [])


def join(alike: Sequence[Rows]) -> Rows:
    """Return all rows in their order."""
    first = alike[0]
    if len(alike) == 1:
        return first
    if first.json is not None:
        return Rows(first.op, [row for rows in alike for row in rows.json or ()], [])
    return Rows(first.op, None, [table for rows in alike for table in rows.arrow])


def validate(rows: Rows, spec: TableSpec) -> list[pa.Table]:
    """Return the rows as tables whose columns are a subset of the spec's, in the spec's order and types.

    Arrow data gives one table; JSON rows give one for each run of rows that have the same columns, because a missing column
    keeps its value and a null overwrites it. For `remove` the only column is the index.

    Raises:
        BadEntry: what was sent does not fit.
    """
    if rows.json is not None:
        fitted = fit_json(rows.json, spec)
    else:
        table = pa.concat_tables(rows.arrow) if len(rows.arrow) > 1 else rows.arrow[0]
        fitted = [_fit(table, spec)]
    for table in fitted:
        _check_rows(table, spec, rows.op)
    if rows.op is Op.REMOVE:
        fitted = [table.select([spec.index]) for table in fitted]
    return [table for table in fitted if table.num_rows]


def _read_arrow(data: bytes) -> pa.Table:
    try:
        reader = pa.ipc.open_file(data) if data.startswith(b"ARROW1") else pa.ipc.open_stream(data)
        with reader:
            table = reader.read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:
        raise BadEntry(f"data is not a readable Arrow IPC stream or file: {_first_line(error)}") from error
    return table


def _fit(table: pa.Table, spec: TableSpec) -> pa.Table:
    """Bring a table to the spec's column order and types, by casts that lose nothing."""
    schema = spec.arrow_schema
    names = table.column_names
    unknown = [name for name in names if name not in spec.columns]
    if unknown:
        raise BadEntry(f"unknown column {unknown[0]!r}; the table has {', '.join(spec.columns)}")
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise BadEntry(f"column {twice!r} is given twice")
    columns = []
    wanted = [field for field in schema if field.name in names]
    for field in wanted:
        columns.append(_cast(table.column(field.name), field))
    return pa.Table.from_arrays(columns, schema=pa.schema(wanted))


def _cast(column: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    kind = column.type
    if kind == field.type:
        return column
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_null(kind) or _is_same_family(kind, field.type):
        try:
            return column.cast(kind, safe=True).cast(field.type, safe=True)
        except pa.ArrowException as error:
            raise BadEntry(f"column {field.name!r}: {_first_line(error)}") from error
    raise BadEntry(f"column {field.name!r} is {column.type}, but the table's is {field.type}; cast it before publishing")


def _is_same_family(given: pa.DataType, wanted: pa.DataType) -> bool:
    """Say whether a value-checked cast from `given` to `wanted` keeps every value's meaning."""
    types = pa.types
    if types.is_integer(given):
        return bool(types.is_integer(wanted) or types.is_float64(wanted) or types.is_float32(wanted))
    if types.is_floating(given):
        return bool(types.is_floating(wanted) and given.bit_width <= wanted.bit_width)
    if types.is_timestamp(given):
        return bool(types.is_timestamp(wanted))
    if types.is_date(given):
        return bool(types.is_date(wanted))
    if types.is_large_string(given) or types.is_string_view(given) or types.is_string(given):
        return bool(types.is_string(wanted))
    return bool(given == wanted)


def _check_rows(table: pa.Table, spec: TableSpec, op: Op) -> None:
    if spec.index is not None:
        if spec.index not in table.column_names:
            raise BadEntry(f"the index column {spec.index!r} is missing; each row needs it")
        keys = table.column(spec.index)
        if keys.null_count:
            row = next(number for number, key in enumerate(keys) if not key.is_valid)
            raise BadEntry(f"row {row}: the index column {spec.index!r} is null; each row needs a key")
    elif not table.num_columns and table.num_rows:
        raise BadEntry(f"the rows have no columns; the table has {', '.join(spec.columns)}")
    if op is Op.REMOVE and table.num_columns > 1:
        others = [name for name in table.column_names if name != spec.index]
        raise BadEntry(f"op remove takes only the index column {spec.index!r}, not {others[0]!r}")
    for field in table.schema:
        if pa.types.is_string(field.type):
            _check_text(table.column(field.name), field.name)
        elif pa.types.is_date32(field.type):
            _check_dates(table.column(field.name), field.name)


def _check_text(column: pa.ChunkedArray, name: str) -> None:
    """Refuse text that holds a NUL, at which the engine would cut it."""
    for chunk in column.chunks:
        data = chunk.buffers()[2]
        if data is not None and b"\0" in memoryview(data).tobytes():
            for row, value in enumerate(column.to_pylist()):
                if value is not None and "\0" in value:
                    raise BadEntry(f"row {row}, column {name!r}: text with a NUL character, which Perspective cannot hold")


def _check_dates(column: pa.ChunkedArray, name: str) -> None:
    """Refuse dates beyond the years 1 to 9999, which the engine would wrap sooner or later."""
    days = column.cast(pa.int32())
    outside = pc.or_(pc.less(days, FIRST_DAY), pc.greater(days, LAST_DAY))
    if pc.any(outside).as_py():
        row = pc.index(outside, True).as_py()
        raise BadEntry(f"row {row}, column {name!r}: a date outside the years 1 to 9999 (day {days[row]} since 1970)")


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return (lines[0] if lines else type(error).__name__)[:300]

"""Does an entry's data fit its table? Exactly what was sent comes out as Arrow, or a refusal that says what is wrong and where."""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from coordinator.arrow_rows import read_arrow
from coordinator.content import Content
from coordinator.csv_rows import read_csv
from coordinator.entry import Entry, Format
from coordinator.json_rows import JsonRows, read_columns, read_json, read_ndjson
from coordinator.limits import Limits
from coordinator.misfit import Misfit
from coordinator.moments import FIRST_DAY, LAST_DAY
from parallax.errors import BadEntry
from parallax.replication.record import Op
from parallax.replication.spec import TableSpec


@dataclass(frozen=True, slots=True)
class Rows:
    """What an entry's data holds, read but not yet held against the table."""

    op: Op
    content: Content

    def is_like(self, other: "Rows") -> bool:
        """Say whether the two can be joined and checked together."""
        return self.op is Op.UPDATE and other.op is Op.UPDATE and self.content.is_like(other.content)

    def __len__(self) -> int:
        return len(self.content)


def read(entry: Entry, spec: TableSpec, limits: Limits) -> Rows:
    """Read an entry's data; what is larger than the limits is refused before it is read.

    Raises:
        BadEntry: it is not what its format says, or too large.
    """
    if len(entry.data) > limits.max_entry_bytes:
        raise BadEntry(
            f"data is {len(entry.data)} bytes long; the most is {limits.max_entry_bytes}: send it in smaller entries"
        )
    try:
        return Rows(entry.op, _read(entry, spec, limits.max_entry_rows_bytes))
    except Misfit as misfit:
        raise misfit.refusal(None if misfit.row is None else f"row {misfit.row}") from None


def _read(entry: Entry, spec: TableSpec, most_bytes: int) -> Content:
    match entry.format:
        case None:  # clear
            return JsonRows([])
        case Format.ARROW:
            return read_arrow(entry.data, spec, most_bytes)
        case Format.CSV:
            return read_csv(entry.data, spec, most_bytes)
        case Format.JSON:
            return read_json(entry.data, most_bytes)
        case Format.NDJSON:
            return read_ndjson(entry.data, most_bytes)
        case Format.COLUMNS:
            return read_columns(entry.data, most_bytes)


def join(alike: Sequence[Rows]) -> Rows:
    """Return all rows in their order."""
    first, *others = alike
    return Rows(first.op, first.content.joined([rows.content for rows in others])) if others else first


def validate(rows: Rows, spec: TableSpec) -> list[pa.Table]:
    """Return the rows as tables whose columns are a subset of the spec's, in the spec's order and types.

    JSON rows give one table for each run of rows that have the same columns, because a missing column keeps its value and a
    null overwrites it; other formats give one table. For `remove` the only column is the index.

    Raises:
        BadEntry: what was sent does not fit.
    """
    first = 0
    try:
        fitted = rows.content.fit(spec)
        for table in fitted:
            _check_rows(table, spec, rows.op)
            first += table.num_rows
    except Misfit as misfit:
        raise misfit.refusal(None if misfit.row is None else rows.content.place(first + misfit.row)) from None
    return [table for table in fitted if table.num_rows]


def _check_rows(table: pa.Table, spec: TableSpec, op: Op) -> None:
    if spec.index is not None and (table.num_rows or table.num_columns):
        if spec.index not in table.column_names:
            raise Misfit(f"the index column {spec.index!r} is missing; each row needs it")
        keys = table.column(spec.index)
        if keys.null_count:
            row = pc.index(keys.is_null(), True).as_py()
            raise Misfit(f"the index column {spec.index!r} is null; each row needs a key", row=row)
    elif not table.num_columns and table.num_rows:
        raise Misfit(f"the rows have no columns; the table has {', '.join(spec.columns)}")
    if op is Op.REMOVE and table.num_columns > 1:
        others = [name for name in table.column_names if name != spec.index]
        raise Misfit(f"op remove takes only the index column {spec.index!r}, not {others[0]!r}")
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
                    raise Misfit("text with a NUL character, which Perspective cannot hold", row=row, column=name)


def _check_dates(column: pa.ChunkedArray, name: str) -> None:
    """Refuse dates beyond the years 1 to 9999, which the engine would wrap sooner or later."""
    days = column.cast(pa.int32())
    outside = pc.or_(pc.less(days, FIRST_DAY), pc.greater(days, LAST_DAY))
    if pc.any(outside).as_py():
        row = pc.index(outside, True).as_py()
        raise Misfit(f"a date outside the years 1 to 9999 (day {days[row]} since 1970)", row=row, column=name)

"""How rows get into a table of the engine that is empty.

Perspective 5.6.1 tells nulls that arrive in the poll which fills an empty table from those that come later: grouped by such a
column, a view has two groups for null, and rows that change go astray between them. So a first row without nulls goes ahead, in
a poll of its own, and its true values follow. `tests/test_engine_ages.py` tells when this may go.
"""

from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa
import pyarrow.types as pt

from parallax.replication.spec import TableSpec

ROW_NUMBER = "__INDEX__"
"""The key that the engine itself gives to the rows of a table without index."""
MOST_SLOTS = 2_000_000
"""A limit table with more slots is filled as it comes: to go once round its slots would take seconds. Views that group and split
it at once could end the process, and are refused."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def needs_care(spec: TableSpec, rows: pa.Table) -> bool:
    """Say whether rows that fill an empty table have nulls, those of missing columns included."""
    return set(rows.column_names) != set(spec.columns) or any(rows[name].null_count for name in rows.column_names)


def needs_new_table(spec: TableSpec) -> bool:
    """Say whether only a table that was just made can be filled with care: one whose next slot is known."""
    return spec.limit is not None and spec.limit <= MOST_SLOTS


def steps(spec: TableSpec, rows: pa.Table) -> Iterator[pa.Table]:
    """Give the updates that fill an empty table with `rows`, which need care; the first has to be polled before the others."""
    first = wide(spec, rows.slice(0, 1))
    ahead = _without_nulls(first)
    if spec.index is not None:
        yield ahead
        yield first
        yield rows
    elif spec.limit is None:
        yield _numbered(ahead, -1)
        yield _numbered(first, -1)
        yield rows.slice(1)
    elif needs_new_table(spec):
        # The engine counts slots, not rows: once round, and the first of the true rows takes the place of this one.
        yield _numbered(ahead.take(pa.array([0] * spec.limit, pa.int32())), 0)
        yield rows
    else:
        yield rows


def wide(spec: TableSpec, rows: pa.Table) -> pa.Table:
    """Return rows with all columns of a table, null where they had none."""
    columns = [
        rows[field.name].cast(field.type) if field.name in rows.column_names else pa.nulls(len(rows), field.type)
        for field in spec.arrow_schema
    ]
    return pa.table(columns, schema=spec.arrow_schema)


def _without_nulls(row: pa.Table) -> pa.Table:
    columns = [
        pa.array([_any_value(field.type)], field.type) if row[field.name].null_count else row[field.name].combine_chunks()
        for field in row.schema
    ]
    return pa.table(columns, schema=row.schema)


def _any_value(kind: pa.DataType) -> Any:
    if pt.is_boolean(kind):
        return False
    if pt.is_date(kind):
        return date(1970, 1, 1)
    if pt.is_timestamp(kind):
        return _EPOCH.replace(tzinfo=None)
    return "" if pt.is_string(kind) or pt.is_large_string(kind) else 0


def _numbered(rows: pa.Table, number: int) -> pa.Table:
    return rows.append_column(ROW_NUMBER, pa.array([number] * len(rows), pa.int32()))

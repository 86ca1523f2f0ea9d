"""What can travel together: entries in their order become as few records as keep their meaning."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from coordinator.entry import Entry
from coordinator.limits import Limits as Limits
from coordinator.validate import Rows, join, read, validate
from parallax.errors import BadEntry
from parallax.replication.record import Op
from parallax.replication.spec import TableSpec
from parallax.replication.window import Window

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Change:
    """One record to be: an operation and its rows."""

    op: Op
    tables: list[pa.Table]
    rows: int = 0
    size: int = 0


@dataclass(frozen=True, slots=True)
class Fill:
    """How full a table without index and limit is, which otherwise only grows."""

    rows: int = 0
    bytes: int = 0  # of Arrow buffers, as `pyarrow.Table.nbytes` counts

    def after(self, op: Op, tables: Sequence[pa.Table], spec: TableSpec) -> "Fill":
        """Return how full it is after an entry.

        Raises:
            BadEntry: that would be more than the spec allows.
        """
        before = self if op is Op.UPDATE else Fill()
        fill = Fill(
            before.rows + sum(table.num_rows for table in tables), before.bytes + sum(table.nbytes for table in tables)
        )
        for what, used, held, most in (
            ("max_rows", fill.rows, before.rows, spec.max_rows),
            ("max_bytes", fill.bytes, before.bytes, spec.max_bytes),
        ):
            if most is not None and used > most:
                raise BadEntry(
                    f"the table is full: it holds {held} of {most} ({what}) and this would make {used}; "
                    "clear or replace it, raise the bound, or give it a limit"
                )
        return fill


@dataclass(slots=True)
class Batch:
    """What one call of append carries: the changes in order, and what became of each entry."""

    changes: list[Change] = field(default_factory=list)
    carried: list[bytes] = field(default_factory=list)  # ids of entries that are in `changes`, or were duplicates
    refused: list[tuple[bytes, str]] = field(default_factory=list)  # (id, reason)
    producers: dict[str, int] = field(default_factory=dict)  # the highest seq of each producer in here
    rows: int = 0
    fill: Fill | None = None  # after these changes; None for tables that bound themselves


def make_batch(
    entries: Sequence[tuple[bytes, Sequence[bytes]]],
    spec: TableSpec,
    window: Window,
    limits: Limits,
    fill: Fill | None = None,
) -> Batch:
    """Validate entries (id, fields) and merge neighbours: updates that have the same columns become one change.

    Other neighbours are never merged: in Perspective a missing column keeps its value, and a null overwrites it. An entry
    is carried whole or refused whole. `window` is only read.
    """
    batch = Batch(fill=fill)
    alike: list[tuple[bytes, Entry, Rows]] = []
    waiting = size = 0  # rows and bytes in `alike`
    seen: dict[str, int] = {}  # each producer's highest seq in here, refused or not
    for entry_id, parts in entries:
        try:
            entry = Entry.read(parts, spec)
            if entry.producer is not None:
                if window.is_duplicate(entry.producer, entry.seq) or entry.seq <= seen.get(entry.producer, -1):
                    batch.carried.append(entry_id)
                    continue
                seen[entry.producer] = entry.seq
            rows = read(entry, spec, limits)
        except Exception as error:  # noqa: BLE001 - one entry's effect on its reader must not stop the table
            batch.refused.append((entry_id, _reason(error)))
            continue
        waiting += len(rows)
        size += len(entry.data)
        if alike and not (alike[-1][2].is_like(rows) and waiting <= limits.batch_rows and size <= limits.inline_max):
            _carry(batch, alike, spec, limits)
            alike, waiting, size = [], len(rows), len(entry.data)
        alike.append((entry_id, entry, rows))
    _carry(batch, alike, spec, limits)
    return batch


def _carry(batch: Batch, alike: list[tuple[bytes, Entry, Rows]], spec: TableSpec, limits: Limits) -> None:
    """Validate entries that are alike together; if that fails, one by one, so that only the culprits are refused."""
    if not alike:
        return
    try:
        tables = validate(join([rows for _, _, rows in alike]), spec)
        fill = None if batch.fill is None else batch.fill.after(alike[0][1].op, tables, spec)
    except Exception as error:  # noqa: BLE001 - as above
        if len(alike) > 1:
            for one in alike:
                _carry(batch, [one], spec, limits)
        else:
            batch.refused.append((alike[0][0], _reason(error)))
        return
    batch.fill = fill
    _add(batch, alike[0][1].op, tables, spec, limits)
    for entry_id, entry, _ in alike:
        batch.carried.append(entry_id)
        if entry.producer is not None:
            batch.producers[entry.producer] = entry.seq


def _reason(error: Exception) -> str:
    """Return why an entry is refused. Whatever one entry does to its reader, the table goes on."""
    if isinstance(error, BadEntry):
        return str(error)
    log.error("an entry could not be validated", exc_info=error)
    return f"could not be validated ({type(error).__name__}: {error}); please report this"


def _add(batch: Batch, op: Op, tables: list[pa.Table], spec: TableSpec, limits: Limits) -> None:
    if op is Op.CLEAR or (op is Op.REPLACE and not tables):
        batch.changes.append(Change(Op.CLEAR, []))
        return
    for table in tables:
        last = batch.changes[-1] if batch.changes else None
        size = table.get_total_buffer_size()
        if (
            last is not None
            and op is Op.UPDATE
            and last.op is Op.UPDATE
            and last.tables[0].schema == table.schema
            and last.rows + table.num_rows <= limits.batch_rows
            and last.size + size <= limits.inline_max
        ):
            last.tables.append(table)
        else:
            last = Change(op, [table])
            batch.changes.append(last)
        last.rows += table.num_rows
        last.size += size
        batch.rows += table.num_rows
        if op is Op.REPLACE:
            op = Op.UPDATE  # further rows of the same entry add to those that took the table's place


def payload(change: Change) -> bytes:
    """Return a change's rows as an Arrow IPC stream; nothing if it has none."""
    if not change.tables:
        return b""
    return encode(pa.concat_tables(change.tables) if len(change.tables) > 1 else change.tables[0])


def encode(table: pa.Table) -> bytes:
    """Return a table as an Arrow IPC stream of one batch."""
    sink = pa.BufferOutputStream()
    combined = table.combine_chunks()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(combined)
    return bytes(sink.getvalue())

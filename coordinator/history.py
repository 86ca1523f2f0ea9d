"""How a leader's part of a table's history begins, changes its schema, and ends.

Start and recovery are one thing: forget what was read, confirm the lease, bring the replica to the log's top by the replicas'
rule, and append a `begin` with that top as prev. Only if the log is empty, is that of a dropped table, or if nothing leads to its
top, does the leader give the state itself: chunks first, then one call appends the `begin` and sets the manifest to it.
"""

import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from coordinator.batch import Fill
from coordinator.log import Answer, Log
from coordinator.snapshots import Snapshots
from parallax.errors import CannotAlter, Forked, SteppedDown
from parallax.replica.replica import Held, Replica
from parallax.replication.events import BeatArrived
from parallax.replication.position import ORIGIN, Position, new_term
from parallax.replication.record import Op, Record
from parallax.replication.spec import TableSpec
from parallax.replication.window import Window

log = logging.getLogger(__name__)

COMPLAIN_SECONDS = 5.0
STRANDED_SECONDS = 1.5
"""For so long, and so at several looks, nothing in Redis must lead to the log's top before we give our own state."""


@dataclass(slots=True)
class Head:
    """Where the history stands for the one who appends; forgotten and found again after any doubt."""

    term: int
    top: Position
    window: Window
    spec: TableSpec
    fill: Fill | None = None

    def follow(self, op: Op, number: int = 1) -> Record:
        """Return the record that stands `number` after the top, in this term."""
        before = self.top if number == 1 else Position(self.term, self.top.offset + number - 1)
        return Record(op, Position(self.term, self.top.offset + number), before, time_ms=now_ms())


class History:
    """Begin, alter and drop one table.

    `confirm()` renews the lease, or raises SteppedDown. `defer(table, position)` raises SteppedDown if another coordinator has
    more to give than the state at `position`.
    """

    def __init__(
        self,
        log: Log,
        replica: Replica,
        snapshots: Snapshots,
        confirm: Callable[[], Awaitable[None]],
        defer: Callable[[str, Position], Awaitable[None]],
    ) -> None:
        self.lost = 0
        """How many records that we knew Redis has lost."""
        self._head: Head | None = None  # the last one, as far as its owner brought it
        self._log = log
        self._replica = replica
        self._snapshots = snapshots
        self._confirm = confirm
        self._defer = defer
        self._table = replica.keys.table

    async def begin(self, declared: TableSpec) -> Head:
        """Make this coordinator the one whose appends the log takes; `declared` counts only if there is no table yet.

        Raises:
            SteppedDown: the lease is another's, or a term above ours is in the log.
            Forked: the log moved meanwhile; begin again.
            one of STORE_ERRORS: Redis could not be asked; begin again.
        """
        await self._confirm()
        known = max(self._head.top if self._head else ORIGIN, self._replica.follower.highest)
        top, held = await self._catch_up()
        self._count_lost(known, top)
        if held.spec is None and held.position == top != ORIGIN:
            # A dropped table. Who knows the log goes on from it, others load the empty table.
            held = Held(top, declared, held.window)
            return await self._give(held, declared.arrow_schema.empty_table(), top, prev=top)
        if top == ORIGIN or held.position != top:
            await self._defer(self._table, held.position)
            await self._confirm()
            held, rows = await self._replica.export()
            if held.spec is not None and rows is not None:
                what = "its log is gone" if top == ORIGIN else f"nothing leads to its log's top {top}"
                log.warning("table %s: %s; giving back the state at %s", self._table, what, held.position)
                return await self._give(held, rows, top, prev=held.position)
            held = Held(ORIGIN, declared, Window())
            if top != ORIGIN:
                log.error("table %s: nothing leads to its log's top %s, and no coordinator has its rows", self._table, top)
                return await self._give(held, declared.arrow_schema.empty_table(), top, prev=None)
        begin = self._begin_record(held, top, prev=top)
        answer = await self._log.append(top, [begin])
        head = self._begun(answer, begin, held.window)
        if head.spec.index is None and head.spec.limit is None and top != ORIGIN:
            _, rows = await self._replica.export()
            head.fill = _fill(head.spec, rows)
        return head

    async def alter(self, head: Head, spec: TableSpec) -> Head:
        """Go on with another spec: in place if only its policy differs, else with the rows brought into the new shape.

        Raises:
            CannotAlter: the rows do not fit the new schema; nothing was changed.
        """
        if (spec.schema, spec.index, spec.limit) == (head.spec.schema, head.spec.index, head.spec.limit):
            begin = self._begin_record(Held(head.top, spec, head.window), head.top, prev=head.top)
            changed = self._begun(await self._log.append(head.top, [begin]), begin, head.window)
            changed.fill = head.fill
            return changed
        if not await self._bring_to(head.top):
            raise CannotAlter(f"table {self._table!r}: our own replica is not at the top; try again")
        held, rows = await self._replica.export()
        if held.position != head.top or rows is None:
            raise CannotAlter(f"table {self._table!r}: our own replica moved; try again")
        converted = convert(rows, head.spec, spec)
        return await self._give(Held(head.top, spec, head.window), converted, head.top, prev=None)

    async def drop(self, head: Head) -> None:
        """Append the record that ends the table, and trim the log to it.

        It carries the whole window: who comes to know of the table's past by this record alone can still tell a duplicate.
        """
        drop = replace(head.follow(Op.DROP), producers=dict(head.window.entries()))
        answer = await self._log.append(head.top, [drop])
        self._check(answer, head.term)
        await self._snapshots.discard(drop.position)
        log.info("table %s: dropped at %s", self._table, drop.position)

    async def _give(self, held: Held, rows: pa.Table, top: Position, prev: Position | None) -> Head:
        """Write a state's chunks, then append a `begin` and set the manifest to it in one call."""
        begin = self._begin_record(held, top, prev)
        manifest = await self._snapshots.write(held, rows, at=begin.position)
        answer = await self._log.append(top, [begin], manifest=manifest)
        head = self._begun(answer, begin, held.window)
        head.fill = _fill(manifest.spec, rows)
        return head

    def _begin_record(self, held: Held, top: Position, prev: Position | None) -> Record:
        term = new_term(now_ms(), max(held.position.term, top.term), secrets.randbits(20))
        before = top if prev is None else prev
        return Record(Op.BEGIN, Position(term, before.offset + 1), prev, spec=held.spec, time_ms=now_ms())

    def _count_lost(self, known: Position, top: Position) -> None:
        """Say which records we knew and Redis no longer has. The entries that it still has come again."""
        if known <= top:
            return
        count = max(0, known.offset - top.offset)
        self.lost += count
        log.error(
            "table %s: Redis lost %d records, %s to %s: its log ends at %s",
            *(self._table, count, f"offset {top.offset + 1}", known, top),
        )

    def _begun(self, answer: Answer, begin: Record, window: Window) -> Head:
        self._check(answer, begin.position.term)
        assert begin.spec is not None
        log.info("table %s: began term %d at %s", self._table, begin.position.term, begin.position)
        self._head = Head(begin.position.term, begin.position, window.copy(), begin.spec, _fill(begin.spec, None))
        return self._head

    def _check(self, answer: Answer, term: int) -> None:
        check(self._table, answer, term)

    async def _catch_up(self) -> tuple[Position, Held]:
        """Bring our replica to the log's true top, and return the top (ORIGIN: there is no log) and what the replica holds.

        It holds another position than the top if nothing in Redis leads there.
        """
        complain_at = time.monotonic() + COMPLAIN_SECONDS
        stranded_at: float | None = None
        while True:
            top = await self._log.top()
            if top == ORIGIN or await self._bring_to(top):
                async with self._replica.at_rest() as held:
                    if top in (ORIGIN, held.position):
                        return top, Held(held.position, held.spec, held.window.copy())
                continue
            newest = await self._log.newest()
            if newest is not None and newest.op is Op.DROP and newest.position == top:
                return top, Held(top, None, Window(newest.producers.items()))  # nothing leads to it; it says all
            now = time.monotonic()
            if not self._replica.follower.is_stranded:
                stranded_at = None
            elif stranded_at is None:
                stranded_at = now
            elif now - stranded_at > STRANDED_SECONDS:
                async with self._replica.at_rest() as held:
                    return top, Held(held.position, held.spec, held.window.copy())
            if now > complain_at:
                problem = self._replica.error or "it is behind"
                log.warning("table %s: cannot reach the log's top %s: %s", self._table, top, problem)
                complain_at = now + COMPLAIN_SECONDS
            await self._confirm()

    async def _bring_to(self, top: Position) -> bool:
        self._replica.tell(BeatArrived(top))
        return await self._replica.reached(top, 1.0)


def _fill(spec: TableSpec, rows: pa.Table | None) -> Fill | None:
    if spec.index is not None or spec.limit is not None:
        return None
    return Fill() if rows is None else Fill(rows.num_rows, rows.nbytes)


def check(table: str, answer: Answer, term: int) -> None:
    """Raise what a refused append means for one who leads in `term`."""
    if answer.is_appended:
        return
    if answer.top.term > term:
        raise SteppedDown(f"table {table!r}: term {answer.top.term} is in the log, above our {term}")
    raise Forked(f"table {table!r}: the log's top is {answer.top}, not ours: Redis lost a part of it, or another appended")


def convert(rows: pa.Table, old: TableSpec, new: TableSpec) -> pa.Table:
    """Bring rows into another schema: columns that are new are null, those that are gone are lost, others must fit exactly.

    Raises:
        CannotAlter: a value does not fit, or the new index has nulls or duplicates.
    """
    columns = []
    for field in new.arrow_schema:
        if field.name not in old.columns:
            columns.append(pa.nulls(rows.num_rows, field.type))
            continue
        column = rows.column(field.name)
        if pa.types.is_string(field.type) != pa.types.is_string(column.type):
            raise CannotAlter(f"column {field.name!r}: {column.type} rows cannot become {field.type}; drop the column first")
        try:
            columns.append(column.cast(field.type, safe=True))
        except pa.ArrowException as error:
            raise CannotAlter(f"column {field.name!r}: {str(error).splitlines()[0]}") from error
    table = pa.Table.from_arrays(columns, schema=new.arrow_schema)
    if new.index is not None:
        keys = table.column(new.index)
        if keys.null_count or pc.count_distinct(keys).as_py() != table.num_rows:
            raise CannotAlter(f"column {new.index!r} has nulls or duplicates, so it cannot become the index")
        table = table.sort_by(new.index)
    return table.slice(max(0, table.num_rows - new.limit)) if new.limit else table


def now_ms() -> int:
    """Return the clock in milliseconds: for terms, which only need it to grow most of the time, and for people."""
    return int(time.time() * 1000)

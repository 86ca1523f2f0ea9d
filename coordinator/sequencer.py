"""Gives one table's entries their place in history, while this coordinator leads.

Start and recovery are one thing: forget what was read, confirm the lease, bring the replica to the log's top by the replicas'
rule, and append a `begin` with that top as prev. It is done on taking the lease, and after any answer to an append but "yes".
An append is never sent twice.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from coordinator.batch import Batch, Limits, make_batch, payloads
from coordinator.snapshots import Snapshots
from parallax.errors import Forked, SteppedDown
from parallax.replica.replica import Replica
from parallax.replication.follower import BeatArrived
from parallax.replication.position import ORIGIN, Position, new_term
from parallax.replication.record import Op, Record
from parallax.replication.snapshot import Manifest
from parallax.replication.spec import TableSpec
from parallax.replication.window import Window
from parallax.store import STORE_ERRORS, load_script, text

log = logging.getLogger(__name__)

BEAT_SECONDS = 1.0
INLINE_BYTES = 1 << 16  # batches below this are validated on the event loop; larger ones in a thread
RETRY_SECONDS = 0.2
CATCH_UP_SECONDS = 5.0
LAST_ID = f"{2**64 - 1}-{2**64 - 1}"


@dataclass(slots=True)
class Counts:
    """What a sequencer did since this process started."""

    entries: int = 0
    records: int = 0
    rows: int = 0
    refused: int = 0
    begins: int = 0
    fenced: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """What `append.lua` said."""

    is_appended: bool
    top: Position
    is_wanted: bool = False
    is_verify_asked: bool = False
    manifest: str = ""  # held, unheld, none


@dataclass(slots=True)
class Head:
    """Where the history stands for the one who appends; forgotten and found again after any doubt."""

    term: int
    top: Position
    window: Window
    spec: TableSpec


class Sequencer:
    """Append to one table's log. `confirm()` renews the lease, or raises SteppedDown."""

    def __init__(
        self,
        redis: "Redis",
        replica: Replica,
        spec: TableSpec,
        snapshots: Snapshots,
        owner: str,
        confirm: Callable[[], Awaitable[None]],
        limits: Limits | None = None,
        verify_seconds: float = 0.0,
        rejected_cap: int = 1000,
    ) -> None:
        self.spec = spec
        self.counts = Counts()
        self.backlog = 0
        self.top: Position | None = None
        self._has_begun = False  # a `begin` of ours is in the log, and nothing contradicted it since
        self._is_verify_asked = False
        self._keys = replica.keys
        self._redis = redis
        self._replica = replica
        self._snapshots = snapshots
        self._owner = owner
        self._confirm = confirm
        self._limits = limits or Limits()
        self._verify_seconds = verify_seconds
        self._rejected_cap = rejected_cap
        self._beats = 0
        self._append_script = load_script(redis, "coordinator", "append.lua")
        self._page_script = load_script(redis, "parallax.replica", "page.lua")
        self._take_script = load_script(redis, "coordinator", "take.lua")

    @property
    def is_leading(self) -> bool:
        """Say whether our `begin` is in the log, and our own heartbeat came back over the feed."""
        return self._has_begun and (self._replica.sender_heard or "").startswith(f"{self._owner}:")

    async def run(self) -> None:
        """Lead this table until cancelled, or until the right to is lost.

        Raises:
            SteppedDown: another one leads.
        """
        try:
            while True:
                try:
                    head = await self._begin()
                    await self._sequence(head)
                except (*STORE_ERRORS, Forked) as error:
                    log.warning("table %s: %s; starting over", self._keys.table, error)
                self._has_begun = False
                await asyncio.sleep(RETRY_SECONDS)
        finally:
            self._has_begun = False

    # Start and recovery --------------------------------------------------------------------------------------------

    async def _begin(self) -> Head:
        await self._confirm()
        top = await self._catch_up()
        async with self._replica.at_rest() as held:
            position, window, spec = held.position, held.window.copy(), held.spec
        highest = max(position.term, top.term)
        term = new_term(int(time.time() * 1000), highest, secrets.randbits(20))
        if top == ORIGIN and position != ORIGIN:
            return await self._give_back(term, position)
        if top != position:
            raise SteppedDown(f"table {self._keys.table!r}: the replica stands at {position}, the log's top is {top}")
        begin = Record(
            Op.BEGIN,
            Position(term, top.offset + 1),
            prev=top,
            spec=self._declared(spec),
            time_ms=int(time.time() * 1000),
        )
        answer = await self._append(top, [begin])
        head = self._started(answer, begin, window)
        self._snapshots.weigh(await self._redis.memory_usage(self._keys.log) or 0)
        return head

    def _declared(self, held: TableSpec | None) -> TableSpec:
        """Return the spec to begin with: what the file declares, as far as rows that are there fit it."""
        if held is None or (
            held.schema == self.spec.schema and (held.index, held.limit) == (self.spec.index, self.spec.limit)
        ):
            return self.spec
        log.error("table %s: the declared schema is not the one of its history; going on with that one", self.spec.name)
        return held

    def _started(self, answer: Answer, begin: Record, window: Window) -> Head:
        if not answer.is_appended:
            self._fenced(answer, begin.position.term)
        self.counts.begins += 1
        self._has_begun = True
        self.top = answer.top
        assert begin.spec is not None
        log.info("table %s: began term %d at %s", self._keys.table, begin.position.term, begin.position)
        return Head(begin.position.term, begin.position, window, begin.spec)

    async def _catch_up(self) -> Position:
        """Bring our replica to the log's true top, and return it; ORIGIN if there is no log."""
        deadline = time.monotonic() + CATCH_UP_SECONDS
        while True:
            top = await self._true_top()
            if top == ORIGIN:
                return top
            self._replica.tell(BeatArrived(top))
            if await self._replica.reached(top, 1.0):
                return top
            if time.monotonic() > deadline:
                log.warning(
                    "table %s: cannot reach the log's top %s yet: %s", self._keys.table, top, self._replica.error or "behind"
                )
                await self._confirm()
                deadline = time.monotonic() + CATCH_UP_SECONDS

    async def _true_top(self) -> Position:
        top, _ = await self._page_script(keys=[self._keys.log], args=[LAST_ID, 0])
        return Position.parse(top) if top else ORIGIN

    async def _give_back(self, term: int, position: Position) -> Head:
        """The log is gone, but our state is not: make the log begin with it."""
        held, rows = await self._replica.export()
        if held.position != position or held.spec is None or rows is None:
            raise SteppedDown(f"table {self._keys.table!r}: the replica moved while its state was given back")
        begin = Record(
            Op.BEGIN, Position(term, position.offset + 1), prev=position, spec=held.spec, time_ms=int(time.time() * 1000)
        )
        manifest = await self._snapshots.write(held, rows, at=begin.position)
        answer = await self._append(ORIGIN, [begin], manifest=manifest)
        log.warning(
            "table %s: its log was gone; gave back the state at %s (%d rows)", self._keys.table, position, rows.num_rows
        )
        return self._started(answer, begin, held.window)

    def _fenced(self, answer: Answer, term: int) -> None:
        self.counts.fenced += 1
        if answer.top.term > term:
            raise SteppedDown(f"table {self._keys.table!r}: term {answer.top.term} is in the log, above our {term}")
        raise Forked(f"table {self._keys.table!r}: the log's top is {answer.top}, not ours: Redis lost a part of it")

    # Sequencing ----------------------------------------------------------------------------------------------------

    async def _sequence(self, head: Head) -> None:
        beat_at = time.monotonic()
        verify_at = time.monotonic() + self._verify_seconds if self._verify_seconds else float("inf")
        while True:
            now = time.monotonic()
            if self._is_verify_asked or now >= verify_at:
                self._is_verify_asked, verify_at = False, now + (self._verify_seconds or float("inf"))
                await self._advance(head, [self._record(head, Op.VERIFY, b"", 0, {}, 1)])
            if now >= beat_at:
                self._beats += 1
                await self._advance(head, [])
                beat_at = now + BEAT_SECONDS
                if self._is_verify_asked:
                    continue
            entries, self.backlog = await self._take()
            if not entries:
                await self._wait(max(0.001, min(beat_at - time.monotonic(), BEAT_SECONDS)))
                continue
            await self._carry(head, entries)

    async def _take(self) -> tuple[list[tuple[bytes, Sequence[bytes]]], int]:
        entries, backlog = await self._take_script(
            keys=[self._keys.ingest], args=[self._limits.batch_entries, self._limits.batch_bytes]
        )
        return [(entry[0], entry[1]) for entry in entries], int(backlog)

    async def _wait(self, seconds: float) -> None:
        """Wait until ingest holds something, or until the time is up."""
        await self._redis.xread({self._keys.ingest: "0-0"}, count=1, block=max(1, int(seconds * 1000)))

    async def _carry(self, head: Head, entries: list[tuple[bytes, Sequence[bytes]]]) -> None:
        size = sum(len(part) for _, parts in entries for part in parts)
        if size < INLINE_BYTES:
            batch, made = self._make(head, entries)
        else:
            batch, made = await asyncio.to_thread(self._make, head, entries)
        records: list[Record] = []
        for number, (op, data, rows) in enumerate(made):
            producers = batch.producers if number == len(made) - 1 else {}
            records.append(self._record(head, op, data, rows, producers, number + 1))
        await self._advance(head, records, batch)
        head.window.advance(batch.producers)
        self.counts.entries += len(entries)
        self.counts.rows += batch.rows
        self.counts.refused += len(batch.refused)
        for entry_id, reason in batch.refused[:3]:
            log.warning("table %s: refused entry %s: %s", self._keys.table, text(entry_id), reason)
        if len(batch.refused) > 3:
            log.warning("table %s: refused %d more entries", self._keys.table, len(batch.refused) - 3)

    def _make(self, head: Head, entries: list[tuple[bytes, Sequence[bytes]]]) -> tuple[Batch, list[tuple[Op, bytes, int]]]:
        batch = make_batch(entries, head.spec, head.window, self._limits)
        return batch, [made for change in batch.changes for made in payloads(change, self._limits)]

    def _record(self, head: Head, op: Op, data: bytes, rows: int, producers: dict[str, int], number: int) -> Record:
        """Return the record that stands `number` after the head's top."""
        before = head.top if number == 1 else Position(head.term, head.top.offset + number - 1)
        position = Position(head.term, head.top.offset + number)
        return Record(op, position, before, data, rows, producers=producers, time_ms=int(time.time() * 1000))

    async def _advance(self, head: Head, records: list[Record], batch: Batch | None = None) -> None:
        answer = await self._append(head.top, records, batch)
        if not answer.is_appended:
            self._fenced(answer, head.term)
        head.top = self.top = answer.top
        self._is_verify_asked |= answer.is_verify_asked
        if answer.is_wanted or answer.manifest != "held" or self._snapshots.is_due():
            self._snapshots.request()

    async def _append(
        self, expected: Position, records: Sequence[Record], batch: Batch | None = None, manifest: Manifest | None = None
    ) -> Answer:
        """Call `append.lua` once. Whatever happens to the answer, the call is not repeated."""
        arguments: list[Any] = [str(expected), self._keys.feed, f"{self._owner}:{self._beats}", self._rejected_cap]
        arguments.append(len(records))
        for record in records:
            arguments += (str(record.position), record.encode())
        carried = batch.carried if batch else []
        refused = batch.refused if batch else []
        arguments += (len(carried), *carried, len(refused))
        for entry_id, reason in refused:
            arguments += (entry_id, reason)
        if manifest is None:
            arguments += ("", "")
        else:
            names = [self._keys.chunk(manifest.snapshot, number) for number in range(manifest.chunks)]
            arguments += (str(manifest.position), manifest.encode(), len(names), *names)
        keys = self._keys
        names = [keys.log, keys.ingest, keys.rejected, keys.manifest, keys.want, keys.verify]
        yes, top, wanted, verify, held = await self._append_script(keys=names, args=arguments)
        if text(yes) == "yes":
            self.counts.records += len(records)
            self._snapshots.weigh(sum(len(record.payload) + 200 for record in records))
        return Answer(text(yes) == "yes", Position.parse(top), bool(wanted), bool(verify), text(held))

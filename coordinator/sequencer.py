"""Gives one table's entries their place in history, while this coordinator leads.

One loop, one call to Redis in flight: while an append is under way everything that arrives gathers in ingest for the next.
After any answer but "yes" it begins afresh (`history`). An append is never sent twice.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from redis.asyncio import Redis

from coordinator.batch import Batch, Limits, make_batch, payload
from coordinator.history import Head, History, check
from coordinator.log import Log
from coordinator.snapshots import Snapshots
from parallax.errors import CannotAlter, Forked, SteppedDown
from parallax.replica.replica import Replica
from parallax.replication.position import Position
from parallax.replication.record import Op, Record
from parallax.replication.spec import TableSpec
from parallax.store import STORE_ERRORS, load_script, text

log = logging.getLogger(__name__)

BEAT_SECONDS = 1.0
INLINE_BYTES = 1 << 16  # batches below this are validated on the event loop; larger ones in a thread
RETRY_SECONDS = 0.2
DEADLY = 2  # so many attempts at one entry alone that came to nothing make it suspect of killing its reader
MOST_AGE_MS = 24 * 3600 * 1000
FIELDS_BYTES = 1000  # of an entry's fields besides its data
SHOWN_REFUSALS = 3  # of one batch, in the program's log; all are in `rejected`


def accepted_ms(entry_id: bytes, now_ms: int) -> int:
    """Return when Redis took an entry, by its own clock; 0 if its id, which a publisher may choose, cannot be that."""
    added = int(entry_id.partition(b"-")[0])
    return added if now_ms - MOST_AGE_MS < added <= now_ms + 1000 else 0


@dataclass(slots=True)
class Counts:
    """What a sequencer did since it was started."""

    entries: int = 0
    records: int = 0
    rows: int = 0
    bytes: int = 0  # of records, about
    refused: int = 0
    begins: int = 0
    forks: int = 0


class Sequencer:
    """Append to one table's log."""

    def __init__(
        self,
        redis: "Redis",
        log: Log,
        history: History,
        replica: Replica,
        snapshots: Snapshots,
        spec: TableSpec,
        owner: str,
        limits: Limits,
        verify_seconds: float = 0.0,
        redis_time: Callable[[], float] = time.time,
        observe: Callable[[str, float], None] = lambda what, seconds: None,
    ) -> None:
        self._wanted: TableSpec | None = spec  # None: it shall be dropped
        self._spec = spec  # the last wish but for that
        self._is_dropped = False
        self.problem: str | None = None
        """Why the table does not have the spec that it was last wished."""
        self._unwanted: TableSpec | None = None  # the spec that `problem` is about: not tried again until another was wished
        self.counts = Counts()
        self.backlog = 0
        self.head: Head | None = None
        """Where we append; None while we cannot."""
        self._redis = redis
        self._log = log
        self._history = history
        self._replica = replica
        self._snapshots = snapshots
        self._owner = owner
        self._limits = limits
        self._verify_seconds = verify_seconds
        self._redis_time, self._observe = redis_time, observe
        self._keys = replica.keys
        self._take_script = load_script(redis, "coordinator", "take.lua")

    @property
    def is_leading(self) -> bool:
        """Say whether our `begin` is in the log, and our own heartbeat came back over the feed."""
        return self.head is not None and (self._replica.sender_heard or "").startswith(f"{self._owner}:")

    def wish(self, spec: TableSpec | None) -> None:
        """Make the table have another spec, or drop it; soon. `problem` says if that cannot be."""
        is_known_to_fail = self.problem is not None and spec == self._unwanted
        if spec != self._wanted and not is_known_to_fail:
            self._wanted = spec
            self._spec = spec or self._spec
            self._unwanted = self.problem = None

    @property
    def lost(self) -> int:
        """How many records that we knew Redis has lost."""
        return self._history.lost

    async def run(self) -> None:
        """Lead this table until cancelled, until the right to is lost, or until it is dropped.

        Raises:
            SteppedDown: another one leads, or shall.
        """
        heals = self._replica.heals
        try:
            while not self._is_dropped:
                try:
                    self.head = await self._history.begin(self._spec)
                    self.counts.begins += 1
                    await self._forgive()
                    self._snapshots.weigh(await self._redis.memory_usage(self._keys.log) or 0)
                    await self._sequence(heals)
                except (*STORE_ERRORS, Forked) as error:
                    self.counts.forks += isinstance(error, Forked)
                    log.warning("table %s: %s; starting over", self._keys.table, error)
                    self.head = None
                    await asyncio.sleep(RETRY_SECONDS)
        finally:
            self.head = None

    def _verify_pause(self, least: float, most: float) -> float:
        """Return seconds until the next verify, drawn for each table so that they do not all verify at once."""
        return self._verify_seconds * random.uniform(least, most) if self._verify_seconds else float("inf")

    async def _sequence(self, heals: int) -> None:
        beat_at = time.monotonic()
        verify_at = beat_at + self._verify_pause(0.0, 1.0)
        while self.head is not None and not self._is_dropped:
            now = time.monotonic()
            if self._wanted != self.head.spec:
                await self._follow_wish(self.head)
                continue
            if self._replica.heals != heals:
                raise SteppedDown(f"table {self._keys.table!r}: a verify found our own replica to be wrong")
            if self._log.is_verify_asked or now >= verify_at:
                self._log.is_verify_asked, verify_at = False, now + self._verify_pause(0.9, 1.1)
                await self._advance(self.head, [self.head.follow(Op.VERIFY)])
            if now >= beat_at:
                beat_at = now + BEAT_SECONDS
                if self._replica.follower.is_stranded:
                    raise Forked(
                        f"table {self._keys.table!r}: nothing leads our own replica to the log's top {self.head.top}"
                    )
                await self._advance(self.head, [])
                continue
            entries, tried = await self._take()
            if entries and tried >= DEADLY:
                await self._refuse_unread(self.head, entries[0][0])
            elif entries:
                await self._carry(self.head, entries)
            else:
                await self._wait(min(beat_at, verify_at) - time.monotonic())

    async def _follow_wish(self, head: Head) -> None:
        """Make the table what it shall be."""
        if self._wanted is None:
            await self._history.drop(head)
            self._is_dropped = True
            return
        try:
            self.head = await self._history.alter(head, self._wanted)
            self.problem = None
        except CannotAlter as error:
            log.error("table %s: cannot be altered: %s", self._keys.table, error)
            self.problem, self._unwanted = str(error), self._wanted
            self._wanted = head.spec

    async def _take(self) -> tuple[list[tuple[bytes, Sequence[bytes] | int]], int]:
        """Return entries (of one that is too large only its size), and how often the first was tried alone before, in vain."""
        limits = self._limits
        entries, backlog, tried = await self._take_script(
            keys=[self._keys.ingest, self._keys.trying],
            args=[limits.batch_entries, limits.batch_bytes, limits.max_entry_bytes + FIELDS_BYTES, self._owner],
        )
        self.backlog = int(backlog)
        return [(entry[0], entry[1]) for entry in entries], int(tried)

    async def _forgive(self) -> None:
        """Forget what was given out to us and never appended: it has not killed us."""
        owner = await self._redis.hget(self._keys.trying, "owner")
        if owner is not None and text(owner) == self._owner:
            await self._redis.delete(self._keys.trying)

    async def _refuse_unread(self, head: Head, entry_id: bytes) -> None:
        """Refuse an entry without looking at it."""
        reason = f"its reader died {DEADLY} times while it was tried alone; it was not read again"
        await self._advance(head, [], Batch(refused=[(entry_id, reason)]))
        self.counts.refused += 1
        self._say_refused([(entry_id, reason)])

    async def _wait(self, seconds: float) -> None:
        """Wait until ingest holds something, or until the time is up."""
        if seconds > 0:
            await self._redis.xread({self._keys.ingest: "0-0"}, count=1, block=max(1, int(seconds * 1000)))

    async def _carry(self, head: Head, taken: list[tuple[bytes, Sequence[bytes] | int]]) -> None:
        entries = [(entry_id, parts) for entry_id, parts in taken if not isinstance(parts, int)]
        oversized = [(entry_id, parts) for entry_id, parts in taken if isinstance(parts, int)]
        size = sum(len(part) for _, parts in entries for part in parts)
        if size < INLINE_BYTES:
            batch, records = self._make(head, entries)
        else:
            batch, records = await asyncio.to_thread(self._make, head, entries)
        most = self._limits.max_entry_bytes
        batch.refused += [
            (
                entry_id,
                f"the entry has {size} bytes; at most {most} are allowed (PARALLAX_MAX_ENTRY_BYTES): send it in parts",
            )
            for entry_id, size in oversized
        ]
        await self._advance(head, records, batch)
        head.window.advance(batch.producers)
        head.fill = batch.fill
        self.counts.entries += len(taken)
        self.counts.rows += batch.rows
        self.counts.refused += len(batch.refused)
        self._say_refused(batch.refused)

    def _make(self, head: Head, entries: list[tuple[bytes, Sequence[bytes]]]) -> tuple[Batch, list[Record]]:
        batch = make_batch(entries, head.spec, head.window, self._limits, head.fill)
        encoded = [payload(change) for change in batch.changes]
        now_ms = int(self._redis_time() * 1000)
        records = [
            replace(head.follow(change.op, number), payload=data, rows=change.rows, time_ms=now_ms)
            for number, (change, data) in enumerate(zip(batch.changes, encoded, strict=True), start=1)
        ]
        if records:
            records[-1] = replace(records[-1], producers=batch.producers)
            records[0] = replace(records[0], accepted_ms=accepted_ms(batch.carried[0], now_ms))
        return batch, records

    async def _advance(self, head: Head, records: list[Record], batch: Batch | None = None) -> None:
        started = time.monotonic()
        answer = await self._log.append(
            head.top, records, carried=batch.carried if batch else (), refused=batch.refused if batch else ()
        )
        self._observe("append", time.monotonic() - started)
        check(self._keys.table, answer, head.term)
        head.top = answer.top
        self.counts.records += len(records)
        if records and records[0].accepted_ms:
            self._observe("sequence", max(0, records[0].time_ms - records[0].accepted_ms) / 1000)
        size = sum(len(record.payload) + 200 for record in records)
        self.counts.bytes += size
        self._snapshots.weigh(size)
        if answer.used_percent:
            self._snapshots.relieve(answer.used_percent)
        if answer.is_snapshot_wanted or self._snapshots.is_due():
            self._snapshots.request()

    def _say_refused(self, refused: list[tuple[bytes, str]]) -> None:
        for entry_id, reason in refused[:SHOWN_REFUSALS]:
            log.warning("table %s: refused entry %s: %s", self._keys.table, text(entry_id), reason)
        if len(refused) > SHOWN_REFUSALS:
            log.warning("table %s: refused %d more entries", self._keys.table, len(refused) - SHOWN_REFUSALS)

    @property
    def top(self) -> Position | None:
        """The newest position that we know to be in the log."""
        return None if self.head is None else self.head.top

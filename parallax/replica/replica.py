"""One replica of one table: the shell that performs what its follower decides."""

import asyncio
import logging
import random
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from redis.asyncio import Redis

from parallax.errors import BadRecord, ChunksGone, EngineRefused, SnapshotUnusable
from parallax.replica.digest import Digester
from parallax.replica.engine import EngineTable
from parallax.replica.feed import Feed, Inbox
from parallax.replica.pacing import Pacing
from parallax.replica.source import Source
from parallax.replication import events as e
from parallax.replication import follower as f
from parallax.replication.follower import DISTRUST_SECONDS
from parallax.replication.keys import TableKeys
from parallax.replication.position import ORIGIN, Position
from parallax.replication.record import Heartbeat, Op, Record, decode_message
from parallax.replication.snapshot import Manifest
from parallax.replication.spec import TableSpec
from parallax.replication.verdict import Digest, Verdict
from parallax.replication.window import Window
from parallax.store import STORE_ERRORS, text

log = logging.getLogger(__name__)

TICK_SECONDS = 0.1
HEAL_SECONDS = 2 * DISTRUST_SECONDS
VERIFIED = 64


@dataclass(frozen=True, slots=True)
class Held:
    """What a replica holds at one position: its rows are the engine's at this moment."""

    position: Position
    spec: TableSpec | None  # None: nothing, or a dropped table
    window: Window


class Replica:
    """Keep one table equal to its log, in the engine.

    `on_change(replica)` is called after the state, the spec or the generation of the table changed.
    """

    def __init__(
        self,
        redis: "Redis",
        feed: Feed,
        keys: TableKeys,
        table: EngineTable,
        on_change: Callable[["Replica"], None],
        pacing: Pacing,
    ) -> None:
        self.keys = keys
        self.table = table
        self.follower = f.Follower()
        self.applied = ORIGIN
        """The position whose state the engine holds (or has queued, in order)."""
        self.window = Window()
        self.digest: Digest | None = None
        """The last digest that a `verify` record made this replica compute. It is computed once for each: who starts again, and
        comes upon the same record, still stands by what he said, or nobody would learn that he was wrong."""
        self._verified: deque[Position] = deque(maxlen=VERIFIED)
        self.verdict: Verdict | None = None
        """How this replica stood to the others, the last time that digests were compared."""
        self.verdicts: Counter[Verdict] = Counter()
        """How often it stood to them in which way."""
        self.heals = 0
        """How often it was found to be wrong, and began to start again from a snapshot."""
        self.loaded = ORIGIN
        """The position of the snapshot that was loaded last; digests up to there are of what was held before."""
        self.error: str | None = None
        """The last thing that kept this replica from its top, for people."""
        self.is_held = False
        """Whether the table is quarantined: the engine is not given its rows any more, since they ended processes."""
        self.records = 0
        self.sender_heard: str | None = None
        self._heard_at = time.monotonic()
        self._at_work_since: float | None = None  # with what came over the feed
        self._feed = feed
        self._pacing = pacing
        self._on_change = on_change
        self._state_lock = asyncio.Lock()  # held while engine, applied and window move together
        self._events: deque[e.Event] = deque()
        self._inbox: Inbox | None = None
        self._moved = asyncio.Condition()
        self._source = Source(redis, keys)

    @property
    def state(self) -> f.State:
        """How this replica stands to its log."""
        return f.State.FAILED if self.is_held else self.follower.state

    @property
    def spec(self) -> TableSpec | None:
        """The table's spec, None while there is no table."""
        return self.table.spec

    @property
    def is_dropped(self) -> bool:
        """Say whether the log says that there is no such table."""
        return self.spec is None and self.applied != ORIGIN

    @property
    def lag_seconds(self) -> float:
        """For how long, by this process's clock, something is known to be there that the engine does not have; 0 at the top."""
        waiting = None if self._inbox is None else self._inbox.waiting_since
        known = [since for since in (self.follower.behind_since, self._at_work_since, waiting) if since is not None]
        return time.monotonic() - min(known) if known else 0.0

    @property
    def silence_seconds(self) -> float:
        """How long nothing came over the feed; the leader sends at least a heartbeat each second."""
        return time.monotonic() - self._heard_at

    # Running -------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Follow the log until cancelled."""
        self._inbox = inbox = await self._feed.add(self.keys.feed)
        try:
            while True:
                await inbox.wait(TICK_SECONDS)
                before = (self.state, self.spec, self.table.generation)
                commands: deque[e.Command] = deque()
                self._at_work_since = arrived_at = inbox.waiting_since
                for message in inbox.take():
                    commands += self._handle(self._event(message, arrived_at or 0.0))
                while self._events:
                    commands += self._handle(self._events.popleft())
                commands += self._handle(e.Ticked())
                await self._perform(commands)
                self._at_work_since = None
                if self.table.stages is not None:
                    self.table.stages.given_up()
                async with self._moved:
                    self._moved.notify_all()
                if before != (self.state, self.spec, self.table.generation):
                    self._on_change(self)
        finally:
            await self._feed.remove(self.keys.feed)

    def tell(self, event: e.Event) -> None:
        """Hand the follower an event from outside the feed."""
        self._events.append(event)
        if self._inbox is not None:
            self._inbox.wake()

    @property
    def is_healing(self) -> bool:
        """Say whether this replica was found to be wrong, and is not at the top again; after so long it counts as well as it is."""
        since = self.follower.diverged_at
        return since is not None and time.monotonic() < since + HEAL_SECONDS

    def heal(self, since: Position) -> None:
        """Start again from a snapshot, taken at `since` or later if there is one: what is held is wrong."""
        self.heals += 1
        self.tell(e.DivergenceFound(since))

    async def reached(self, position: Position, seconds: float) -> bool:
        """Wait until the engine holds the state at exactly `position`; False if that takes longer than `seconds`."""
        try:
            async with asyncio.timeout(seconds), self._moved:
                await self._moved.wait_for(lambda: self.applied == position == self.follower.position)
        except TimeoutError:
            return False
        return True

    async def reaches(self, position: Position, seconds: float) -> bool:
        """Wait until the engine holds the state at `position`, or one that came later; False if that takes longer than `seconds`.

        After a loss of Redis's data nobody can tell later from earlier: where a smaller term began anew, this waits in vain.
        """
        deadline = time.monotonic() + seconds
        while self.applied < position:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            await self.moved(left)
        return True

    async def moved(self, seconds: float) -> None:
        """Wait until the replica has looked at what came, or for so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds), self._moved:
                await self._moved.wait()

    @asynccontextmanager
    async def at_rest(self) -> AsyncIterator[Held]:
        """Hold the replica still, and say where it stands. Reads of the engine go on."""
        async with self._state_lock:
            yield Held(self.applied, self.spec, self.window)

    async def export(self) -> tuple[Held, pa.Table | None]:
        """Return where the replica stands, with a copy of the window, and all rows at that position."""
        async with self.at_rest() as held:
            rows = None if held.spec is None else await self.table.export()
            return Held(held.position, held.spec, held.window.copy()), rows

    def _handle(self, event: e.Event) -> list[e.Command]:
        return self.follower.handle(event, now=time.monotonic(), luck=random.random())

    def _event(self, message: bytes | None, arrived_at: float) -> e.Event:
        if message is None:
            return e.Subscribed()
        self._heard_at = arrived_at
        try:
            decoded = decode_message(message)
        except BadRecord as error:
            self._note(f"a message on the feed: {error}")
            return e.Unreadable()
        if isinstance(decoded, Heartbeat):
            self.sender_heard = decoded.sender
            return e.BeatArrived(decoded.top)
        if self.table.stages is not None:
            self.table.stages.received(decoded, arrived_at)
        return e.RecordArrived(decoded)

    # Performing ----------------------------------------------------------------------------------------------------

    async def _perform(self, commands: deque[e.Command]) -> None:
        while commands:
            match commands.popleft():
                case e.Apply(record):
                    records = [record]
                    while commands and isinstance(commands[0], e.Apply):
                        records.append(commands.popleft().record)  # type: ignore[union-attr]
                    failure = await self._apply(records)
                    if failure is not None:
                        remaining = [command for command in commands if not isinstance(command, e.Apply)]
                        commands = deque([*remaining, *self._handle(failure)])
                case e.ReadLog(start):
                    commands += self._handle(await self._read_log(start))
                case e.ReadManifest():
                    commands += self._handle(await self._read_manifest())
                case e.LoadSnapshot(manifest):
                    commands += self._handle(await self._load_snapshot(manifest))
                case e.SetWant():
                    await self._set_want()
                case e.Resubscribe():
                    self._feed.resubscribe(self.keys.feed)

    async def _apply(self, records: list[Record]) -> e.Event | None:
        """Apply records in order; those that change rows go to the engine together. Return what went wrong, if anything."""
        changes: list[tuple[Record, bytes]] = []
        try:
            payloads = [await self._source.payload(record) for record in records]
        except (ChunksGone, *STORE_ERRORS) as error:
            self._note(f"a record's payload cannot be read: {error}")
            return e.PayloadMissing(self.applied, is_gone=isinstance(error, ChunksGone))
        verifies = [record.position for record in records if record.op is Op.VERIFY]
        async with self._state_lock:
            try:
                for record, payload in zip(records, payloads, strict=True):
                    if record.position in verifies[:-1]:
                        continue  # who reads the log has much to catch up with: nobody waits for his old digests
                    if record.op in (Op.BEGIN, Op.VERIFY, Op.DROP):
                        await self._apply_changes(changes)
                        self.table.work.position = text(record.position)
                        await self._apply_control(record)
                    else:
                        changes.append((record, payload))
                await self._apply_changes(changes)
            except EngineRefused as error:
                self._note(str(error))
                self.applied = ORIGIN
                return e.ApplyFailed()
            for record in records:
                self.window.advance(record.producers)
            self.applied = records[-1].position
            self.table.work.position = text(self.applied)
            self.table.settle()
            if self.table.stages is not None:
                self.table.stages.applied(records, self.table.applied_at, is_visible=self.table.is_visible)
            self.records += len(records)
        return None

    async def _apply_changes(self, changes: list[tuple[Record, bytes]]) -> None:
        if changes:
            await self.table.apply([(record.op, payload) for record, payload in changes], text(changes[-1][0].position))
            changes.clear()

    async def _apply_control(self, record: Record) -> None:
        if record.op is Op.VERIFY:
            if self.table.spec is not None and record.position not in self._verified:
                self._verified.append(record.position)
                self.digest = await self._digest(record.position, self.table.spec)
        elif record.op is Op.DROP:
            await self.table.drop()
        elif record.spec is not None:
            held = self.table.spec
            if record.prev == ORIGIN:
                self.window = Window()
            if held is None or record.prev == ORIGIN:
                await self.table.load(record.spec, record.spec.arrow_schema.empty_table())
            elif held != record.spec:
                await self.table.alter(record.spec)

    async def _digest(self, position: Position, spec: TableSpec) -> Digest:
        state = Digester(spec.arrow_schema)
        async with aclosing(self.table.pieces()) as pieces:
            async for piece in pieces:
                await asyncio.to_thread(state.add, piece)
        return Digest(position, spec.fingerprint, state.value())

    async def _read_log(self, start: Position) -> e.Event:
        try:
            return await self._source.page(start)
        except BadRecord as error:
            self._note(f"the log: {error}")
            return e.Unreadable()
        except STORE_ERRORS as error:
            self._note(f"the log cannot be read: {error}")
            return e.ReadFailed()

    async def _read_manifest(self) -> e.Event:
        try:
            return await self._source.manifest()
        except BadRecord as error:
            self._note(str(error))
            return e.Unreadable()
        except STORE_ERRORS as error:
            self._note(f"the manifest cannot be read: {error}")
            return e.ReadFailed()

    async def _load_snapshot(self, manifest: Manifest) -> e.Event:
        try:
            async with self._pacing.place(manifest.size_bytes):
                rows = await self._source.snapshot(manifest)
        except SnapshotUnusable as error:
            self._note(str(error))
            return e.SnapshotFailed(is_intact=True)
        except STORE_ERRORS as error:
            self._note(f"the snapshot cannot be read: {error}")
            return e.ReadFailed()
        async with self._state_lock:
            try:
                await self.table.load(manifest.spec, rows, text(manifest.position))
            except EngineRefused as error:
                self._note(str(error))
                self.applied = ORIGIN
                return e.SnapshotFailed(is_intact=False)
            self.applied = self.loaded = manifest.position
            self.window = Window(manifest.window)
        log.info("table %s: loaded the snapshot at %s, %d rows", self.keys.table, manifest.position, manifest.rows)
        return e.SnapshotLoaded(manifest.position)

    async def _set_want(self) -> None:
        try:
            await self._source.want()
        except STORE_ERRORS as error:
            self._note(f"a snapshot cannot be asked for: {error}")

    def _note(self, problem: str) -> None:
        if problem != self.error:
            log.warning("table %s: %s", self.keys.table, problem)
        self.error = problem

    def report(self) -> dict[str, Any]:
        """Return what the registry and /status say about this replica."""
        return {
            "state": str(self.state),
            "position": text(self.applied),
            "visible": self.table.is_visible,
            "top": None if self.follower.top is None else text(self.follower.top),
            "lag_records": self.follower.lag_records,
            "lag_seconds": round(self.lag_seconds, 3),
            "silence_seconds": round(self.silence_seconds, 3),
            "rows": self.table.rows,
            "records": self.records,
            "resyncs": self.follower.resyncs,
            "digest": self.digest and self.digest.to_json(),
            "verdict": self.verdict,
            "verdicts": dict(self.verdicts),
            "heals": self.heals,
            "error": None if self.state is f.State.LIVE else self.error,
        }

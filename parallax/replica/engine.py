"""Perspective, behind one typed facade: a table of the engine, and the lane in which everything that touches it runs.

Each table has an engine server of its own, in deferred mode: what is applied is queued, and one poll makes it visible. A lane
runs one job at a time, in order, on a thread of a shared pool; the event loop only ever waits. What the engine says meanwhile
is collected in the lane and handed over, once for each job, after `version` was raised.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import perspective
import pyarrow as pa
import pyarrow.compute as pc

from parallax.errors import EngineRefused
from parallax.replica import filling
from parallax.replica.encodings import delete_view, to_ipc, typed
from parallax.replica.frame_clock import FrameClock
from parallax.replica.journal import Journal
from parallax.replica.stages import Stages
from parallax.replication.record import Op
from parallax.replication.spec import TableSpec
from parallax.tasks import Tasks

log = logging.getLogger(__name__)

ENGINE_ERRORS = (perspective.PerspectiveError, pa.ArrowException, KeyError)
"""What the engine, or reading a payload for it, can raise."""

POOL_THREADS = 1024
"""The engine's own pool, for the whole process. When a table stops being empty, each pivoted view of it takes a thread and
waits there for others: with as many such views as threads, which by default are as many as processors, the poll never ends.
Threads start when they are needed."""

MOST_VIEWS = 900
"""How many views a process may hold, so that the pool always has threads to spare."""

PIECE_CELLS = 100_000
"""How many values are read in one turn of a table's lane, for whoever reads all of it: about 4 ms."""

LAST_MSG_ID = 2**32 - 1
"""The message id of requests that the facade itself sends: callers of `request` use lower ones."""


class StaleGeneration(Exception):
    """The table that a request was meant for is gone: it was dropped, or made anew with another shape."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What the engine sent while it handled one request: encoded Responses, and the version they were computed at."""

    frames: list[bytes]
    version: int


@dataclass(frozen=True, slots=True)
class Listener:
    """Who hears of a table: `on_frames` gets what subscriptions sent, `on_generation` that all views are gone."""

    on_frames: Callable[[list[bytes]], None]
    on_generation: Callable[[], None]


class Engine:
    """The engine of one process: the frame clock's setting, and the threads that the tables' lanes share."""

    def __init__(self, *, frame_seconds: float, threads: int = 8, journal: Journal | None = None) -> None:
        perspective.set_num_cpus(POOL_THREADS)
        self.stages: Callable[[str], Stages | None] = lambda table: None  # what watches a table's updates on their way
        self.journal = Journal() if journal is None else journal
        self.frame_seconds = frame_seconds
        self.executor = ThreadPoolExecutor(threads, thread_name_prefix="engine")
        self.tasks = Tasks()
        self._tables: list[EngineTable] = []

    def table(self, name: str) -> "EngineTable":
        """Return a new table that holds nothing and has no spec until it is loaded."""
        table = EngineTable(self, name)
        self._tables.append(table)
        return table

    @property
    def busy_seconds(self) -> float:
        """How long the lanes of all tables were at work."""
        return sum(table.busy_seconds for table in self._tables)

    def forget(self, table: "EngineTable") -> None:
        """Let go of a table that was closed."""
        self._tables.remove(table)

    async def close(self) -> None:
        """Drop every table and end the threads."""
        await self.tasks.close()
        for table in tuple(self._tables):
            await table.close()
        self.executor.shutdown()


class EngineTable:
    """One table: written by its replica, read by the gateway.

    Every method that awaits takes its turn in the lane. Cancelled while it waits, it does nothing; while it runs, it is completed.
    """

    def __init__(self, engine: Engine, name: str) -> None:
        self.name = name
        self.spec: TableSpec | None = None
        """None while there is no table."""
        self.version = 0
        """How many polls were completed; it is raised before anyone hears of one."""
        self.generation = 0
        """Raised when the table was dropped or made anew with another shape: every view of before is gone."""
        self.rows = 0
        """The table's size at the last poll."""
        self.busy_seconds = 0.0
        """How long the lane was at work, polls included."""
        self.applied_at = 0.0
        """time.monotonic() when the last operations had been applied."""
        self.work = engine.journal.open(name)  # what the lane is at work on
        self.stages = engine.stages(name)
        self._engine = engine
        self._lane = asyncio.Lock()
        self._freed = asyncio.Event()  # set, and replaced, when the lane is let go
        self._listeners: list[Listener] = []
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        # The rest is touched in the lane only. Callbacks of the engine arrive in the thread that called it.
        self._frames: list[bytes] = []
        self._server = perspective.Server(on_poll_request=_ignore)
        self._client = self._server.new_local_client()
        self._session = self._server.new_session(self._frames.append)
        self._table: Any = None
        self._views: dict[str, str] = {}  # by the ids that callers of `request` chose: fingerprints
        self._is_new = False  # no row was ever in it
        self._whole: Any = None  # a view of all columns, while somebody reads the table in pieces
        self._queued: Op | None = None  # what the queue ends with, None if all is polled
        self._polls = 0
        self._clock = FrameClock(engine.frame_seconds)
        self._broken: str | None = None  # a poll that failed: the contents are unknown until the next load

    @property
    def is_visible(self) -> bool:
        """Say whether readers see all that was applied: nothing waits for a poll."""
        return self._queued is None

    # Writing --------------------------------------------------------------------------------------------------------

    async def load(self, spec: TableSpec, data: pa.Table, position: str = "") -> None:
        """Make the table hold exactly `data`, whose schema is `spec.arrow_schema`.

        Views live on if the table had the same columns, index and limit; otherwise they are gone.

        Raises:
            EngineRefused: the engine would not take it; the contents are unknown until a load succeeds.
        """
        await self._in_lane(lambda: self._load(spec, data), position=position)

    async def apply(self, operations: Sequence[tuple[Op, bytes]], position: str = "") -> None:
        """Apply updates, removes, replaces and clears, in order; readers see them at the next poll, which may be part of it.

        `position`: of the last one, in the log.

        Raises:
            EngineRefused: one was refused, those before it were applied; or the poll failed.
        """
        try:
            await self._in_lane(lambda: self._apply_and_poll(operations), position=position)
        finally:
            self._schedule_poll()

    async def alter(self, spec: TableSpec) -> None:
        """Take over a spec whose columns, index and limit are those that the table has.

        Raises:
            EngineRefused: they are not; load such a table anew.
        """
        await self._in_lane(lambda: self._alter(spec))

    async def flush(self) -> None:
        """Make everything visible that was applied so far."""
        await self._in_lane(self._poll)

    def settle(self) -> None:
        """Note that all up to the position at work was applied: if it changed no rows, it is visible already."""
        if self._queued is None:
            self.work.visible = self.work.position

    async def drop(self) -> None:
        """Delete the views, then the table."""
        await self._in_lane(self._drop)

    async def close(self) -> None:
        """Drop the table, and leave nothing in the engine. Nothing may be called afterwards."""
        if not self._closed:
            await self._in_lane(self._close)
            self._engine.forget(self)

    # Reading --------------------------------------------------------------------------------------------------------

    async def export(self) -> pa.Table:
        """Return all rows, what is queued included, in the types of `spec.arrow_schema`.

        The order is canonical: an indexed table by key, any other oldest first.

        Raises:
            EngineRefused: there is no table, or its contents are unknown.
        """
        return pa.concat_tables([piece async for piece in self.pieces()])

    async def pieces(self) -> AsyncGenerator[pa.Table, None]:
        """Give the same rows in pieces, at least one; viewers' requests have their turns in between.

        Nobody may write meanwhile, nor read like this. Raises EngineRefused as `export` does, or since somebody did.
        """
        view, rows, step, polls = await self._in_lane(self._open_whole)
        try:
            for start in range(0, max(rows, 1), step):
                yield await self._in_lane(partial(self._read_piece, view, start, start + step, polls))
        finally:
            await self._in_lane(partial(self._close_whole, view))

    async def request(
        self,
        bodies: Sequence[bytes],
        generation: int,
        *,
        opens: str | None = None,
        closes: str | None = None,
        fingerprint: str = "",
        is_quick: bool = False,
    ) -> Answers:
        """Hand encoded Requests, in one turn, to the engine's only session.

        All ids in it are the caller's: message ids unique among those that still may be answered, below `LAST_MSG_ID`, and
        view ids that are said in `opens` and `closes`, so that dropping the table can delete the views first. What other
        subscriptions say on this occasion is among the answers. `fingerprint`: of the view's configuration, for the journal.
        `is_quick`: see `request_at_once`.

        Raises:
            StaleGeneration: the table is no longer of that generation.
        """
        if is_quick:
            async with self._lane:
                try:
                    return self.request_at_once(bodies[0], generation, fingerprint)
                finally:
                    self._let_go()
        answers: Answers = await self._in_lane(
            lambda: self._request(bodies, generation, opens, closes, fingerprint), is_request=True
        )
        return answers

    @property
    def is_idle(self) -> bool:
        """Say whether the lane is free."""
        return not self._lane.locked() and not self._closed

    async def freed(self) -> None:
        """Wait until a job leaves the lane."""
        if self._lane.locked():
            await self._freed.wait()

    def request_at_once(self, body: bytes, generation: int, fingerprint: str = "") -> Answers:
        """Do the same on the event loop, while nothing else is in the lane: for requests that take less than a change of threads.

        Raises:
            StaleGeneration: as above.
        """
        try:
            return self._request([body], generation, None, None, fingerprint)
        finally:
            self._frames.clear()
            self.work.end()

    def add_listener(self, listener: Listener) -> None:
        """Tell `listener`, on the event loop, what subscriptions say and when the views are gone."""
        self._listeners.append(listener)

    def remove_listener(self, listener: Listener) -> None:
        """Tell it no more."""
        self._listeners.remove(listener)

    # The lane -------------------------------------------------------------------------------------------------------

    async def _in_lane(self, job: Callable[[], Any], *, is_request: bool = False, position: str = "") -> Any:
        await self._lane.acquire()
        if self._closed:
            self._lane.release()
            raise StaleGeneration
        generation = self.generation
        future = asyncio.get_running_loop().run_in_executor(self._engine.executor, self._run, job, is_request, position)

        def hand_over(done: "asyncio.Future[tuple[Any, BaseException | None, list[bytes], int]]") -> None:
            _, _, frames, polls = done.result()
            self.version += polls
            try:
                for listener in tuple(self._listeners):
                    if frames:
                        listener.on_frames(frames)
                    if generation != self.generation:
                        listener.on_generation()
                if polls and self.stages is not None:
                    self.stages.notified(is_heard=bool(frames))
            finally:
                self._lane.release()
                self._let_go()

        # Not in this coroutine: who waits here may be cancelled, and the lane is taken until the thread is done.
        future.add_done_callback(hand_over)
        value, error, _, _ = await asyncio.shield(future)
        if error is not None:
            raise error
        return value

    def _let_go(self) -> None:
        self._freed.set()
        self._freed = asyncio.Event()

    def _run(
        self, job: Callable[[], Any], is_request: bool, position: str
    ) -> tuple[Any, BaseException | None, list[bytes], int]:
        """Run a job in its thread; return what it gave or raised, what the engine said, and how many polls there were."""
        polls, started = self._polls, time.monotonic()
        value, error = None, None
        if position:
            self.work.position = position
        try:
            if not is_request:
                self.work.on_rows(self._views.values())
            value = job()
        except BaseException as raised:  # noqa: BLE001 - panics of the engine too; raised again where the job was asked for
            error = raised
        self.work.end()
        self.busy_seconds += time.monotonic() - started
        frames = [] if is_request else self._frames[:]
        self._frames.clear()
        return value, error, frames, self._polls - polls

    def _schedule_poll(self) -> None:
        if self._queued is None or self._timer is not None or self._closed:
            return
        self._timer = asyncio.get_running_loop().call_later(self._clock.seconds_left, self._poll_is_due)

    def _poll_is_due(self) -> None:
        self._timer = None
        if self._clock.seconds_left:  # there was a poll meanwhile
            self._schedule_poll()
        elif self._queued is not None and not self._closed:
            self._engine.tasks.start(self._in_lane(self._poll), name=f"poll of table {self.name}")

    # In the lane ----------------------------------------------------------------------------------------------------

    def _poll(self, *, is_forced: bool = False) -> None:
        if self._queued is None and not is_forced:
            return
        started = time.monotonic()
        try:
            self._server.poll()
            self.rows = self._table.size()
        except BaseException as error:  # panics, too: what is in the table now, nobody knows
            self._broken = str(error)
            raise EngineRefused(self.name, "poll", str(error)) from error
        finally:
            self._queued, self.work.visible = None, self.work.position
            self._polls += 1
            self._clock.polled(started)

    def _load(self, spec: TableSpec, data: pa.Table) -> None:
        if self.spec is not None and self.spec.shape != spec.shape:
            self._drop()
        try:
            if self.spec is None:
                self._create(spec)
            self.spec = spec
            self._broken = None
            # Never by creation: there a null does not overwrite.
            self._replace(to_ipc(data))
            self._poll()
        except ENGINE_ERRORS as error:
            self._broken = str(error)
            raise EngineRefused(spec.name, "load", str(error)) from error

    def _create(self, spec: TableSpec) -> None:
        # From Arrow, even of zero rows: a schema dict would make every "integer" an int32 that wraps silently.
        kind = {"index": spec.index} if spec.index else {"limit": spec.limit} if spec.limit else {}
        self._table = self._client.table(to_ipc(spec.arrow_schema.empty_table()), name=spec.name, **kind)
        self._is_new = True
        self.spec = spec
        self.generation += 1

    def _apply_and_poll(self, operations: Sequence[tuple[Op, bytes]]) -> None:
        self._apply(operations)
        self.applied_at = time.monotonic()
        if not self._clock.seconds_left:  # in the same turn: a busy event loop would be long in asking for another one
            self._poll()

    def _apply(self, operations: Sequence[tuple[Op, bytes]]) -> None:
        self._check()
        for op, payload in operations:
            try:
                match op:
                    case Op.UPDATE:
                        self._poll_unless(Op.UPDATE)
                        self._update(payload)
                    case Op.REMOVE:
                        self._poll_unless(Op.REMOVE)
                        self._table.remove(payload)
                        self._queued = Op.REMOVE
                    case Op.REPLACE:
                        self._replace(payload)
                    case Op.CLEAR:
                        self._replace(None)
                    case _:
                        raise EngineRefused(self.name, op, "it is not an operation on rows")
            except ENGINE_ERRORS as error:
                raise EngineRefused(self.name, op, str(error)) from error

    def _poll_unless(self, op: Op) -> None:
        """Poll unless the queue ends with the same operation.

        The data would come out right in one poll, but a remove of an absent key misaligns the rows that follow it in the
        queue, and grouped views then aggregate wrongly until they are deleted.
        """
        if self._queued not in (None, op):
            self._poll()

    def _replace(self, payload: bytes | None) -> None:
        """Replace all rows; with None, by nothing."""
        self._poll()  # a reset jumps ahead of what is queued
        if self.spec is not None and self.spec.index is not None:
            # The engine's own replace and clear leave filtered views with rows that are gone; a later remove of such a key
            # ends the process. By difference it is also one step for readers, and cheaper.
            self._replace_by_difference(self.spec, self.spec.index, payload)
        else:
            # Readers wait for the lane: they cannot see the moment in which there are no rows.
            if self.rows:
                self._queued = Op.REPLACE
                self._table.clear()
                self._poll()
            if payload is not None:
                self._update(payload)
                self._poll()

    def _update(self, payload: bytes) -> None:
        """Queue an update. One that fills an empty table is seen at once, see `parallax.replica.filling`."""
        spec = self._check()
        if self.rows:
            self._table.update(payload)
            self._queued = Op.UPDATE
            return
        rows = pa.ipc.open_stream(payload).read_all()
        if not len(rows):
            return
        with_care = filling.needs_care(spec, rows)
        if with_care and filling.needs_new_table(spec) and not self._is_new:
            self._make_anew(spec)
        first, *others = [to_ipc(step) for step in filling.steps(spec, rows)] if with_care else [payload]
        try:
            self._fill(first, others)
        except ENGINE_ERRORS as error:
            if not others:
                raise
            # Rarely, and in no way that could be repeated, the engine's threads spoil the table while its pivots are filled.
            log.warning("table %s is made anew, since the engine could not fill it: %s", self.name, error)
            self._make_anew(spec)
            self._fill(first, others)
        self._is_new = False
        self._poll(is_forced=True)

    def _fill(self, first: bytes, others: Sequence[bytes]) -> None:
        self._table.update(first)
        if others:
            heard = len(self._frames)
            self._poll(is_forced=True)
            del self._frames[heard:]  # of a row that nobody sent
        for step in others:
            self._table.update(step)

    def _make_anew(self, spec: TableSpec) -> None:
        self._drop()
        self._create(spec)

    def _replace_by_difference(self, spec: TableSpec, index: str, payload: bytes | None) -> None:
        rows = spec.arrow_schema.empty_table() if payload is None else pa.ipc.open_stream(payload).read_all()
        held, rows = self._read(spec, [index]), filling.wide(spec, rows)
        gone = held.filter(pc.invert(pc.is_in(held[index], rows[index])))
        if len(gone):
            self._table.remove(to_ipc(gone))
            self._queued = Op.REMOVE
        if len(rows):
            self._update(to_ipc(rows))  # present keys removed, others updated: safe in one poll

    def _read(self, spec: TableSpec, columns: list[str]) -> pa.Table:
        """Return columns of all rows that are polled, in a fresh view's order."""
        view = self._table.view(columns=columns)
        try:
            return typed(spec, columns, view.to_arrow())
        finally:
            view.delete()

    def _open_whole(self) -> tuple[Any, int, int, int]:
        spec = self._check()
        self._poll()
        try:
            self._close_whole(self._whole)  # of a reader who was cancelled on his way out
            self._whole = self._table.view(columns=spec.columns)
        except ENGINE_ERRORS as error:
            raise EngineRefused(self.name, "export", str(error)) from error
        return self._whole, self.rows, max(1, PIECE_CELLS // len(spec.columns)), self._polls

    def _read_piece(self, view: Any, start: int, end: int, polls: int) -> pa.Table:
        spec = self._check()
        if (self._whole, self._polls, self._queued) != (view, polls, None):
            raise EngineRefused(self.name, "export", "the table was written to meanwhile")
        try:
            return typed(spec, spec.columns, view.to_arrow(start_row=start, end_row=end))
        except ENGINE_ERRORS as error:
            raise EngineRefused(self.name, "export", str(error)) from error

    def _close_whole(self, view: Any) -> None:
        if view is not None and view is self._whole:
            self._whole = None
            view.delete()

    def _alter(self, spec: TableSpec) -> None:
        if self._check().shape != spec.shape:
            raise EngineRefused(self.name, "alter", "columns, index and limit of a table cannot change in place")
        self.spec = spec

    def _request(
        self, bodies: Sequence[bytes], generation: int, opens: str | None, closes: str | None, fingerprint: str
    ) -> Answers:
        if generation != self.generation or self.spec is None or self._closed:
            raise StaleGeneration
        if fingerprint:
            self.work.on_view(fingerprint)
        if opens is not None:
            self._views[opens] = fingerprint
        for body in bodies:
            self._session.handle_request(body)
        if closes is not None:
            self._views.pop(closes, None)
        return Answers(self._frames[:], self.version)

    def _drop(self) -> None:
        if self.spec is None:
            return
        try:
            self._close_whole(self._whole)
            for view_id in self._views:
                self._session.handle_request(delete_view(view_id))
            self._table.delete()
        except ENGINE_ERRORS as error:
            raise EngineRefused(self.name, "drop", str(error)) from error
        finally:
            self._frames.clear()  # farewells of views: on_generation says the same
            self._views.clear()
            self.spec, self._table, self._queued, self.rows = None, None, None, 0
            self.generation += 1

    def _close(self) -> None:
        self._closed = True
        self._drop()
        self._session.close()
        self._engine.journal.close(self.work)

    def _check(self) -> TableSpec:
        if self.spec is None:
            raise EngineRefused(self.name, "it", "there is no table")
        if self._broken is not None:
            raise EngineRefused(self.name, "it", f"an earlier poll failed: {self._broken}")
        return self.spec


def _ignore(*_: object) -> None:
    """Answer the engine's poll requests, which come after every request: the frame clock decides."""

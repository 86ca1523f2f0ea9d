"""One table's way into ingest: entries wait in order, and go out again and again until Redis has them.

Each entry has a number (`seq`) that the coordinator drops when it sees it twice, so sending again cannot double. It cannot lose
either: what goes out together is one script, so never the later of two entries without the earlier.
"""

import asyncio
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from redis.asyncio import Redis
from redis.exceptions import OutOfMemoryError

from parallax.errors import PublishError
from parallax.publisher_data import Payload
from parallax.redis_url import place
from parallax.replication.keys import TableKeys
from parallax.replication.record import Op
from parallax.store import STORE_ERRORS, is_final, load_script, text

WINDOW_ENTRIES, WINDOW_BYTES = 1_000, 16 << 20  # what one script carries
SMALL_WINDOW_BYTES = 64 << 10
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.05, 2.0  # between two attempts
BACKLOG_PAUSE_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class LaneOptions:
    """How a lane behaves."""

    url: str
    producer: str
    batch_seconds: float
    batch_rows: int
    max_backlog: int  # entries in a table's ingest above which it waits
    max_buffer_bytes: int  # what waits here for one table before `update` waits
    timeout_seconds: float  # without progress, until whoever waits gets a PublishError


@dataclass(slots=True)
class Counts:
    """What a publisher did for one table."""

    accepted: int = 0  # entries that Redis has
    retried: int = 0  # attempts to send that came to nothing, each followed by another one
    refused: int = 0  # entries that the coordinator refused, as far as `confirm` asked
    sends: int = 0  # attempts that Redis answered
    send_seconds: float = 0.0  # how long these took, all together


@dataclass(slots=True)
class Outgoing:
    """An entry that Redis has not yet confirmed."""

    op: Op
    payload: Payload
    seq: int


class Lane:
    """The entries of one table, in order. `add` and `is_free` may be used from any thread, the rest from the event loop's."""

    def __init__(self, redis: "Redis", keys: TableKeys, options: LaneOptions, numbers: Iterator[int]) -> None:
        self.keys = keys
        self.counts = Counts()
        self.last_id: str | None = None  # of the entries that Redis has
        self.refusals_from = "-"  # where in `rejected` this run's refusals begin
        self._redis, self._options, self._numbers = redis, options, numbers
        self._script = load_script(redis, "parallax", "publish.lua")
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        self._lock = threading.Lock()  # around what follows, up to `_rows`
        self._waiting: deque[Outgoing] = deque()
        self._in_flight = 0  # entries at the head of `_waiting` that are on their way
        self._bytes = self._rows = 0
        self._most_bytes = WINDOW_BYTES  # less after Redis was full
        self._backlog = 0
        self._problem: str | None = None  # why the last attempt came to nothing
        self._is_hopeless = False  # trying again will not help
        self._progress_at = time.monotonic()
        self._oldest_at = 0.0
        self._is_hurried = False
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    # For the one who publishes ---------------------------------------------------------------------------------------

    @property
    def is_free(self) -> bool:
        """Say whether more can be added without waiting."""
        return not self._is_hopeless and not self._is_stalled() and self._bytes < self._options.max_buffer_bytes

    def add(self, op: Op, payload: Payload, seq: int | None = None) -> None:
        """Put an entry behind the others, under the next number unless it has one."""
        now = time.monotonic()
        with self._lock:
            is_first = not self._waiting
            if is_first:
                self._progress_at = now
            last = self._waiting[-1] if len(self._waiting) > self._in_flight else None
            if last is None:
                self._oldest_at = now
            self._bytes += payload.size
            self._rows += payload.rows
            if last is None or seq is not None or not self._merged(last, op, payload):
                self._waiting.append(Outgoing(op, payload, next(self._numbers) if seq is None else seq))
            is_full = self._rows >= self._options.batch_rows
        if is_first or is_full:
            if threading.get_ident() == self._thread:
                self._notify()
            else:
                self._loop.call_soon_threadsafe(self._notify)

    def _merged(self, last: Outgoing, op: Op, payload: Payload) -> bool:
        """Put a payload into an entry that is not yet on its way, if calls may share entries."""
        if self._options.batch_seconds <= 0 or op is not Op.UPDATE or last.op is not Op.UPDATE:
            return False
        return last.payload.rows + payload.rows <= self._options.batch_rows and last.payload.take(payload)

    async def room(self) -> None:
        """Wait until there is room for more.

        Raises:
            PublishError: nothing went out for too long, whether or not there is room.
        """
        await self._until(lambda: self.is_free, self._progress_at)

    async def empty(self) -> None:
        """Wait until Redis has everything.

        Raises:
            PublishError: nothing went out for too long; what waits is still tried.
        """
        self._is_hurried = True
        self._notify()
        try:
            await self._until(lambda: not self._waiting, time.monotonic())
        finally:
            self._is_hurried = False

    def _is_stalled(self) -> bool:
        return self._problem is not None and time.monotonic() - self._progress_at > self._options.timeout_seconds

    async def _until(self, is_reached: Callable[[], bool], since: float) -> None:
        """Wait for as long as something goes out at least each `timeout_seconds`, counted from `since` at the earliest."""
        while True:
            if self._is_hopeless:
                raise PublishError(f"table {self.keys.table!r}: {self._problem}")
            if is_reached():
                return
            left = max(self._progress_at, since) + self._options.timeout_seconds - time.monotonic()
            if left <= 0:
                raise PublishError(
                    f"table {self.keys.table!r}: nothing went out for {self._options.timeout_seconds:g} s: "
                    f"{self._problem or 'Redis does not answer'}; {len(self._waiting)} entries wait"
                )
            await self._next_change(left)

    # For the one who sends -------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Send what waits, until cancelled."""
        while True:
            await self._gathered()
            await self._backlog_is_low()
            await self._deliver()

    async def _gathered(self) -> None:
        """Wait until there is something to send, and until rows had their time to gather."""
        while True:
            if not self._waiting:
                left = 60.0
            elif self._is_hurried or self._rows >= self._options.batch_rows:
                return
            else:
                left = self._oldest_at + self._options.batch_seconds - time.monotonic()
                if left <= 0:
                    return
            await self._next_change(left)

    async def _backlog_is_low(self) -> None:
        while self._backlog > self._options.max_backlog:
            self._note(
                f"{self._backlog} entries wait in ingest, more than max_backlog ({self._options.max_backlog}): the coordinator "
                "is far behind, or none runs"
            )
            await asyncio.sleep(BACKLOG_PAUSE_SECONDS)
            try:
                before, self._backlog = self._backlog, await self._redis.xlen(self.keys.ingest)
                if self._backlog < before:
                    self._progress_at = time.monotonic()
            except STORE_ERRORS as error:
                self._note(self._explain(error))

    async def _deliver(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while True:
            window = self._window()
            arguments: list[str | bytes | int] = [self._options.producer]
            for outgoing in window:
                form, data = outgoing.payload.encode()
                arguments += (str(outgoing.op), form, data, outgoing.seq)
            started = time.monotonic()
            try:
                first, last, backlog = await self._script(keys=[self.keys.ingest], args=arguments)
                break
            except STORE_ERRORS as error:
                self.counts.retried += 1
                if isinstance(error, OutOfMemoryError):  # what we send counts, too, while Redis reads it
                    self._most_bytes = max(SMALL_WINDOW_BYTES, self._most_bytes // 2)
                self._is_hopeless = is_final(error)
                self._note(self._explain(error))
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        self.counts.accepted += len(window)
        self.counts.sends += 1
        self.counts.send_seconds += time.monotonic() - started
        if self.last_id is None:  # a minute back: the clock of a Redis that took over may be behind
            self.refusals_from = str(max(0, int(text(first).partition("-")[0]) - 60_000))
        self.last_id, self._backlog = text(last), int(backlog)
        with self._lock:
            for _ in window:
                done = self._waiting.popleft()
                self._bytes -= done.payload.size
                self._rows -= done.payload.rows
            self._in_flight -= len(window)
            self._progress_at = self._oldest_at = time.monotonic()
        self._problem, self._is_hopeless = None, False
        self._most_bytes = min(WINDOW_BYTES, 2 * self._most_bytes)
        self._notify()

    def _window(self) -> list[Outgoing]:
        """Return the entries that go out next; from now on nothing is merged into them."""
        window: list[Outgoing] = []
        size = 0
        with self._lock:
            for outgoing in self._waiting:
                if window and (len(window) >= WINDOW_ENTRIES or size + outgoing.payload.size > self._most_bytes):
                    break
                window.append(outgoing)
                size += outgoing.payload.size
            self._in_flight = max(self._in_flight, len(window))  # what was sent once is never changed, it may have arrived
        return window

    def _note(self, problem: str) -> None:
        self._problem = problem
        self._notify()

    def _explain(self, error: BaseException) -> str:
        where, said = place(self._options.url), str(error) or type(error).__name__
        if isinstance(error, OutOfMemoryError):
            return f"Redis at {where} is full (OOM: {said}): give it more memory, or let the coordinator catch up"
        if is_final(error):
            return f"Redis at {where} refuses us: {said}"
        return f"Redis at {where} cannot be reached: {said}"

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _next_change(self, seconds: float) -> None:
        changed = self._changed
        try:
            async with asyncio.timeout(seconds):
                await changed.wait()
        except TimeoutError:
            pass

"""What waits for one viewer, on its way to the socket."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from node.gateway.counts import Counts

TEXT, BINARY = 0x1, 0x2
"""Kinds of messages, as the first byte of a websocket's frame says them."""
LOT_BYTES = 1 << 18
"""So much is handed to the socket at once; what comes after it can still be merged."""
LOW_WATER_BYTES = 1 << 20
"""A viewer for whom more waits is not read from."""


class Frame(NamedTuple):
    """One message to a viewer in two parts, so that a body can be shared by many."""

    head: bytes
    body: bytes
    kind: int = BINARY


class Notice(Protocol):
    """A subscription: at most one of its frames waits at a time."""

    frame: Frame
    is_waiting: bool


Write = Callable[[Sequence[Frame]], "asyncio.Future[None] | None"]
"""Hand frames to the socket; the future, if there is one, tells when the system has taken them in. Never raises."""


class Outbox:
    """Frames in their order; bounded.

    All that gathers until `flush`, or while the event loop turns once, or the socket is busy, is written in one go. A notification that is
    still here is not put in again. Beyond `rows_limit` bytes, row deltas, which may not be dropped, end the session; whatever
    waits, beyond `limit` bytes, does.
    """

    def __init__(self, write: Write, close_slow: Callable[[], None], counts: Counts, *, rows_limit: int, limit: int) -> None:
        self.waiting_bytes = 0
        """Put in, and not yet taken in by the system."""
        self.progress_at = 0.0
        """time.monotonic() when the system last took in anything, or had taken in everything."""
        self._write = write
        self._close_slow = close_slow
        self._counts = counts
        self._rows_limit, self._limit = rows_limit, limit
        self._queue: deque[tuple[Frame, Notice | None]] = deque()
        self._is_due = False  # a flush is
        self._is_busy = False  # the socket has not taken in the last lot
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._is_closed = False

    @property
    def has_room(self) -> bool:
        """Say whether the viewer may ask for more."""
        return self.waiting_bytes <= LOW_WATER_BYTES

    async def room(self) -> None:
        """Wait until there is room, or the outbox is closed."""
        await self._has_room.wait()

    def put(self, frame: Frame, notice: Notice | None = None, *, are_rows: bool = False) -> None:
        """Send a frame after those that wait."""
        if self._is_closed:
            return
        if not self.waiting_bytes:
            self.progress_at = time.monotonic()
        self.waiting_bytes += len(frame.head) + len(frame.body)
        self._queue.append((frame, notice))
        if self.waiting_bytes > LOW_WATER_BYTES:
            self._has_room.clear()
        if self.waiting_bytes > (self._rows_limit if are_rows else self._limit):
            self._close_slow()
            return
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._flush_due)

    def notify(self, notice: Notice) -> None:
        """Send the frame of a subscription, unless the viewer has not got the last one yet."""
        if notice.is_waiting:
            self._counts.conflated += 1
        elif not self._is_closed:
            self._counts.notified += 1
            notice.is_waiting = True
            self.put(notice.frame, notice)

    def accepted(self, size: int) -> None:
        """Take note that the system took in `size` bytes."""
        self.waiting_bytes -= size
        self.progress_at = time.monotonic()
        if self.waiting_bytes <= LOW_WATER_BYTES:
            self._has_room.set()

    def close(self) -> None:
        """Drop what waits."""
        self._is_closed = True
        self._queue.clear()
        self._has_room.set()

    def _flush_due(self) -> None:
        self._is_due = False
        self.flush()

    def flush(self) -> None:
        """Write what has gathered, unless the socket is busy."""
        while self._queue and not self._is_busy:
            lot: list[Frame] = []
            size = 0
            while self._queue and (not lot or size + len(self._queue[0][0].body) <= LOT_BYTES):
                frame, notice = self._queue.popleft()
                if notice is not None:
                    notice.is_waiting = False
                size += len(frame.head) + len(frame.body)
                lot.append(frame)
            written = self._write(lot)
            if written is not None and not written.done():
                self._is_busy = True
                written.add_done_callback(self._written)

    def _written(self, done: "asyncio.Future[None]") -> None:
        if not done.cancelled():
            done.exception()  # a closed socket: the handler says the same
        self._is_busy = False
        self.flush()

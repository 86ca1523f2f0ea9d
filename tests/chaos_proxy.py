"""A network between one member of a fleet and Redis that fails as networks do, or loses single messages of the feed."""

import asyncio
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from parallax.demo.ports import choose_ports
from tests.processes import HOST

Way = Literal["up", "down"]
"""To Redis, and from it."""
BOTH: frozenset[Way] = frozenset(("up", "down"))
ANSWERS: frozenset[Way] = frozenset(("down",))
READ_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Garble:
    """How often a message of the feed is lost, comes twice, or comes after the next ones."""

    lost: float = 0.0
    twice: float = 0.0
    late: float = 0.0


class Proxy:
    """Listens on `port` and passes everything on to `target()`, another port of this machine. What is set works at once.

    `delay_seconds`: how long everything is under way. `held`: ways on which everything waits until `release`, also when its
    sender is gone meanwhile. `swallowed`: ways on which everything is lost; such connections are of no use any more, and `release`
    cuts them. `garble`: what happens to single messages of the feed, which needs RESP2 (`*3 message channel data`).
    """

    def __init__(self, target: Callable[[], int], seed: str) -> None:
        self.port = choose_ports({"proxy": 0})["proxy"]
        self.delay_seconds = 0.0
        self.held: frozenset[Way] = frozenset()
        self.swallowed: frozenset[Way] = frozenset()
        self.garble: Garble | None = None
        self.garbled = 0
        """How many messages were lost, doubled or held up."""
        self.rng = random.Random(seed)
        self._target = target
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self.released = asyncio.Event()
        self.released.set()

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._serve, HOST, self.port)

    async def close(self) -> None:
        """Listen no more, and cut everything."""
        if self._server is not None:
            self._server.close()
        self.cut()
        while self._connections:  # noqa: ASYNC110 - each leaves when its task has ended
            await asyncio.sleep(0.01)

    def hold(self) -> None:
        """Let everything wait on its way."""
        self.held = BOTH
        self.released.clear()

    def swallow(self, ways: frozenset[Way] = BOTH) -> None:
        """Lose everything from now on, on these ways."""
        self.swallowed = ways

    def release(self) -> None:
        """Deliver what was held, and cut the connections on which something was swallowed."""
        self.held = self.swallowed = frozenset()
        self.released.set()
        for connection in [one for one in self._connections if one.has_hole]:
            connection.cut()

    def cut(self) -> None:
        """Cut every connection, whatever is under way."""
        for connection in list(self._connections):
            connection.cut()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(self)
        self._connections.add(connection)
        try:
            await connection.run(reader, writer, self._target())
        except (OSError, asyncio.CancelledError):
            pass  # Redis is away, or we were cut
        finally:
            writer.transport.abort()
            self._connections.discard(connection)


class _Connection:
    def __init__(self, proxy: Proxy) -> None:
        self.has_hole = False
        self.is_feed = False
        self._proxy = proxy
        self._task = asyncio.current_task()
        self._frames = Frames()
        self._late: list[tuple[int, bytes]] = []  # messages that come after so many others

    def cut(self) -> None:
        assert self._task is not None
        self._task.cancel()

    async def run(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        far_reader, far_writer = await asyncio.open_connection(HOST, port)
        try:
            async with asyncio.TaskGroup() as group:
                for way, source, sink in (("up", reader, far_writer), ("down", far_reader, writer)):
                    queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
                    group.create_task(self._read(way, source, queue))
                    group.create_task(self._write(way, sink, queue))
        finally:
            far_writer.transport.abort()

    async def _read(self, way: Way, source: asyncio.StreamReader, queue: asyncio.Queue[tuple[float, bytes]]) -> None:
        data = b"more"
        while data:
            try:
                data = await source.read(READ_BYTES)
            except OSError:
                data = b""
            if way == "up" and b"SUBSCRIBE" in data:
                self.is_feed = True
            if way in self._proxy.swallowed:
                self.has_hole = True
            if not self.has_hole:
                queue.put_nowait((asyncio.get_running_loop().time(), data))

    async def _write(self, way: Way, sink: asyncio.StreamWriter, queue: asyncio.Queue[tuple[float, bytes]]) -> None:
        data = b"more"
        while data:
            sent_at, data = await queue.get()
            left = sent_at + self._proxy.delay_seconds - asyncio.get_running_loop().time()
            if left > 0:
                await asyncio.sleep(left)
            if way in self._proxy.held:
                await self._proxy.released.wait()
            if way == "down" and self.is_feed and data:
                data_out = b"".join(self._garbled(frame) for frame in self._frames.feed(data))
            else:
                data_out = data
            try:
                sink.write(data_out)
                await sink.drain()
            except OSError:
                continue  # nobody is there to take it; read on until the other end notices
        sink.close()

    def _garbled(self, frame: bytes) -> bytes:
        """Return what comes in place of a frame."""
        garble = self._proxy.garble
        if not is_message(frame) or (garble is None and not self._late):
            return frame
        out = self._overdue()
        luck = self._proxy.rng.random()
        if garble is not None and luck < garble.lost + garble.twice + garble.late:
            self._proxy.garbled += 1
            if luck < garble.lost:
                return out
            if luck >= garble.lost + garble.twice:
                self._late.append((self._proxy.rng.randint(1, 4), frame))
                return out
            out = frame + out
        return frame + out

    def _overdue(self) -> bytes:
        """Return the late messages that come after the one that is here now."""
        self._late = [(left - 1, frame) for left, frame in self._late]
        overdue = b"".join(frame for left, frame in self._late if left <= 0)
        self._late = [(left, frame) for left, frame in self._late if left > 0]
        return overdue


def is_message(frame: bytes) -> bool:
    """Say whether a RESP2 frame is a message of a subscription."""
    return frame.startswith((b"*3\r\n$7\r\nmessage\r\n", b"*3\r\n$8\r\nsmessage\r\n"))


class Frames:
    """Cuts a stream of RESP2 into whole values."""

    def __init__(self) -> None:
        self._data = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take in what came, and give the values that are whole now."""
        self._data += data
        at = 0
        while (end := _end(self._data, at)) is not None:
            yield self._data[at:end]
            at = end
        self._data = self._data[at:]


def _end(data: bytes, at: int) -> int | None:
    """Return where the value that starts there ends; None if it is not whole."""
    line_end = data.find(b"\r\n", at)
    if line_end < 0:
        return None
    kind, rest, end = data[at : at + 1], data[at + 1 : line_end], line_end + 2
    if kind == b"$" and rest != b"-1":
        end += int(rest) + 2
        return end if end <= len(data) else None
    if kind == b"*" and rest != b"-1":
        for _ in range(int(rest)):
            after = _end(data, end)
            if after is None:
                return None
            end = after
    return end

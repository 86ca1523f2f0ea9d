"""Viewers with a socket of their own: they see each websocket frame, read as slowly as they like, and may leave pings unanswered."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.uri import parse_uri

from parallax.tasks import Tasks
from parallax.wire import Envelope, decode
from tests.cluster import Cluster
from tests.processes import HOST, PATIENCE
from tests.test_gateway import make

READ_BYTES = 1 << 18
MAKE, ON_UPDATE, COLUMNS = 6, 21, 24
TICK = 50  # the message id under which a `Ticking` subscribes
ANSWER_SECONDS = 30


async def open_socket(port: int, receive_buffer: int = 0) -> socket.socket:
    """Connect to a port of this machine; `receive_buffer`: what the kernel may take in unread, 0 for its own choice."""
    sock = socket.socket()
    sock.setblocking(False)
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1400)  # as on a real network; the loopback's are 64 KiB each
    try:
        await asyncio.get_running_loop().sock_connect(sock, (HOST, port))
    except BaseException:
        sock.close()
        raise
    return sock


class SocketViewer:
    """A websocket by hand: `websockets` holds the protocol, and complains about what is not by RFC 6455; the socket is ours."""

    def __init__(self, sock: socket.socket, port: int, query: str = "") -> None:
        self.response: Response | None = None
        self.messages: list[Envelope] = []
        """Whole messages that nobody has taken yet."""
        self.texts: list[dict[str, Any]] = []
        """What was said to the link."""
        self.fragments: list[int] = []
        """The sizes of the frames of the message that came last."""
        self.pings = 0
        self.has_ended = False
        self.answers_pings = True
        self.reads = asyncio.Event()
        """Clear it, and nothing more is read."""
        self.reads.set()
        self.pause = 0.0
        """Seconds between two reads."""
        self.read_bytes = READ_BYTES
        self._sock = sock
        self._protocol = ClientProtocol(parse_uri(f"ws://{HOST}:{port}/websocket{query}"), max_size=None)
        self._parts: list[bytes] = []
        self._sizes: list[int] = []
        self._arrived = asyncio.Event()

    async def connect(self, headers: Mapping[str, str] | None = None) -> None:
        """Shake hands; `response` is what the server said."""
        request = self._protocol.connect()
        request.headers.update(headers or {})
        self._protocol.send_request(request)
        await self._send_out()
        async with asyncio.timeout(ANSWER_SECONDS * PATIENCE):
            while self.response is None and not self.has_ended:
                await self._read()

    async def listen(self) -> None:
        """Read what comes, until the server has closed the connection."""
        while not self.has_ended:
            await self.reads.wait()
            await self._read()
            self._arrived.set()
            self._arrived = asyncio.Event()

    @property
    def close_code(self) -> int | None:
        """The code that the server closed with."""
        said = self._protocol.close_rcvd
        return None if said is None else said.code

    async def send(self, number: int, body: bytes = b"", entity: str = "", msg_id: int = 7) -> None:
        """Send a request, and wait for nothing."""
        self._protocol.send_binary(Envelope(msg_id, entity, number, body).encode())
        await self._send_out()

    async def say(self, message: str) -> None:
        """Send a text message, as a link does."""
        self._protocol.send_text(message.encode())
        await self._send_out()

    async def hear(self, key: str) -> Any:
        """Wait until something was said to the link under that key, and return the first of it."""
        async with asyncio.timeout(ANSWER_SECONDS * PATIENCE):
            while True:
                for number, text in enumerate(self.texts):
                    if key in text:
                        return self.texts.pop(number)[key]
                assert not self.has_ended, f"closed with {self.close_code}"
                await self._arrived.wait()

    async def hello(self, **positions: str) -> Any:
        """Say hello, as a link does, and return the answer."""
        await self.say(json.dumps({"hello": {"positions": positions}}))
        return await self.hear("hello")

    async def take(self, msg_id: int = 7) -> Envelope:
        """Wait until there is a message with that id, and return it."""
        async with asyncio.timeout(ANSWER_SECONDS * PATIENCE):
            while True:
                for position, message in enumerate(self.messages):
                    if message.msg_id == msg_id:
                        return self.messages.pop(position)
                assert not self.has_ended, f"closed with {self.close_code}, {self._protocol.parser_exc}"
                await self._arrived.wait()

    async def ask(self, number: int, body: bytes = b"", entity: str = "", msg_id: int = 7) -> Envelope:
        """Send a request and return its answer."""
        await self.send(number, body, entity, msg_id)
        return await self.take(msg_id)

    async def ended(self) -> None:
        """Wait until the server has closed the connection."""
        async with asyncio.timeout(ANSWER_SECONDS * PATIENCE):
            while not self.has_ended:
                await self._arrived.wait()

    async def _read(self) -> None:
        if self.pause:
            await asyncio.sleep(self.pause)
        try:
            data = await asyncio.get_running_loop().sock_recv(self._sock, self.read_bytes)
        except ConnectionError:
            data = b""
        if data:
            self._protocol.receive_data(data)
        else:
            self.has_ended = True
            self._protocol.receive_eof()
        for event in self._protocol.events_received():
            if isinstance(event, Response):
                self.response = event
            elif isinstance(event, Frame):
                self._heard(event)
        await self._send_out()

    def _heard(self, frame: Frame) -> None:
        if frame.opcode is Opcode.PING:
            self.pings += 1
            if not self.answers_pings:
                self._protocol.data_to_send()
        elif frame.opcode is Opcode.TEXT:
            self.texts.append(json.loads(frame.data))
        elif frame.opcode in (Opcode.BINARY, Opcode.CONT):
            self._parts.append(bytes(frame.data))
            self._sizes.append(len(frame.data))
            if frame.fin:
                self.messages.append(decode(b"".join(self._parts)))
                self.fragments = self._sizes
                self._parts, self._sizes = [], []

    async def _send_out(self) -> None:
        for data in self._protocol.data_to_send():
            if data and not self.has_ended:
                try:
                    await asyncio.get_running_loop().sock_sendall(self._sock, data)
                except ConnectionError:
                    self.has_ended = True

    def close(self) -> None:
        """Leave without a word."""
        self._sock.close()


@asynccontextmanager
async def socket_viewer(
    port: int, receive_buffer: int = 0, query: str = "", headers: Mapping[str, str] | None = None
) -> AsyncIterator[SocketViewer]:
    """Connect a viewer, who reads what comes, and let it go in the end."""
    viewer = SocketViewer(await open_socket(port, receive_buffer), port, query)
    try:
        async with Tasks() as tasks:
            await viewer.connect(headers)
            tasks.start(viewer.listen(), name="viewer")
            yield viewer
    finally:
        viewer.close()


async def seconds_until_dropped(port: int, beginning: bytes, drip: bytes, pause: float) -> tuple[float, bytes]:
    """Send `beginning`, then `drip` after each `pause`, until the server closes; return after how long, and what it said."""
    loop = asyncio.get_running_loop()
    sock = await open_socket(port)
    started = time.monotonic()
    said = b""
    try:
        async with asyncio.timeout(ANSWER_SECONDS * PATIENCE):
            await loop.sock_sendall(sock, beginning)
            while True:
                try:
                    data = await asyncio.wait_for(loop.sock_recv(sock, READ_BYTES), pause)
                except TimeoutError:
                    await loop.sock_sendall(sock, drip)
                    continue
                if not data:
                    break
                said += data
    except ConnectionError:
        pass  # closed while we were writing
    finally:
        sock.close()
    return time.monotonic() - started, said


class Measured:
    """What /metrics of a node said."""

    def __init__(self, text: str) -> None:
        self._values = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float:
        return self._values[f"parallax_node_{name}", frozenset(labels.items())]


async def measured(fleet: Cluster, node: str = "node-1") -> Measured:
    """Return what /metrics of a node says."""
    code, body = await fleet.fetch(fleet.url(node, "/metrics", internal=True))
    assert code == 200
    return Measured(body.decode())


def resident_bytes(fleet: Cluster, node: str = "node-1") -> int:
    """How much memory a node has; 0 where /proc does not say."""
    status = Path(f"/proc/{fleet[node].pid}/status")
    if not status.exists():
        return 0
    return int(status.read_text().partition("VmRSS:")[2].split()[0]) << 10


def said_by(body: bytes) -> bytes:
    """Return the JSON of an answer to ToColumns, which is a message with one string."""
    return body[body.index(b"{") :]


class Ticking:
    """A viewer of a small table; `tick` changes it, and waits until the viewer was told and has read the change."""

    def __init__(self, fleet: Cluster, viewer: SocketViewer, table: str) -> None:
        self.viewer = viewer
        self.ticks = 0
        self._fleet, self._table = fleet, table

    async def start(self) -> None:
        await self.viewer.ask(MAKE, make("ticks", group_by=["k"]), self._table)
        await self.viewer.send(ON_UPDATE, b"", "ticks", TICK)
        await self.tick()

    async def tick(self) -> None:
        self.ticks += 1
        value = time.monotonic_ns() % (1 << 31)
        await self._fleet.publish(self._table, data=json.dumps([{"k": "a", "n": value}]))
        seen = None
        while seen != value:
            await self.viewer.take(TICK)
            answer = await self.viewer.ask(COLUMNS, b"", "ticks")
            seen = json.loads(said_by(answer.body))["n"][0]

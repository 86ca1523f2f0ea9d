"""Frames are what was sent, however the network cuts them."""

import asyncio
import inspect
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tornado.web import Application
from tornado.websocket import WebSocketProtocol13

from node.gateway.frames import ARRIVED_BYTES, FrameHandler, Protocol
from node.gateway.handler import ViewerHandler
from node.gateway.requests import SYSTEM_INFO
from node.gateway.session import Session
from parallax.demo.ports import choose_ports
from parallax.tasks import Tasks
from parallax.wire import Envelope, decode
from tests.page_node import Node
from tests.processes import HOST, PATIENCE

MOST = 3 * ARRIVED_BYTES


class Stream:
    """Bytes that arrive in pieces."""

    def __init__(self, data: bytes, pieces: Sequence[int]) -> None:
        self._data, self._pieces, self.asked = data, list(pieces), 0

    async def read_bytes(self, count: int, partial: bool = False) -> bytes:
        self.asked += 1
        if partial and self._pieces:
            count = min(count, self._pieces.pop(0))
        found, self._data = self._data[:count], self._data[count:]
        assert found, "it would wait for ever"
        return found


def protocol(stream: Stream) -> Any:
    made: Any = object.__new__(Protocol)
    made.stream, made._wire_bytes_in, made._fragmented_message_buffer, made._decompressor = stream, 0, None, None
    return made


@given(
    st.lists(st.one_of(st.integers(0, 200), st.integers(0, MOST)), max_size=12),
    st.lists(st.one_of(st.integers(1, 30), st.integers(1, MOST)), max_size=30),
    st.integers(0, 50),
)
def test_what_is_asked_for_comes_in_order_however_it_arrives(counts: list[int], pieces: list[int], more: int):
    data = random.Random(1).randbytes(sum(counts) + more)
    stream = Stream(data, pieces)
    reader = protocol(stream)

    async def read() -> list[bytes]:
        return [await reader._read_bytes(count) for count in counts]

    found = asyncio.run(read())
    assert [len(one) for one in found] == counts
    assert b"".join(found) == data[: sum(counts)]
    assert reader._wire_bytes_in == sum(counts)
    assert len(reader._arrived) <= ARRIVED_BYTES + max(counts, default=0)


async def test_a_packet_of_frames_is_asked_for_once():
    stream = Stream(bytes(6 * 30), [])
    reader = protocol(stream)
    for _ in range(6):
        for count in (2, 4, 24):
            await reader._read_bytes(count)
    assert stream.asked == 1


async def test_short_messages_are_not_asked_for_in_pieces():
    stream = Stream(b"".join(frame(b"%d" % number * 20, 2) for number in range(6)), [])
    reader = protocol(stream)
    heard: list[bytes] = []
    reader._handle_message = lambda opcode, data: heard.append(data)
    reader.handler = SimpleNamespace(on_handled=lambda: heard.append(b"all"))
    await reader._receive_frame()
    assert heard == [*(b"%d" % number * 20 for number in range(6)), b"all"]
    assert stream.asked == 1
    assert reader._wire_bytes_in == 6 * 26


async def test_viewers_who_ask_in_the_same_instant_are_answered_one_after_the_other(monkeypatch: pytest.MonkeyPatch):
    order: list[str] = []
    receive, write = Session.receive, ViewerHandler._write
    monkeypatch.setattr(Session, "receive", lambda session, request: (order.append("asked"), receive(session, request)))
    monkeypatch.setattr(
        ViewerHandler, "_write", lambda handler, frames: (order.append("answered"), write(handler, frames))[1]
    )
    node = Node()
    port = urlsplit(node.url).port
    assert port
    viewers = [await opened(port) for _ in range(3)]
    requests = b"".join(frame(Envelope(number, "", SYSTEM_INFO, b"").encode(), 2) for number in range(6))
    for _, writer in viewers:
        writer.write(requests)  # sent at once; the node, on the same loop, has no turn until all have
    for reader, writer in viewers:
        for number in range(6):
            assert decode((await answer(reader))[1]).msg_id == number
        writer.close()
    await node.close()
    assert order == 3 * [*6 * ["asked"], "answered"]


def test_tornado_reads_frames_by_the_methods_that_are_replaced():
    source = inspect.getsource(WebSocketProtocol13._receive_frame)
    assert "self._read_bytes(" in source
    assert "stream" not in source
    assert "self._handle_message(opcode, data)" in source
    assert "self._receive_frame()" in inspect.getsource(WebSocketProtocol13._receive_frame_loop)


class Echo(FrameHandler):
    """Answers each message by itself; after `pause`, the next is read only once it is set."""

    pause: ClassVar[asyncio.Event | None] = None
    heard: ClassVar[list[bytes | str]] = []

    def on_message(self, message: bytes | str) -> Any:
        self.heard.append(message)
        self.write_message(message, binary=isinstance(message, bytes))
        return self.pause.wait() if self.pause is not None else None


@pytest.fixture
async def port() -> AsyncIterator[int]:
    Echo.pause, Echo.heard = None, []
    chosen = choose_ports({"echo": 0})["echo"]
    server = Application([("/websocket", Echo)], websocket_max_message_size=1 << 20).listen(chosen, HOST)
    yield chosen
    server.stop()
    await server.close_all_connections()


def frame(payload: bytes, opcode: int, is_final: bool = True) -> bytes:
    mask = b"\x11\x22\x33\x44"
    size = len(payload)
    head = bytes((opcode | 0x80 * is_final,))
    if size < 126:
        head += bytes((0x80 | size,))
    elif size < 1 << 16:
        head += b"\xfe" + size.to_bytes(2, "big")
    else:
        head += b"\xff" + size.to_bytes(8, "big")
    return head + mask + bytes(byte ^ mask[number % 4] for number, byte in enumerate(payload))


async def opened(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection(HOST, port)
    hello = f"GET /websocket HTTP/1.1\r\nHost: {HOST}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    writer.write(f"{hello}Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    return reader, writer


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    opcode, size = await reader.readexactly(2)
    if size > 125:
        size = int.from_bytes(await reader.readexactly(2 if size == 126 else 8), "big")
    return opcode & 0x0F, await reader.readexactly(size)


@pytest.mark.parametrize("seed", range(6))
async def test_messages_are_what_was_sent_however_they_are_cut(port: int, seed: int):
    """Short and long ones, in fragments, with pings between, in packets that end anywhere."""
    draw = random.Random(seed)
    sent, expected = b"", []
    for number in range(20):
        payload = draw.randbytes(draw.choice([0, 5, 125, 126, 4000, 65_535, 65_536, 200_000]))
        if draw.random() < 0.3:
            cut = draw.randrange(len(payload) + 1)
            sent += frame(payload[:cut], 2, is_final=False) + frame(b"p%d" % number, 9) + frame(payload[cut:], 0)
            expected += [(10, b"p%d" % number), (2, payload)]
        else:
            sent += frame(payload, 2)
            expected.append((2, payload))
    reader, writer = await opened(port)

    async def send() -> None:
        rest = sent
        while rest:
            size = draw.choice([1, 2, 7, 1000, 70_000])
            writer.write(rest[:size])
            rest = rest[size:]
            await writer.drain()
            if draw.random() < 0.1:
                await asyncio.sleep(0)

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        group.create_task(send())
        for one in expected:
            assert await answer(reader) == one
    writer.close()


async def test_who_has_to_wait_is_not_read_though_more_has_arrived(port: int):
    Echo.pause = asyncio.Event()
    reader, writer = await opened(port)
    writer.write(frame(b"one", 2) + frame(b"two", 2))
    assert await answer(reader) == (2, b"one")
    writer.write(frame(b"three", 2))
    await writer.drain()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(answer(reader), 0.1)
    assert Echo.heard == [b"one"]
    Echo.pause.set()
    assert [await answer(reader), await answer(reader)] == [(2, b"two"), (2, b"three")]
    writer.close()


async def test_others_have_their_turn_though_thousands_of_messages_have_arrived(port: int, monkeypatch: pytest.MonkeyPatch):
    turns, heard_in, are_heard = 0, Counter[int](), asyncio.Event()

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    def hear(_: Echo, message: bytes) -> None:
        heard_in[turns] += 1
        if heard_in.total() == 5000:
            are_heard.set()

    monkeypatch.setattr(Echo, "on_message", hear)
    _, writer = await opened(port)
    async with Tasks() as tasks:
        tasks.start(turn(), name="turns of the loop")
        writer.write(frame(bytes(4), 2) * 5000)  # less than the node takes from a stream at once
        async with asyncio.timeout(20 * PATIENCE):
            await are_heard.wait()
    assert max(heard_in.values()) <= 300
    writer.close()


async def test_who_leaves_in_the_middle_of_a_frame_is_closed(port: int):
    reader, writer = await opened(port)
    writer.write(frame(b"whole", 2) + frame(b"x" * 500, 2)[:300])
    assert await answer(reader) == (2, b"whole")
    writer.write_eof()
    assert await asyncio.wait_for(reader.read(), 10) == b""
    assert Echo.heard == [b"whole"]
    writer.close()


async def test_a_message_that_is_too_long_ends_the_connection(port: int):
    reader, writer = await opened(port)
    writer.write(frame(b"first", 2) + b"\x82\xff" + (2 << 20).to_bytes(8, "big"))
    assert await answer(reader) == (2, b"first")
    opcode, reason = await answer(reader)
    assert (opcode, int.from_bytes(reason[:2], "big")) == (8, 1009)
    writer.close()

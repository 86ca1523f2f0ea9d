"""Frames that no client sends, for a real node: random bytes, and real requests that were bent.

The requests are those of tests/differential_requests.py: views are live, and know expressions, filters and windows.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

import websockets

from parallax.tasks import Tasks
from parallax.wire import Envelope, Malformed, decode
from tests.differential import request_of
from tests.differential_requests import Action, Requests
from tests.processes import PATIENCE

Frame = bytes | str | list[bytes]
"""Binary; text; or binary in fragments."""

LAST = Envelope(987_654_321, "", 17, b"")
"""A request that is answered: all before it was read then."""

HUGE = b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f"
"""A length or a number that there cannot be."""


class Bender:
    """Bends frames."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._ways = [
            self._flip, self._cut, self._double, self._insert, self._grow, self._swap, self._nest, self._unknown, self._noise,
            self._text, self._fragments, self._join,
        ]  # fmt: skip
        self._last = b"\x08\x01"

    def bend(self, frame: bytes) -> tuple[str, Frame]:
        """Return what was done, and the frame that came of it."""
        way = self._rng.choice(self._ways)
        bent = way(frame)
        self._last = frame
        return way.__name__.strip("_"), bent

    def _at(self, frame: bytes) -> int:
        return self._rng.randrange(len(frame) + 1)

    def _flip(self, frame: bytes) -> bytes:
        found = bytearray(frame or b"\0")
        for _ in range(self._rng.choice([1, 1, 2, 5])):
            found[self._rng.randrange(len(found))] ^= 1 << self._rng.randrange(8)
        return bytes(found)

    def _cut(self, frame: bytes) -> bytes:
        return frame[: self._at(frame)]

    def _double(self, frame: bytes) -> bytes:
        start, end = sorted((self._at(frame), self._at(frame)))
        return frame[:end] + frame[start:end] * self._rng.choice([1, 2, 50]) + frame[end:]

    def _insert(self, frame: bytes) -> bytes:
        at = self._at(frame)
        return frame[:at] + self._rng.randbytes(self._rng.randrange(1, 9)) + frame[at:]

    def _grow(self, frame: bytes) -> bytes:
        at = self._at(frame)
        return frame[:at] + self._rng.choice([HUGE, b"\xff\xff\xff\xff\x0f", b"\xff\xff\xff\xff\x07"]) + frame[at + 1 :]

    def _swap(self, frame: bytes) -> bytes:
        one, two, three = sorted(self._at(frame) for _ in range(3))
        return frame[:one] + frame[two:three] + frame[one:two] + frame[three:]

    def _nest(self, frame: bytes) -> bytes:
        inner = frame
        for _ in range(self._rng.choice([3, 30, 300])):
            inner = bytes([self._rng.choice([0x12, 0x1A, 0x22, 0x32])]) + _varint(len(inner)) + inner
        return frame + inner

    def _unknown(self, frame: bytes) -> bytes:
        return (
            frame + _varint(self._rng.randrange(1, 1 << 12) << 3 | self._rng.choice([0, 1, 2, 5])) + self._rng.randbytes(9)
        )

    def _noise(self, frame: bytes) -> bytes:
        return self._rng.randbytes(self._rng.choice([0, 1, 10, 100, 5000]))

    def _text(self, frame: bytes) -> str:
        return frame.decode("latin-1")

    def _fragments(self, frame: bytes) -> list[bytes]:
        at = self._at(frame)
        return [frame[:at], frame[at:]]

    def _join(self, frame: bytes) -> bytes:
        return frame + self._last


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


@dataclass
class Sent:
    """What was sent, and what came."""

    frames: int = 0
    readable: int = 0  # frames whose envelope is one
    answers: int = 0
    closed: Counter[int] = field(default_factory=Counter)  # connections that the node closed, by code
    ways: Counter[str] = field(default_factory=Counter)
    ended: int = 0  # connections that heard the answer to their last request, or were closed


async def fuzz(url: str, seed: int, frames: int) -> Sent:
    """Send so many frames; three of ten are as they should be. Connections that are closed are made again."""
    rng, source, sent = random.Random(seed), Requests(seed), Sent()
    bender = Bender(rng)
    async with AsyncExitStack() as stack, Tasks() as tasks:
        viewers: dict[int, Any] = {}

        async def viewer(who: int) -> Any:
            if who not in viewers:
                viewers[who] = await stack.enter_async_context(websockets.connect(url, max_size=None, compression=None))
                tasks.start(_drain(viewers[who], sent), name="what the node says")
            return viewers[who]

        for ask in _asks(source):
            if sent.frames >= frames:
                break
            way, frame = _frame(request_of(ask), bender, rng)
            socket = await viewer(ask["who"])
            with suppress(websockets.ConnectionClosed):
                await socket.send(frame)
                if isinstance(frame, str):
                    await socket.wait_closed()  # that is what it is answered with
            sent.frames += 1
            sent.ways[way] += 1
            sent.readable += _is_readable(frame)
            if socket.close_code is not None:
                sent.closed[socket.close_code] += 1
                sent.ended -= 1
                del viewers[ask["who"]]
        for socket in viewers.values():
            with suppress(websockets.ConnectionClosed):
                await socket.send(LAST.encode())
        async with asyncio.timeout(60 * PATIENCE):
            while sent.ended < len(viewers):  # noqa: ASYNC110 - no event tells
                await asyncio.sleep(0.01)
    return sent


def _frame(request: Envelope, bender: Bender, rng: random.Random) -> tuple[str, Frame]:
    dice = rng.random()
    if dice < 0.3:
        return "as it is", request.encode()
    if dice < 0.65:  # only what is in the envelope
        way, body = bender.bend(request.body)
        if isinstance(body, bytes):
            return f"{way} inside", request._replace(body=body).encode()
    return bender.bend(request.encode())


def _asks(source: Requests) -> Iterator[Action]:
    while True:
        action = source.next()
        if action["do"] == "ask":
            yield action
        elif action["do"] == "burst":
            yield from action["asks"]


def _is_readable(frame: Frame) -> bool:
    if isinstance(frame, str):
        return False
    try:
        decode(frame if isinstance(frame, bytes) else b"".join(frame))
    except Malformed:
        return False
    return True


async def _drain(socket: Any, sent: Sent) -> None:
    with suppress(websockets.ConnectionClosed):
        async for message in socket:
            sent.answers += 1
            if decode(message).msg_id == LAST.msg_id:
                break
    sent.ended += 1

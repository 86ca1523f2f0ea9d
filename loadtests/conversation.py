"""One viewer's websocket, with blocking calls: under Locust, gevent makes them give way to the other viewers.

Knows the envelope of Perspective's protocol and the few text messages of Parallax's link, and nothing of load tests.
"""

import itertools
import json
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import websocket
from websocket import ABNF

from loadtests.protocol import ERROR, Body, Broken, decode, read_varint, request

VIEW_DELETE = (11, b"")
ON_UPDATE, PLAIN, BY_ROWS = 21, b"", b"\x08\x00"
LEAVING = 1012


class Lost(Exception):
    """The connection is gone. `code` is the close code, 0 if nothing was said."""

    def __init__(self, code: int, reason: str) -> None:
        self.code = code
        super().__init__(f"closed with {code}: {reason}" if code else reason)


class TooLate(Exception):
    """No answer came in time."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for one request, or a notification."""

    msg_id: int
    kind: int
    body: bytes
    size: int
    """Of the whole message, in bytes."""
    at_us: int
    """When it came, in microseconds since the epoch."""
    took_us: int = 0
    """From the request to here."""


Heard = Callable[[Answer], None]


class Conversation:
    """A websocket to any node. Whoever asks waits, and hands on what else comes meanwhile to those who subscribed."""

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        positions: Mapping[str, str] | None = None,
        hello: bool = True,
        timeout: float = 30.0,
    ) -> None:
        """Connect, and say hello as Parallax's link does, unless it should be a stock client.

        Raises:
            Lost: nobody is there, or who is there refused.
        """
        self.positions = dict(positions or {})
        """The newest positions of tables that a node told."""
        self.messages = self.bytes = 0
        self.timeout = timeout
        self._numbers = itertools.count(1)
        self._asked: dict[int, float] = {}  # when
        self._answers: dict[int, Answer] = {}
        self._heard: dict[int, Heard] = {}
        try:
            self._socket = websocket.create_connection(
                url,
                timeout=timeout,
                header=dict(headers or {}),
                sockopt=((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),),
                skip_utf8_validation=True,
                enable_multithread=False,
            )
        except (OSError, websocket.WebSocketException) as error:
            raise Lost(0, f"{type(error).__name__}: {error}") from None
        self._is_greeted = not hello
        if hello:
            self._write(json.dumps({"hello": {"positions": self.positions}}), ABNF.OPCODE_TEXT)
            deadline = time.monotonic() + timeout
            while not self._is_greeted:
                if not self._read(deadline) and time.monotonic() >= deadline:
                    raise Lost(0, f"no greeting within {timeout:g} s")

    def send(self, entity_id: str, body: Body) -> int:
        """Send a request and return its number; `take` waits for the answer."""
        msg_id = next(self._numbers)
        self._asked[msg_id] = time.perf_counter()
        self._write(request(msg_id, entity_id, body))
        return msg_id

    def take(self, msg_id: int) -> Answer:
        """Wait for the answer to a request.

        Raises:
            Broken: it is an error.
            Lost: the connection ended first.
            TooLate: nothing came in time.
        """
        deadline = time.monotonic() + self.timeout
        while msg_id not in self._answers:
            if not self._read(deadline) and time.monotonic() >= deadline:
                raise TooLate(f"no answer within {self.timeout:g} s")
        answer = self._answers.pop(msg_id)
        if answer.kind == ERROR:
            raise Broken(answer.body[:200].decode(errors="replace"))
        return answer

    def ask(self, entity_id: str, body: Body) -> Answer:
        """Send a request and wait for its answer; raises as `take`."""
        return self.take(self.send(entity_id, body))

    def subscribe(self, view_id: str, hear: Heard, body: bytes = PLAIN) -> None:
        """Have each notification of a view handed to `hear`; with BY_ROWS it carries what changed."""
        msg_id = next(self._numbers)
        self._heard[msg_id] = hear
        self._write(request(msg_id, view_id, (ON_UPDATE, body)))

    def listen(self, seconds: float) -> bool:
        """Take in one message, or none if none comes; return whether one came.

        Raises:
            Lost: the connection is gone.
        """
        return self._read(time.monotonic() + seconds)

    def traffic(self) -> tuple[int, int]:
        """Return how many messages and bytes came since the last call."""
        found = self.messages, self.bytes
        self.messages = self.bytes = 0
        return found

    def close(self) -> None:
        """Hang up, without ceremony."""
        self._socket.shutdown()

    def _write(self, payload: bytes | str, opcode: int = ABNF.OPCODE_BINARY) -> None:
        try:
            self._socket.settimeout(self.timeout)
            self._socket.send(payload, opcode)
        except (OSError, websocket.WebSocketException) as error:
            raise Lost(0, f"{type(error).__name__}: {error}") from None

    def _read(self, deadline: float) -> bool:
        try:
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            opcode, frame = self._socket.recv_data_frame()
        except (websocket.WebSocketTimeoutException, ssl.SSLWantReadError):
            return False
        except (OSError, websocket.WebSocketException) as error:
            raise Lost(0, f"{type(error).__name__}: {error}") from None
        data: bytes = frame.data
        if opcode == ABNF.OPCODE_CLOSE:
            raise Lost(int.from_bytes(data[:2], "big"), data[2:].decode(errors="replace"))
        self.messages += 1
        self.bytes += len(data)
        if opcode == ABNF.OPCODE_TEXT:
            self._hear_link(json.loads(data))
            return True
        msg_id, _, kind, body = decode(data)
        now_us = time.time_ns() // 1000
        if msg_id in self._asked:
            took_us = round((time.perf_counter() - self._asked.pop(msg_id)) * 1e6)
            self._answers[msg_id] = Answer(msg_id, kind, body, len(data), now_us, took_us)
        elif msg_id in self._heard:
            self._heard[msg_id](Answer(msg_id, kind, body, len(data), now_us))
        return True

    def _hear_link(self, message: Mapping[str, Any]) -> None:
        self._is_greeted = self._is_greeted or "hello" in message
        self.positions |= message.get("position", {})


def content(answer: Answer) -> bytes:
    """Return the Arrow that an answer or a notification carries; nothing if it carries none."""
    body = answer.body
    if not body.startswith(b"\x0a"):
        return b""
    size, at = read_varint(body, 1)
    return body[at : at + size]

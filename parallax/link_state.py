"""What a link keeps, and how it reads and ends what it has: see `parallax.link`."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from tornado.websocket import WebSocketClientConnection

from parallax import wire
from parallax.wire import Envelope


@dataclass(frozen=True, slots=True)
class LinkState:
    """How a connection is: `name` is connecting, live, reconnecting or closed; `stale` are tables that get no updates there."""

    name: str
    node: str = ""
    version: str = ""
    stale: tuple[str, ...] = ()
    reason: str = ""


@dataclass(slots=True)
class Change:
    """An expansion, a collapse or a depth."""

    number: int
    body: bytes
    path: Any = None  # of the group: its row's number means another one later


@dataclass(slots=True)
class View:
    """What made a view, and what was done with it since."""

    table: str
    make: bytes
    is_made: bool = False
    changes: list[Change] = field(default_factory=list)
    subscriptions: dict[int, bytes] = field(default_factory=dict)  # by message id


@dataclass(slots=True)
class Waiting:
    """A request of the client that has no answer."""

    frame: bytes
    request: Envelope
    since: float
    is_sent: bool


class RefusedToLink(Exception):
    """A node's answer to what the link itself asked."""


def first_text(body: bytes) -> str:
    """Return the text in a body's first field."""
    value = wire.fields(body).get(1, b"")
    return value.decode() if isinstance(value, bytes) else ""


def first_number(body: bytes) -> int:
    """Return the number in a body's first field."""
    value = wire.fields(body).get(1, 0)
    return value if isinstance(value, int) else 0


def abort(socket: WebSocketClientConnection) -> None:
    """End a connection: with a farewell, whose answer might never come."""
    stream = None if socket.protocol is None else socket.protocol.stream
    socket.close()
    if stream is not None:
        stream.close()


def abort_late(connecting: "asyncio.Future[WebSocketClientConnection]") -> None:
    """End a connection that came about when nobody wanted it any more."""
    if not connecting.cancelled() and connecting.exception() is None:
        abort(connecting.result())

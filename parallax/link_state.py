"""What a link keeps: see `parallax.link`."""

from dataclasses import dataclass, field
from typing import Any

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

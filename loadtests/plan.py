"""What the benchmark tells a process of viewers to do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from loadtests.protocol import Body

PATIENCE = 3
"""A window is made up to so many times longer when the server is so slow that there is little to count."""


@dataclass(frozen=True, slots=True)
class Dialogue:
    """The bodies of one viewer's requests. Of the view's creation it is the configuration alone: each viewer puts a view id before it."""

    config: bytes
    subscribe: Body
    refresh: tuple[Body, ...]
    """Four times the dimensions, the schema, the rows on the screen: what `<perspective-viewer>` asks at each notification."""
    kinds: dict[str, Body]
    """One of each kind of read, by name."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a process of viewers does. Each viewer takes the next dialogue in turn; without dialogues it only listens."""

    host: str
    port: int
    pid: int
    """The server's, to read its processor time and memory."""
    table: str
    viewers: int
    dialogues: Sequence[Dialogue]
    seconds: float = 4.0
    warm_seconds: float = 1.0
    setup_seconds: float = 40.0
    does: Literal["refresh", "listen", "time requests"] = "refresh"
    """Read at each notification, only count them, or ask without any."""
    tick_ms: float = 0.0
    """The time between two ticks, if the first price on the screen is the instant at which the newest one was due; or 0."""
    beside: Mapping[str, int] = field(default_factory=dict)
    """Other processes whose processor time counts, by name."""

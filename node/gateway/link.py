"""What is said, besides Perspective's requests, to viewers whose transport can find another node (`link.js`, `parallax.connect`).

Text messages, each a JSON object with one key; Perspective itself sends none. The link begins with `hello` and the highest
positions that its viewer saw: this node answers, and reads the viewer's next request, when it has come as far, or when
`PARALLAX_CATCHUP_MS` are over. From then on it tells the position of a table before it sends an answer, row deltas or the
confirmation of an edit that hold what is newer than the last one told.

| from the link | from the node |
|---|---|
| `{"hello": {"positions": {"flights": "7-42"}}}` | `{"hello": {"node": "node-1", "version": "0.1.0", "behind": []}}`: tables that may be older than that |
| `{"ping": 1}` | `{"pong": 1}` |
| | `{"position": {"flights": "7-43"}}` |
| | `{"stale": ["flights"]}`: all tables of which this node has lost the log; again when that changes |
"""

import json
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from node.auth import Access
from node.gateway.outbox import TEXT, Frame, Outbox
from parallax.replication.position import Position
from parallax.version import VERSION

if TYPE_CHECKING:
    from node.gateway.gateway import Gateway
    from node.gateway.hosted import Hosted

MOST_TABLES = 1000
"""Positions that a link may present."""


class NotALink(Exception):
    """A text message that no link sends."""


class Link:
    """One session's."""

    def __init__(self, gateway: "Gateway", outbox: Outbox, access: Access) -> None:
        self.is_there = False
        """Whether it said hello."""
        self._gateway, self._outbox, self._access = gateway, outbox, access
        self._told: dict[str, str] = {}  # table -> position
        self._stale: list[str] = []

    async def hear(self, text: str) -> None:
        """Take in a message.

        Raises:
            NotALink: it is none of those above.
        """
        match _read(text):
            case {"ping": int() | float() | str() as token, **rest} if not rest:
                self._send({"pong": token})
            case {"hello": {"positions": dict() as positions, **others}, **rest} if not rest and not others:
                await self._greet(_positions(positions))
            case _:
                raise NotALink("expected hello or ping")

    def tell_position(self, hosted: "Hosted") -> None:
        """Tell how far the table is that the viewer is about to be told of."""
        if not self.is_there:
            return
        position = hosted.table.work.visible
        if position and self._told.get(hosted.name) != position:
            self._told[hosted.name] = position
            self._send({"position": {hosted.name: position}})

    def tell_stale(self) -> None:
        """Tell which tables do not move any more because their log is out of reach, if that changed."""
        stale = sorted(name for name in self._gateway.stale() if self._access.may_read(name))
        if self.is_there and stale != self._stale:
            self._stale = stale
            self._send({"stale": stale})

    async def _greet(self, positions: Mapping[str, Position]) -> None:
        deadline = time.monotonic() + self._gateway.settings.catchup_ms / 1000
        behind = []
        for name, position in positions.items():
            if self._access.may_read(name) and self._gateway.find(name) is not None:
                left = max(0.0, deadline - time.monotonic())
                if not await self._gateway.catch_up(name, position, left):
                    behind.append(name)
        self.is_there = True
        self._send({"hello": {"node": self._gateway.name, "version": VERSION, "behind": sorted(behind)}})
        self._stale = []
        self.tell_stale()

    def _send(self, message: Mapping[str, Any]) -> None:
        self._outbox.put(Frame(json.dumps(message).encode(), b"", TEXT))


def _read(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise NotALink("not JSON") from None


def _positions(texts: Mapping[str, Any]) -> dict[str, Position]:
    if len(texts) > MOST_TABLES:
        raise NotALink(f"more than {MOST_TABLES} positions")
    try:
        return {name: Position.parse(text) for name, text in texts.items() if isinstance(text, str)}
    except ValueError as wrong:
        raise NotALink(str(wrong)[:80]) from None

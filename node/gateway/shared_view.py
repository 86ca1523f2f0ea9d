"""A view of the engine, and all who look at it."""

import asyncio
from collections.abc import Callable
from enum import StrEnum
from typing import Any

from node.gateway.answers import Answers, Budget
from node.gateway.outbox import Frame, Outbox
from parallax.wire import head

PLAIN, ROWS, REMOVED = "plain", "rows", "removed"
"""What a subscription hears: that something changed; the changed rows; the removed rows."""
Kinds = frozenset[str]
ONLY_PLAIN: Kinds = frozenset({PLAIN})


class Subscription:
    """One viewer's wish to hear of a view, under the message id that it chose for ever."""

    def __init__(
        self, outbox: Outbox, msg_id: int, entity_id: str, number: int, kind: str, before_rows: Callable[[], None]
    ) -> None:
        self.number = number
        self.kind = kind
        self.is_waiting = False
        self._outbox = outbox
        self._before_rows = before_rows
        self._ids = (msg_id, entity_id)
        self.frame = Frame(head(msg_id, entity_id, number, 0), b"")

    def hear(self, body: bytes) -> None:
        """Tell the viewer."""
        if self.kind == PLAIN:
            self._outbox.notify(self)
        else:
            self._before_rows()
            self._outbox.put(Frame(head(*self._ids, self.number, len(body)), body), are_rows=True)


class State(StrEnum):
    """Where a shared view is in its life."""

    CREATING = "creating"
    LIVE = "live"
    LINGERING = "lingering"  # nobody looks at it; it is kept for a moment
    DELETING = "deleting"  # whoever asks for its configuration now gets another one


class SharedView:
    """One view of the engine. `references` is how many views of sessions it stands for, those that wait for it included."""

    def __init__(self, key: Any, config: Any, engine_id: str, fingerprint: str, budget: Budget, hears: Kinds) -> None:
        self.key = key
        """Under which others find it; None: it is private."""
        self.config = config
        self.engine_id = engine_id
        self.fingerprint = fingerprint
        self.born = ""
        """Where the table was in its log when the view was made."""
        self.hears = hears
        self.state = State.CREATING
        self.references = 0
        self.made: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.timer: asyncio.TimerHandle | None = None
        self.answers = Answers(engine_id, budget, config, fingerprint)
        self.listeners: dict[str, set[Subscription]] = {PLAIN: set(), ROWS: set(), REMOVED: set()}

    def hear(self, kind: str, body: bytes) -> None:
        """Tell all subscribers of a kind."""
        for subscription in tuple(self.listeners[kind]):
            subscription.hear(body)

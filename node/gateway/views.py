"""The views of one session: each stands for one that others may look at, too."""

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from node.gateway import configs, messages, safety
from node.gateway.answers import Answer
from node.gateway.hosted import Hosted
from node.gateway.outbox import Outbox
from node.gateway.requests import OF_ROWS
from node.gateway.shared_view import ONLY_PLAIN, PLAIN, ROWS, SharedView, Subscription
from parallax.replica.engine import MOST_VIEWS, StaleGeneration
from parallax.wire import Refused

if TYPE_CHECKING:
    from node.gateway.gateway import Gateway

log = logging.getLogger(__name__)

NEAR_ROWS = 500
"""So far to either side a group is looked for first; then sixteen times as far, and so on."""


@dataclass(slots=True)
class View:
    """What a session calls a view."""

    hosted: Hosted
    config: Any  # as it was checked
    shared: SharedView
    others: dict[str, SharedView] = field(default_factory=dict)  # by kind, where rows come from, unless `shared` is private
    subscriptions: dict[int, Subscription] = field(default_factory=dict)  # by the client's msg_id
    is_over: bool = False  # it was let go for good, perhaps while something waited

    async def read(self, number: int, body: bytes, *, is_cheap: bool = False) -> Answer:
        """Return an answer about it.

        Who hears of its rows gets none that is older than those that he was sent: he would take them back.

        Raises:
            StaleGeneration: as `Hosted.read`.
        """
        while True:
            answer = await self.hosted.read(self.shared.answers, number, body, is_cheap=is_cheap)
            hears_rows = any(subscription.kind != PLAIN for subscription in self.subscriptions.values())
            if answer.version == self.hosted.table.version or not hears_rows:
                return answer

    def stop_listening(self, subscription: Subscription) -> None:
        """Let a subscription hear no more."""
        for shared in (self.shared, *self.others.values()):
            shared.listeners[subscription.kind].discard(subscription)

    def let_go(self) -> None:
        """Release what this view stands for."""
        for subscription in self.subscriptions.values():
            self.stop_listening(subscription)
        for shared in (self.shared, *self.others.values()):
            self.hosted.release(shared)
        self.others.clear()


def bound_subscriptions(count: int, limit: int) -> None:
    """Check that one more than `count` subscriptions is allowed.

    Raises:
        Refused: it is not.
    """
    if count >= limit:
        raise Refused("too many subscriptions (PARALLAX_MAX_VIEWS)")


async def _row_of(view: View, path: Any, near: int) -> int:
    """Return which row of a view is that of a group: first it is looked for near a row. If it is not there, that row it is."""
    reach = NEAR_ROWS
    while True:
        first, end = max(0, near - reach), near + reach
        paths = await view.hosted.row_paths(view.shared, first, end)
        if path in paths:
            return first + paths.index(path)
        if first == 0 and len(paths) < end:
            return near
        reach *= 16


class Views:
    """By the client's ids; at most `max_views`, those that are being made included."""

    def __init__(self, gateway: "Gateway", outbox: Outbox) -> None:
        self._gateway = gateway
        self._outbox = outbox
        self._views: dict[str, View] = {}
        self._making = 0

    def __len__(self) -> int:
        return len(self._views)

    @property
    def subscriptions(self) -> int:
        """How many subscriptions all of them have."""
        return sum(len(view.subscriptions) for view in self._views.values())

    def find(self, client_id: str) -> View | None:
        """Return a view."""
        return self._views.get(client_id)

    def table_of(self, client_id: str) -> str:
        """Return the name of a view's table, "" if there is no such view."""
        view = self._views.get(client_id)
        return "" if view is None else view.hosted.name

    def of_table(self, name: str) -> list[str]:
        """Return the ids of the views of a table."""
        return [client_id for client_id, view in self._views.items() if view.hosted.name == name]

    async def make(self, hosted: Hosted, client_id: str, config: Any) -> None:
        """Make a view.

        Raises:
            Refused: its id or its configuration is not valid, or there are too many.
            StaleGeneration: the table was dropped or changed its shape.
        """
        most = self._gateway.settings.max_views
        if not client_id:
            raise Refused("a view needs an id")
        if client_id in self._views:
            raise Refused(f"this session has a view {client_id!r} already")
        if len(self._views) + self._making >= most:
            raise Refused(f"this session has {len(self._views)} views; more are not allowed (PARALLAX_MAX_VIEWS)")
        self._making += 1
        try:
            await configs.check(hosted, config)
            shared = await self._acquire(hosted, config)
        finally:
            self._making -= 1
        if self._gateway.find(hosted.name) is not hosted:  # nobody would make this one again
            hosted.release(shared)
            raise StaleGeneration
        self._views[client_id] = View(hosted, config, shared)

    async def _acquire(self, hosted: Hosted, config: Any, **options: Any) -> SharedView:
        if not self._gateway.make_room():
            raise Refused(f"this node holds {MOST_VIEWS} views and can hold no more; try again later")
        return await hosted.acquire(config, **options)

    async def _acquire_for(self, view: View, hosted: Hosted, **options: Any) -> SharedView:
        shared = await self._acquire(hosted, view.config, **options)
        if view.is_over:
            hosted.release(shared)
            raise StaleGeneration
        return shared

    async def change_state(self, view: View, number: int, body: bytes) -> Answer:
        """Expand, collapse or set the depth of a view. What that does to it, others must not see: it becomes private.

        Raises:
            Refused, StaleGeneration: as `make`.
        """
        safety.check_state_change(view.config)
        if view.shared.key is not None:
            # Groups that compare equal are in another order in a view that is made now: the row's number means another one there.
            row = messages.parse("RowIndex", body).row_index if view.config.sort and number in OF_ROWS else None
            path = [] if row is None else await view.hosted.row_paths(view.shared, row, row + 1)
            hears = ONLY_PLAIN | view.others.keys()
            mine = await self._acquire_for(view, view.hosted, is_private=True, hears=hears)
            subscriptions = tuple(view.subscriptions.values())
            view.let_go()
            view.shared = mine
            for subscription in subscriptions:
                mine.listeners[subscription.kind].add(subscription)
            if row is not None and path:
                there = messages.new("RowIndex")
                there.row_index = await _row_of(view, path[0], row)
                body = messages.encode(there)
        return await view.hosted.change(view.shared, number, body)

    async def subscribe(self, view: View, msg_id: int, subscription: Subscription) -> None:
        """Let a subscription hear of a view.

        Raises:
            Refused, StaleGeneration: as `make`.
        """
        if subscription.kind == ROWS and not safety.has_row_deltas(view.config):
            raise Refused("row updates of a view with more than one split_by column are not available")
        bound_subscriptions(len(view.subscriptions), self._gateway.settings.max_views)
        source = view.shared
        if subscription.kind != PLAIN:
            if source.key is None:
                await view.hosted.switch_on(source, subscription.kind)
            else:
                if subscription.kind not in view.others:
                    hears = frozenset({subscription.kind})
                    view.others[subscription.kind] = await self._acquire_for(view, view.hosted, hears=hears)
                source = view.others[subscription.kind]
        self.unsubscribe(view, msg_id)
        view.subscriptions[msg_id] = subscription
        source.listeners[subscription.kind].add(subscription)

    def unsubscribe(self, view: View, msg_id: int) -> None:
        """End a subscription, if it is there."""
        subscription = view.subscriptions.pop(msg_id, None)
        if subscription is not None:
            view.stop_listening(subscription)

    def delete(self, client_id: str) -> bool:
        """Let go of a view; say whether there was one."""
        view = self._views.pop(client_id, None)
        if view is not None:
            view.is_over = True
            view.let_go()
        return view is not None

    def clear(self) -> None:
        """Let go of all."""
        for client_id in list(self._views):
            self.delete(client_id)

    async def make_again(self, client_id: str) -> bool:
        """Put a view on its table's present shape. Say no if it cannot be: it is not valid any more, or somebody follows its rows.

        If the shape is of the past before that is done, the view waits for the next one: the gateway calls again.
        """
        view = self._views.get(client_id)
        hosted = None if view is None else self._gateway.find(view.hosted.name)
        if view is None or hosted is view.hosted:
            return True
        if hosted is None or any(subscription.kind != PLAIN for subscription in view.subscriptions.values()):
            return False
        try:
            await configs.check(hosted, view.config)
            shared = await self._acquire_for(view, hosted)
        except StaleGeneration:
            return True
        except Refused as wrong:
            log.debug("a view ends with the old shape of table %s: %s", hosted.name, wrong)
            return False
        view.let_go()
        view.hosted, view.shared = hosted, shared
        for subscription in view.subscriptions.values():
            shared.listeners[subscription.kind].add(subscription)
            subscription.hear(b"")
        return True

"""The subscription to the tables' feeds: drained at once into each replica's bounded inbox."""

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeAlias

from redis.asyncio import Redis
from redis.asyncio.client import PubSub

from parallax.store import STORE_ERRORS, is_cluster, is_outdated
from parallax.tasks import Tasks

log = logging.getLogger(__name__)

INBOX_MESSAGES = 8192
INBOX_BYTES = 64 << 20
RECONNECT_SECONDS = (0.05, 2.0)
READ_SECONDS = 1.0
LOST = (*STORE_ERRORS, AttributeError)
"""What subscribing raises when the connection is lost meanwhile; the last where the library finds none any more."""


class Inbox:
    """What came over one table's feed and was not looked at yet. `None` stands for a fresh subscription.

    At its bound it forgets everything: the next message then shows a gap, which the follower closes from the log.
    """

    def __init__(self) -> None:
        self._messages: deque[bytes | None] = deque()  # at most INBOX_MESSAGES
        self._bytes = 0  # the sum of their sizes; at most INBOX_BYTES and one message
        self._arrived = asyncio.Event()
        self.dropped = 0
        self.waiting_since: float | None = None
        """time.monotonic() when the oldest message came that was not taken yet; None: there is none."""

    def put(self, message: bytes | None) -> None:
        """Add a message."""
        if len(self._messages) >= INBOX_MESSAGES or self._bytes >= INBOX_BYTES:
            self.dropped += len(self._messages)
            self._messages.clear()
            self._bytes = 0
        if not self._messages:
            self.waiting_since = time.monotonic()
        self._messages.append(message)
        self._bytes += len(message) if message else 0
        self._arrived.set()

    def take(self, most: int = 512) -> list[bytes | None]:
        """Return up to `most` messages, oldest first, and forget them."""
        messages = [self._messages.popleft() for _ in range(min(most, len(self._messages)))]
        self._bytes -= sum(map(len, filter(None, messages)))
        if not self._messages:
            self._arrived.clear()
        self.waiting_since = time.monotonic() if self._messages else None
        return messages

    def wake(self) -> None:
        """Let whoever waits look around."""
        self._arrived.set()

    async def wait(self, seconds: float) -> None:
        """Wait until there is something, or until the time is up."""
        if self._arrived.is_set():
            return
        try:
            async with asyncio.timeout(seconds):
                await self._arrived.wait()
        except TimeoutError:
            pass


class Line:
    """One pub/sub connection to one server. It is never resumed: after a loss it subscribes afresh, and all inboxes hear of it.

    `lost(line)` is called after each loss, before it connects again.
    """

    def __init__(self, redis: "Redis", inboxes: dict[bytes, Inbox], lost: Callable[[], None], *, is_sharded: bool) -> None:
        self.messages = 0
        self.connections = 0
        self._redis = redis
        self._inboxes = inboxes
        self._lost = lost
        self._is_sharded = is_sharded
        self._channels: set[bytes] = set()
        self._pubsub: PubSub | None = None
        self._is_stale = False
        self._changed = asyncio.Event()

    @property
    def is_connected(self) -> bool:
        """Say whether the subscription stands, as far as TCP can tell; one that nobody needs does."""
        return self._pubsub is not None or not self._channels

    async def add(self, channel: bytes) -> None:
        """Subscribe to a channel."""
        self._channels.add(channel)
        self._changed.set()
        if self._pubsub is not None:
            try:
                await self._subscribe(self._pubsub, channel)
            except LOST:
                self._is_stale = True

    async def remove(self, channel: bytes) -> None:
        """Give up a channel."""
        self._channels.discard(channel)
        if self._pubsub is not None:
            try:
                await (self._pubsub.sunsubscribe if self._is_sharded else self._pubsub.unsubscribe)(channel)
            except LOST:
                self._is_stale = True

    def resubscribe(self) -> None:
        """Drop the connection, healthy as it may look, and make a new one."""
        self._is_stale = True

    async def run(self) -> None:
        """Read until cancelled; connection errors are survived with a back-off."""
        attempt = 0
        while True:
            if not self._channels:
                self._changed.clear()
                await self._changed.wait()
            try:
                async with self._redis.pubsub() as pubsub:
                    for channel in list(self._channels):
                        await self._subscribe(pubsub, channel)
                    self._pubsub, self._is_stale = pubsub, False
                    self.connections += 1
                    while not self._is_stale and self._channels and not is_outdated(pubsub.connection):
                        message = await pubsub.get_message(timeout=READ_SECONDS)
                        attempt = 0
                        if message is not None:
                            self._dispatch(message)
            except STORE_ERRORS as error:
                log.warning("feed lost: %s; subscribing again", error)
            finally:
                self._pubsub = None
            self._lost()
            first, longest = RECONNECT_SECONDS
            await asyncio.sleep(min(first * 2**attempt, longest) * (0.5 + random.random() / 2))
            attempt = min(attempt + 1, 10)

    async def _subscribe(self, pubsub: PubSub, channel: bytes) -> None:
        await (pubsub.ssubscribe if self._is_sharded else pubsub.subscribe)(channel)

    def _dispatch(self, message: dict[str, Any]) -> None:
        channel, kind = message["channel"], message["type"]
        inbox = self._inboxes.get(channel)
        if kind == "sunsubscribe" and channel in self._channels:
            self._is_stale = True  # its slot went to another member
        elif inbox is None:
            return
        elif kind in ("subscribe", "ssubscribe"):
            inbox.put(None)
        elif kind in ("message", "smessage"):
            self.messages += 1
            inbox.put(message["data"])


Where: TypeAlias = tuple[str, int, bool] | None
"""Member of a cluster, and whether the channels are sharded; None: a plain server."""


class Feed:
    """Hold the subscriptions: one connection, or in a cluster one to each member that has the slot of one of our channels."""

    def __init__(self, redis: "Redis") -> None:
        self._redis = redis
        self._inboxes: dict[bytes, Inbox] = {}
        self._sharded: set[bytes] = set()
        self._places: dict[bytes, Where] = {}  # channel -> the line that it is on
        self._lines: dict[Where, Line] = {}
        self._clients: list[Redis] = []
        self._changed = asyncio.Event()
        self._must_look_again = False

    @property
    def messages(self) -> int:
        """How many messages came."""
        return sum(line.messages for line in self._lines.values())

    @property
    def connections(self) -> int:
        """How many connections were made."""
        return sum(line.connections for line in self._lines.values())

    @property
    def is_connected(self) -> bool:
        """Say whether all subscriptions stand, as far as TCP can tell."""
        return bool(self._lines) and all(line.is_connected for line in self._lines.values())

    async def add(self, channel: str, *, is_sharded: bool = True) -> Inbox:
        """Subscribe to a channel and return where its messages go; the first is None, once the subscription is confirmed.

        In a cluster a sharded channel belongs to one member, and is published to with SPUBLISH; one that is not, with PUBLISH.
        """
        name = channel.encode()
        inbox = self._inboxes[name] = Inbox()
        if is_sharded and is_cluster(self._redis):
            self._sharded.add(name)
        self._changed.set()
        return inbox

    async def remove(self, channel: str) -> None:
        """Give up a channel."""
        name = channel.encode()
        self._inboxes.pop(name, None)
        self._sharded.discard(name)
        if name in self._places:
            await self._lines[self._places.pop(name)].remove(name)

    def resubscribe(self, channel: str) -> None:
        """Drop the connection on which a channel is, healthy as it may look, and make a new one."""
        name = channel.encode()
        if name in self._places:
            self._lines[self._places[name]].resubscribe()

    async def run(self) -> None:
        """Read until cancelled."""
        pause, longest = RECONNECT_SECONDS
        try:
            async with Tasks() as tasks:
                while True:
                    self._changed.clear()
                    try:
                        if self._must_look_again:
                            self._must_look_again = False
                            await self._redis.look_again()  # type: ignore[attr-defined]
                        for channel in list(self._inboxes):
                            await self._put(channel, tasks)
                        pause = RECONNECT_SECONDS[0]
                    except STORE_ERRORS as error:
                        log.warning("the cluster cannot be asked who has which slot: %s", error)
                        self._must_look_again = True
                        await asyncio.sleep(pause)
                        pause = min(2 * pause, longest)
                        continue
                    await self._changed.wait()
        finally:
            for client in self._clients:
                await client.aclose()

    async def _put(self, channel: bytes, tasks: Tasks) -> None:
        """See that a channel is on the line on which it should be."""
        is_sharded = channel in self._sharded
        where: Where = None
        if is_cluster(self._redis):
            where = (*await self._redis.member_of(channel), is_sharded)  # type: ignore[attr-defined]
        if channel not in self._inboxes or (channel in self._places and self._places[channel] == where):
            return
        if where not in self._lines:
            client = self._redis
            lost = _nothing
            if where is not None:
                client, lost = client.at(where[0], where[1]), self._look_again  # type: ignore[attr-defined]
                self._clients.append(client)
            line = self._lines[where] = Line(client, self._inboxes, lost, is_sharded=is_sharded)
            tasks.start(line.run(), name="feed")
        if channel in self._places:
            await self._lines[self._places.pop(channel)].remove(channel)
        self._places[channel] = where
        await self._lines[where].add(channel)

    def _look_again(self) -> None:
        self._must_look_again = True
        self._changed.set()


def _nothing() -> None:
    """A plain server's address does not change with a loss."""

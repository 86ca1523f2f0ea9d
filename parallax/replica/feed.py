"""The subscription to the tables' feeds: one connection for a process, drained at once into each replica's bounded inbox."""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.client import PubSub

from parallax.store import STORE_ERRORS

log = logging.getLogger(__name__)

INBOX_MESSAGES = 8192
INBOX_BYTES = 64 << 20
RECONNECT_SECONDS = (0.05, 2.0)
READ_SECONDS = 1.0


class Inbox:
    """What came over one table's feed and was not looked at yet. `None` stands for a fresh subscription.

    At its bound it forgets everything: the next message then shows a gap, which the follower closes from the log.
    """

    def __init__(self) -> None:
        self._messages: deque[bytes | None] = deque()  # at most INBOX_MESSAGES
        self._bytes = 0  # the sum of their sizes; at most INBOX_BYTES and one message
        self._arrived = asyncio.Event()
        self.dropped = 0

    def put(self, message: bytes | None) -> None:
        """Add a message."""
        if len(self._messages) >= INBOX_MESSAGES or self._bytes >= INBOX_BYTES:
            self.dropped += len(self._messages)
            self._messages.clear()
            self._bytes = 0
        self._messages.append(message)
        self._bytes += len(message) if message else 0
        self._arrived.set()

    def take(self, most: int = 512) -> list[bytes | None]:
        """Return up to `most` messages, oldest first, and forget them."""
        messages = [self._messages.popleft() for _ in range(min(most, len(self._messages)))]
        self._bytes -= sum(map(len, filter(None, messages)))
        if not self._messages:
            self._arrived.clear()
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


class Feed:
    """Hold one pub/sub connection. It never resumes one: after a loss it subscribes afresh, and says so in every inbox."""

    def __init__(self, redis: "Redis") -> None:
        self._redis = redis
        self._inboxes: dict[bytes, Inbox] = {}
        self._pubsub: PubSub | None = None
        self._listeners: list[Callable[[bytes], None]] = []
        self._is_stale = False
        self._changed = asyncio.Event()
        self.messages = 0
        self.connections = 0

    @property
    def is_connected(self) -> bool:
        """Say whether the subscription stands, as far as TCP can tell."""
        return self._pubsub is not None

    async def add(self, channel: str) -> Inbox:
        """Subscribe to a channel and return where its messages go; the first is None, once the subscription is confirmed."""
        inbox = self._inboxes[channel.encode()] = Inbox()
        self._changed.set()
        if self._pubsub is not None:
            try:
                await self._pubsub.subscribe(channel)
            except STORE_ERRORS:
                self._is_stale = True
        return inbox

    async def remove(self, channel: str) -> None:
        """Give up a channel."""
        self._inboxes.pop(channel.encode(), None)
        if self._pubsub is not None:
            try:
                await self._pubsub.unsubscribe(channel)
            except STORE_ERRORS:
                self._is_stale = True

    def resubscribe(self) -> None:
        """Drop the connection, healthy as it may look, and make a new one."""
        self._is_stale = True

    async def run(self) -> None:
        """Read until cancelled; connection errors are survived with a back-off."""
        attempt = 0
        while True:
            if not self._inboxes:
                self._changed.clear()
                await self._changed.wait()
            try:
                async with self._redis.pubsub() as pubsub:
                    await pubsub.subscribe(*self._inboxes)
                    self._pubsub, self._is_stale = pubsub, False
                    self.connections += 1
                    while not self._is_stale and self._inboxes:
                        message = await pubsub.get_message(timeout=READ_SECONDS)
                        attempt = 0
                        if message is not None:
                            self._dispatch(message)
            except STORE_ERRORS as error:
                log.warning("feed lost: %s; subscribing again", error)
            finally:
                self._pubsub = None
            first, longest = RECONNECT_SECONDS
            await asyncio.sleep(min(first * 2**attempt, longest) * (0.5 + random.random() / 2))
            attempt = min(attempt + 1, 10)

    def _dispatch(self, message: dict[str, Any]) -> None:
        inbox = self._inboxes.get(message["channel"])
        if inbox is None:
            return
        if message["type"] == "subscribe":
            inbox.put(None)
        elif message["type"] == "message":
            self.messages += 1
            inbox.put(message["data"])

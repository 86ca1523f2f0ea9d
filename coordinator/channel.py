"""Ingest for publishers that fire and forget: messages on the channel that has the ingest stream's name.

The leader writes each into the stream as an update, and from there it goes the way of all entries. A message may be lost while
no leader listens, or be doubled while two believe to; who cannot have that uses XADD.
"""

import asyncio
import logging

from redis.asyncio import Redis

from parallax.replica.feed import Feed, Inbox
from parallax.store import STORE_ERRORS

log = logging.getLogger(__name__)

RETRY_SECONDS = 0.2


class Channel:
    """Move one table's messages from the channel into ingest. The inbox is bounded; what overflows is lost, and counted."""

    def __init__(self, redis: "Redis", feed: Feed, ingest: str) -> None:
        self.messages = 0
        self._redis = redis
        self._feed = feed
        self._ingest = ingest
        self._inbox: Inbox | None = None

    @property
    def dropped(self) -> int:
        """How many messages were lost because they came faster than Redis took them."""
        return 0 if self._inbox is None else self._inbox.dropped

    async def run(self) -> None:
        """Listen until cancelled."""
        self._inbox = inbox = await self._feed.add(self._ingest, is_sharded=False)
        try:
            while True:
                await inbox.wait(1.0)
                messages = [message for message in inbox.take() if message is not None]
                if messages:
                    await self._write(messages)
        finally:
            await self._feed.remove(self._ingest)

    async def _write(self, messages: list[bytes]) -> None:
        while True:
            try:
                async with self._redis.pipeline(transaction=True) as pipe:
                    for message in messages:
                        is_arrow = message.startswith((b"\xff\xff\xff\xff", b"ARROW1"))
                        pipe.xadd(self._ingest, {"op": "update", "format": "arrow" if is_arrow else "json", "data": message})
                    await pipe.execute()
                self.messages += len(messages)
                return
            except STORE_ERRORS as error:
                log.warning("%d messages cannot be written to %s yet: %s", len(messages), self._ingest, error)
                await asyncio.sleep(RETRY_SECONDS)

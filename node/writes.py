"""Viewers' edits on their way: into ingest, as any publisher's, and back through the log."""

import asyncio
import itertools
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from parallax.replica.replica import Replica
from parallax.replication.keys import TableKeys
from parallax.replication.record import Op
from parallax.store import STORE_ERRORS, load_script, text
from parallax.wire import Refused

if TYPE_CHECKING:
    from redis.asyncio import Redis

LOOK_SECONDS = 0.1
"""How often it is looked whether an edit was refused, while it is not in the log."""


class Writes:
    """Publishes edits under one producer's name. Each has a number: one that is sent twice is applied once."""

    def __init__(self, redis: "Redis", prefix: str, producer: str, find: Callable[[str], Replica], seconds: float) -> None:
        self._redis = redis
        self._prefix = prefix
        self._producer = producer
        self._find = find
        self._seconds = seconds
        self._numbers = itertools.count(1)
        self._lock = asyncio.Lock()  # a higher number in ingest before a lower one would make that one a repetition
        self._refusals = load_script(redis, "parallax", "refusals.lua")

    async def publish(self, table: str, op: Op, format: str, data: bytes) -> None:
        """Publish an edit, and wait until readers of this node see it.

        Raises:
            Refused: the coordinator refused it; or it is not known whether it will be made.
        """
        replica, keys = self._find(table), TableKeys(self._prefix, table)
        entry: dict[Any, Any] = {"op": op.value, "format": format, "data": data, "producer": self._producer}
        deadline = time.monotonic() + self._seconds
        try:
            async with self._lock:
                number = next(self._numbers)
                begin = await self._redis.xadd(keys.ingest, entry | {"seq": number})
            while not replica.window.is_duplicate(self._producer, number):
                await self._refused(keys, begin, number)
                if time.monotonic() > deadline:
                    raise Refused(f"the edit was not confirmed within {self._seconds:g} s; it may still be made")
                await replica.moved(LOOK_SECONDS)
            await self._refused(keys, begin, number)  # a later edit may have gone through, this one not
        except STORE_ERRORS as error:
            raise Refused(f"Redis cannot be reached ({type(error).__name__}); the edit may still be made") from None
        await replica.table.flush()

    async def _refused(self, keys: TableKeys, begin: bytes | str, number: int) -> None:
        since = text(begin).partition("-")[0]
        _, refusals = await self._refusals(keys=[keys.rejected], args=[self._producer, since])
        for seq, reason in refusals:
            if int(seq) == number:
                raise Refused(f"the edit was refused: {text(reason)}")

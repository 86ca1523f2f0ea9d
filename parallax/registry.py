"""Who is there: every node and coordinator announces itself under a key with a TTL."""

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

from redis.asyncio import Redis

from parallax.replication.keys import FleetKeys
from parallax.store import STORE_ERRORS, load_script, text

log = logging.getLogger(__name__)

ANNOUNCE_SECONDS = 1.0
TTL_SECONDS = 5


class Announcer:
    """Say each second what `describe()` returns, under `name`."""

    def __init__(self, redis: "Redis", keys: FleetKeys, name: str, describe: Callable[[], dict[str, Any]]) -> None:
        self._redis, self._keys, self._name, self._describe = redis, keys, name, describe
        self._keep = load_script(redis, "parallax", "keep.lua")

    async def run(self) -> None:
        """Announce until cancelled."""
        while True:
            try:
                await self.announce()
            except STORE_ERRORS as error:
                log.debug("cannot announce: %s", error)
            await asyncio.sleep(ANNOUNCE_SECONDS)

    async def announce(self) -> None:
        """Announce once, now."""
        keys = [self._keys.member(self._name), self._keys.members]
        await self._keep(keys=keys, args=[json.dumps(self._describe()), TTL_SECONDS, self._name])

    async def leave(self) -> None:
        """Take the announcement back; a failure is as good, since it expires."""
        try:
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.delete(self._keys.member(self._name))
                pipe.srem(self._keys.members, self._name)
                await pipe.execute()
        except STORE_ERRORS as error:
            log.debug("cannot leave the registry: %s", error)


async def members(redis: "Redis", keys: FleetKeys) -> list[dict[str, Any]]:
    """Return what every member announced, sorted by kind and id; those who fell silent are struck from the list."""
    names = sorted(text(name) for name in await redis.smembers(keys.members))
    if not names:
        return []
    values = await redis.mget([keys.member(name) for name in names])
    gone = [name for name, value in zip(names, values, strict=True) if value is None]
    if gone:
        await redis.srem(keys.members, *gone)
    found = [json.loads(value) for value in values if value is not None]
    return sorted(found, key=lambda member: (member["kind"], member["id"]))

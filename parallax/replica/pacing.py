"""Large snapshots are read by a few members at a time: of many that join at once, all would wait for the first bytes otherwise."""

import asyncio
import logging
import random
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis.asyncio import Redis

from parallax.replication.keys import FleetKeys
from parallax.store import STORE_ERRORS, load_script

log = logging.getLogger(__name__)

PLACES = 4
"""So many members read at a time, of the whole fleet."""
LARGE_BYTES = 8 << 20
"""Smaller snapshots are read at once."""
PLACE_SECONDS = 30
"""When whoever has a place is taken to be dead, or as slow as if he were."""
LONGEST_SECONDS = 60.0
"""Who has waited so long reads all the same: to pace is good, to serve is better."""
LOOK_SECONDS = 0.25


class Pacing:
    """The places of a fleet, for one process."""

    def __init__(self, redis: "Redis", keys: FleetKeys) -> None:
        self._redis, self._keys = redis, keys
        self._release = load_script(redis, "parallax", "release.lua")

    @asynccontextmanager
    async def place(self, size_bytes: int) -> AsyncIterator[None]:
        """Wait for a place, if so much is about to be read, and give it back in the end."""
        if size_bytes < LARGE_BYTES:
            yield
            return
        owner = secrets.token_hex(8)
        key = await self._wait(owner)
        try:
            yield
        finally:
            if key is not None:
                try:
                    await self._release(keys=[key], args=[owner])
                except STORE_ERRORS as error:
                    log.debug("a place to read could not be given back: %s", error)

    async def _wait(self, owner: str) -> str | None:
        deadline = time.monotonic() + LONGEST_SECONDS
        places = [self._keys.place(number) for number in range(PLACES)]
        while time.monotonic() < deadline:
            random.shuffle(places)
            try:
                for key in places:
                    if await self._redis.set(key, owner, nx=True, ex=PLACE_SECONDS):
                        return key
            except STORE_ERRORS as error:
                log.debug("nobody can say who reads: %s", error)
                return None
            await asyncio.sleep(LOOK_SECONDS * (0.5 + random.random()))
        log.warning("others have been reading snapshots for %g s: reading beside them", LONGEST_SECONDS)
        return None

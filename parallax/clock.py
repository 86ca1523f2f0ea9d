"""What time it is for Redis: the one clock that publishers, coordinators and nodes on different machines have in common."""

import asyncio
import logging
import math
import time
from collections import deque
from typing import NamedTuple

from redis.asyncio import Redis

from parallax.replication.keys import FleetKeys
from parallax.store import STORE_ERRORS, load_script

log = logging.getLogger(__name__)

ASK_SECONDS = 2.0
FIRST, FIRST_SECONDS = 8, 0.05
"""So many answers are asked for in a row: one of them will have been quick."""
KEPT = 30
"""Answers that are looked at: those of the last minute."""
DRIFT_SECONDS = 0.005
"""So far two machines' clocks may part within that time."""


class Sample(NamedTuple):
    """One answer: how far Redis's clock was ahead of our monotonic one, and by how much that may be wrong, either way."""

    ahead: float
    error: float


class RedisClock:
    """Redis's clock, as far as can be told from here: of the last answers the one that was on its way for the shortest time.

    As long as Redis has not answered, or does not let us ask, it is this machine's clock. In a cluster it is that of the member
    with the fleet's own keys: the members' clocks are taken to agree.
    """

    def __init__(self, redis: "Redis", keys: FleetKeys) -> None:
        self._key = keys.lease
        self._script = load_script(redis, "parallax", "clock.lua")
        self._samples: deque[Sample] = deque(maxlen=KEPT)
        self._best: Sample | None = None

    def now(self) -> float:
        """Return what time it is for Redis, in seconds since 1970."""
        return self.at(time.monotonic())

    def at(self, moment: float) -> float:
        """Return what time it was for Redis at a moment of time.monotonic()."""
        if self._best is None:
            return time.time() - time.monotonic() + moment
        return self._best.ahead + moment

    @property
    def error_seconds(self) -> float:
        """By how much that may be wrong, either way; infinite as long as Redis has told nothing."""
        return math.inf if self._best is None else self._best.error

    async def run(self) -> None:
        """Ask again and again, at first a few times in a row, until cancelled."""
        while True:
            try:
                await self.ask()
            except STORE_ERRORS as error:
                log.debug("Redis does not say what time it is: %s", error)
            await asyncio.sleep(FIRST_SECONDS if len(self._samples) < FIRST else ASK_SECONDS)

    async def ask(self) -> None:
        """Ask once.

        Raises:
            one of STORE_ERRORS: Redis could not be asked, or may not tell.
        """
        before = time.monotonic()
        seconds, microseconds = await self._script(keys=[self._key])
        after = time.monotonic()
        self.learn(before, after, int(seconds) + int(microseconds) / 1e6)

    def learn(self, before: float, after: float, told: float) -> None:
        """Take in that Redis's clock stood at `told` at some moment between `before` and `after` of ours."""
        sample = Sample(told - (before + after) / 2, (after - before) / 2)
        if any(abs(sample.ahead - other.ahead) > sample.error + other.error + DRIFT_SECONDS for other in self._samples):
            self._samples.clear()  # both cannot be right: another server answers now, or its clock was set
        self._samples.append(sample)
        self._best = min(self._samples, key=lambda known: known.error)

"""Views that nobody makes again: they ended processes of the fleet, or took longer than they may."""

import asyncio
import logging
import math
import time
from collections.abc import Callable

from redis.asyncio import Redis

from parallax import quarantine
from parallax.quarantine import Suspect
from parallax.replica.journal import ROWS
from parallax.replication.keys import FleetKeys
from parallax.store import STORE_ERRORS
from parallax.wire import Refused

log = logging.getLogger(__name__)

OVERDUE = 4011
"""Closes a session that wanted a view which takes the engine too long."""
ASK_SECONDS = 1.0
"""How long Redis may take to say what it knows of a view; without it, this node's own knowledge has to do."""
WATCH_SECONDS = 1.0


class Overdue(Refused):
    """The engine has been at work on a view for longer than it may."""


class Quarantine:
    """What the fleet knows, if there is one; without Redis, what this node knows."""

    def __init__(self, redis: "Redis | None" = None, keys: FleetKeys | None = None, seconds: float = 3600.0) -> None:
        self.refusals = 0
        """How many views were refused."""
        self._redis = redis
        self._keys = keys or FleetKeys("parallax")
        self._seconds = seconds
        self._until: dict[str, float] = {}  # by name: time.monotonic()
        self._untold: dict[str, str] = {}  # name -> table of those that Redis was not told of yet
        self._away_until = 0.0  # Redis did not answer: it is not asked before

    @property
    def views(self) -> int:
        """How many views are quarantined, as far as this node knows."""
        now = time.monotonic()
        self._until = {name: until for name, until in self._until.items() if until > now}
        return len(self._until)

    async def check(self, name: str) -> None:
        """Ask about a view that is about to be made.

        Raises:
            Refused: it is quarantined.
        """
        if name not in self._untold and self._redis is not None and time.monotonic() >= self._away_until:
            try:
                async with asyncio.timeout(ASK_SECONDS):
                    if await quarantine.deaths(self._redis, self._keys, name) < quarantine.MOST_DEATHS:
                        return
                    self._until.setdefault(name, math.inf)  # `watch` will know better
            except (TimeoutError, *STORE_ERRORS) as error:
                log.warning("Redis cannot say whether a view is quarantined: %s", error)
                self._away_until = time.monotonic() + WATCH_SECONDS
        if self._until.get(name, 0.0) > time.monotonic():
            self.refusals += 1
            raise Refused(
                f"this view is quarantined as {name}: it ended processes of this fleet, or took too long; change its "
                "configuration, or have an operator look at it (`parallax quarantine`)"
            )

    async def condemn(self, name: str, table: str) -> None:
        """Quarantine a view that took too long."""
        self._until[name] = time.monotonic() + self._seconds
        if self._redis is not None:
            self._untold[name] = table
            await self._tell(self._redis)

    async def _tell(self, redis: "Redis") -> None:
        for name, table in tuple(self._untold.items()):
            most, kind = quarantine.MOST_DEATHS, quarantine.TIME
            try:
                await quarantine.count(redis, self._keys, name, table=table, kind=kind, deaths=most, seconds=self._seconds)
            except STORE_ERRORS as error:
                log.warning("only this node knows that view %s is quarantined: %s", name, error)
            else:
                self._untold.pop(name, None)

    async def watch(self, is_proven: Callable[[Suspect], bool]) -> None:
        """Follow what the fleet knows, until cancelled, and acquit views that were only there when something else went wrong.

        `is_proven` says whether a view lives on here beyond the position at which another process ended.
        """
        if self._redis is None:
            return
        while True:
            try:
                await self._tell(self._redis)
                known = await quarantine.suspects(self._redis, self._keys)
                for suspect in known:
                    if suspect.kind == ROWS and is_proven(suspect):
                        log.info("view %s did not end another process: it lives on here", suspect.name)
                        await quarantine.acquit(self._redis, self._keys, suspect.name)
                        known = [other for other in known if other is not suspect]
                now = time.monotonic()
                mine = {name: self._until[name] for name in self._untold}
                self._until = mine | {one.name: now + max(one.seconds_left, 1) for one in known if one.is_quarantined}
            except STORE_ERRORS as error:
                log.debug("the quarantine cannot be read: %s", error)
            await asyncio.sleep(WATCH_SECONDS)

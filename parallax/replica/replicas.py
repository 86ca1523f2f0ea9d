"""All the replicas of one process."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import Any

from redis.asyncio import Redis

from parallax import quarantine
from parallax.registry import ANNOUNCE_SECONDS
from parallax.replica.engine import Engine
from parallax.replica.feed import Feed
from parallax.replica.healing import Healing
from parallax.replica.pacing import Pacing
from parallax.replica.replica import Replica
from parallax.replication.follower import State
from parallax.replication.keys import FleetKeys, TableKeys
from parallax.store import STORE_ERRORS, follow_primary
from parallax.tables import catalog
from parallax.tasks import Tasks

log = logging.getLogger(__name__)

CATALOG_SECONDS = 1.0
HELD_SECONDS = 2.0
"""How often it is looked whether a quarantined table may be loaded."""


class Replicas:
    """Hold a replica of every table that the catalog names. A table never leaves with the catalog: only its log can drop it.

    `name` is the one that the process announces itself under; `leads()` says whether it has the lease.
    """

    def __init__(
        self,
        redis: "Redis",
        prefix: str,
        engine: Engine,
        name: str,
        on_change: Callable[[Replica], None] = lambda replica: None,
        leads: Callable[[], bool] = lambda: False,
    ) -> None:
        self.feed = Feed(redis)
        self._redis = redis
        self._prefix = prefix
        self._engine = engine
        self._pacing = Pacing(redis, FleetKeys(prefix))
        self._on_change = on_change
        self._replicas: dict[str, Replica] = {}
        self._healing = Healing(redis, FleetKeys(prefix), name, self, leads)
        self._tasks = Tasks()
        self.knows_catalog = False
        """Whether a catalog was there: before the very first leader, there is none."""

    def __iter__(self) -> Iterator[Replica]:
        return iter(list(self._replicas.values()))

    def start(self) -> None:
        """Begin to listen to the feed, and to look at the catalog."""
        self._tasks.start(follow_primary(self._redis), name="primary")
        self._tasks.start(self.feed.run(), name="feed")
        self._tasks.start(self._watch_catalog(), name="catalog")
        self._tasks.start(self._compare(), name="comparison of digests")

    def ensure(self, name: str) -> Replica:
        """Return the replica of a table, beginning it if it is new."""
        if name not in self._replicas:
            keys = TableKeys(self._prefix, name)
            replica = Replica(self._redis, self.feed, keys, self._engine.table(name), self._on_change, self._pacing)
            self._replicas[name] = replica
            self._tasks.start(self._run(replica), name=f"replica {name}")
        return self._replicas[name]

    def find(self, name: str) -> Replica | None:
        """Return the replica of a table, if there is one."""
        return self._replicas.get(name)

    async def _run(self, replica: Replica) -> None:
        """Let a replica follow its log, unless its rows ended processes that held nothing else."""
        name = replica.keys.table
        while await self._is_quarantined(name):
            if not replica.is_held:
                replica.is_held = True
                replica.error = (
                    "its rows ended processes of this fleet; nobody loads it before `parallax quarantine` lets it go"
                )
                log.error("table %s: %s", name, replica.error)
            await asyncio.sleep(HELD_SECONDS)
        replica.is_held = False
        await replica.run()

    async def _is_quarantined(self, name: str) -> bool:
        while True:
            try:
                known = await quarantine.deaths(self._redis, FleetKeys(self._prefix), quarantine.name_of(name))
            except STORE_ERRORS as error:
                log.debug("cannot read whether table %s is quarantined: %s", name, error)
                await asyncio.sleep(CATALOG_SECONDS)
            else:
                return known >= quarantine.MOST_DEATHS

    async def _watch_catalog(self) -> None:
        while True:
            try:
                for name in await catalog(self._redis, self._prefix):
                    self.ensure(name)
                self.knows_catalog = self.knows_catalog or await self._redis.exists(FleetKeys(self._prefix).catalog) > 0
            except STORE_ERRORS as error:
                log.debug("the catalog cannot be read: %s", error)
            await asyncio.sleep(CATALOG_SECONDS)

    async def _compare(self) -> None:
        while True:
            await self._healing.look()
            await asyncio.sleep(ANNOUNCE_SECONDS)

    @property
    def is_healing(self) -> bool:
        """Say whether a replica was found to be wrong, and is not healed yet."""
        return any(replica.is_healing for replica in self)

    def report(self) -> dict[str, dict[str, Any]]:
        """Return what the registry and /status say about each table; one that was dropped is not there."""
        return {replica.keys.table: replica.report() for replica in self if not replica.is_dropped}

    def unready(self) -> list[str]:
        """Return a line for each table that is neither LIVE nor FAILED."""
        return [
            f"table {replica.keys.table!r} is {replica.state}: {replica.error or 'loading'}"
            for replica in self
            if replica.state not in (State.LIVE, State.FAILED)
        ]

    async def close(self) -> None:
        """Stop following."""
        await self._tasks.close()

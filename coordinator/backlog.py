"""How much waits in ingest, whoever leads, or nobody: each coordinator looks by itself."""

import asyncio
import logging
import time
from dataclasses import dataclass

from redis.asyncio import Redis

from coordinator.sequencer import accepted_ms
from parallax.replica.replicas import Replicas
from parallax.store import STORE_ERRORS, load_script

log = logging.getLogger(__name__)

LOOK_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Backlog:
    """Of one table."""

    entries: int  # in ingest
    seconds: float  # for how long the oldest of them has waited; 0 if that cannot be told
    log_entries: int


class Backlogs:
    """Look at every table's ingest and log from time to time."""

    def __init__(self, redis: "Redis", replicas: Replicas) -> None:
        self.tables: dict[str, Backlog] = {}
        """By table, as it was at the last look."""
        self._replicas = replicas
        self._script = load_script(redis, "coordinator", "backlog.lua")

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            try:
                self.tables = {
                    replica.keys.table: await self._look(replica.keys.ingest, replica.keys.log)
                    for replica in self._replicas
                    if not replica.is_dropped
                }
            except STORE_ERRORS as error:
                log.debug("cannot see what waits: %s", error)
            await asyncio.sleep(LOOK_SECONDS)

    async def _look(self, ingest: str, table_log: str) -> Backlog:
        waiting, oldest, length, seconds, microseconds = await self._script(keys=[ingest, table_log])
        now_ms = int(seconds) * 1000 + int(microseconds) // 1000 or int(time.time() * 1000)
        since = accepted_ms(oldest, now_ms) if oldest else 0
        return Backlog(int(waiting), max(0, now_ms - since) / 1000 if since else 0.0, int(length))

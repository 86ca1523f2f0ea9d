"""Whether another coordinator should rather give a table's state back than we."""

import asyncio
import time
from collections.abc import Collection

from redis.asyncio import Redis

from parallax.errors import SteppedDown
from parallax.registry import members
from parallax.replication.keys import FleetKeys
from parallax.replication.position import ORIGIN, Position

YIELD_SECONDS = 60.0


class Candidate:
    """Where Redis has nothing, the coordinator that knows most shall lead.

    Each waits for `seconds`, two announcements long, so that all have said where they stand, and yields to one who is further.
    It yields once within YIELD_SECONDS: of two that are each further in some table, the first to come again leads.
    """

    def __init__(self, redis: "Redis", keys: FleetKeys, owner: str, seconds: float) -> None:
        self._redis = redis
        self._keys = keys
        self._owner = owner
        self._seconds = seconds
        self._yielded_at = float("-inf")

    async def defer(self, table: str, position: Position) -> None:
        """Return once it is clear that nobody has more of a table than we at `position`.

        Raises:
            SteppedDown: somebody has, and shall lead.
            one of STORE_ERRORS: Redis could not be asked.
        """
        await asyncio.sleep(self._seconds)
        for name, positions in await self._others():
            announced = positions.get(table, ORIGIN)
            if announced > position:
                self._yielded_at = time.monotonic()
                raise SteppedDown(f"table {table!r}: {name} stands at {announced}, beyond our {position}")

    async def defer_tables(self, known: Collection[str]) -> None:
        """Return if nobody has a table that is not among those `known`: for a leader who found no catalog.

        Raises:
            SteppedDown: somebody has, and shall lead.
            one of STORE_ERRORS: Redis could not be asked.
        """
        for name, positions in await self._others():
            unknown = sorted(table for table, position in positions.items() if position != ORIGIN and table not in known)
            if unknown:
                self._yielded_at = time.monotonic()
                raise SteppedDown(f"{name} has table {unknown[0]!r}, of which we know nothing")

    async def _others(self) -> list[tuple[str, dict[str, Position]]]:
        """Return where the other coordinators stand; none if we yielded a moment ago."""
        if time.monotonic() < self._yielded_at + YIELD_SECONDS:
            return []
        return [
            (member["id"], {table: Position.parse(report["position"]) for table, report in member["tables"].items()})
            for member in await members(self._redis, self._keys)
            if member["kind"] == "coordinator" and member["boot"] != self._owner
        ]

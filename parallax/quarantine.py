"""What ended processes, for the whole fleet to know: after two deaths nobody hands it to the engine a third time.

Each suspect has a name: the fingerprint of a view's configuration, or that of a table whose rows alone were enough. Its deaths
are counted under a key that expires.
"""

import hashlib
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from parallax.replica.journal import ROWS, VIEW
from parallax.replication.keys import FleetKeys
from parallax.store import text

MOST_DEATHS = 2
"""So many processes may end by the same; then it is quarantined."""

TABLE, TIME = "table", "time"
"""How a suspect came to be one, besides VIEW, when the engine was at work for the view itself, and ROWS, when it was at work on
the rows of the view's table: it was, and there was no view; the view took longer than it may."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """What is known of one."""

    name: str
    table: str
    kind: str
    deaths: int
    position: str
    """Of the table, when the engine was at work on its rows."""
    seconds_left: int

    @property
    def is_quarantined(self) -> bool:
        """Say whether there were enough."""
        return self.deaths >= MOST_DEATHS


def fingerprint(table: str, config: bytes) -> str:
    """Return the name of a view's configuration, in our own encoding, on a table of that name."""
    return hashlib.blake2b(config, key=hashlib.blake2b(table.encode(), digest_size=16).digest(), digest_size=8).hexdigest()


def name_of(table: str) -> str:
    """Return the name under which a table itself is a suspect."""
    return f"table {table}"


async def blame(redis: "Redis", keys: FleetKeys, works: Iterable[Mapping[str, Any]], seconds: float) -> None:
    """Count a death for all that the engine was at work on.

    `works` is what `parallax.replica.journal.read` gave.
    """
    for work in works:
        table, position = str(work["table"]), str(work.get("position", ""))
        if work["kind"] == VIEW:
            suspects = {str(work["view"]): VIEW}
        elif work["kind"] == ROWS:
            suspects = dict.fromkeys(map(str, work["views"]), ROWS) or {name_of(table): TABLE}
        else:
            continue
        for name, kind in suspects.items():
            await count(redis, keys, name, table=table, kind=kind, position=position, seconds=seconds)


async def count(
    redis: "Redis", keys: FleetKeys, name: str, *, table: str, kind: str, position: str = "", deaths: int = 1, seconds: float
) -> None:
    """Count deaths of one suspect; all that is known of it is forgotten `seconds` after the last one."""
    key = keys.suspect(name)
    async with redis.pipeline(transaction=True) as pipe:
        pipe.hincrby(key, "deaths", deaths)
        pipe.hset(key, mapping={"table": table, "kind": kind, "position": position, "at": f"{time.time():.3f}"})
        pipe.expire(key, max(1, round(seconds)))
        pipe.sadd(keys.suspects, name)
        await pipe.execute()


async def deaths(redis: "Redis", keys: FleetKeys, name: str) -> int:
    """Return how many processes one suspect ended."""
    return int(await redis.hget(keys.suspect(name), "deaths") or 0)


async def suspects(redis: "Redis", keys: FleetKeys) -> list[Suspect]:
    """Return all of whom anything is known; those of whom all is forgotten are struck from the list."""
    found = []
    for name in sorted(text(name) for name in await redis.smembers(keys.suspects)):
        async with redis.pipeline(transaction=False) as pipe:
            pipe.hgetall(keys.suspect(name))
            pipe.ttl(keys.suspect(name))
            raw, left = await pipe.execute()
        values = {text(field): text(value) for field, value in raw.items()}
        if values:
            count, position = int(values["deaths"]), values["position"]
            found.append(Suspect(name, values["table"], values["kind"], count, position, left))
        else:
            await redis.srem(keys.suspects, name)
    return found


async def acquit(redis: "Redis", keys: FleetKeys, name: str) -> bool:
    """Forget a suspect; say whether there was one."""
    async with redis.pipeline(transaction=True) as pipe:
        pipe.delete(keys.suspect(name))
        pipe.srem(keys.suspects, name)
        gone, _ = await pipe.execute()
    return bool(gone)

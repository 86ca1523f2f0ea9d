"""Removes the rows of members that are gone from the fleet's own tables."""

import asyncio
import logging
from collections.abc import Callable

from redis.asyncio import Redis

from parallax.errors import EngineRefused
from parallax.fleet_tables import FLEET, ids_of, publish
from parallax.registry import members
from parallax.replica.replicas import Replicas
from parallax.replication.keys import FleetKeys
from parallax.store import STORE_ERRORS

log = logging.getLogger(__name__)

LOOK_SECONDS = 5.0


async def remove_departed(redis: "Redis", prefix: str, replicas: Replicas, is_leader: Callable[[], bool]) -> None:
    """Look again and again, while this is the leader, until cancelled."""
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        if not is_leader():
            continue
        try:
            there = ids_of(await members(redis, FleetKeys(prefix)))
            for spec in FLEET:
                replica = replicas.find(spec.name)
                if replica is None or replica.spec is None or replica.spec.index != "id":
                    continue
                _, rows = await replica.export()
                ids = set() if rows is None else set(rows.column("id").to_pylist())
                gone = sorted(ids - there[spec.name])
                await publish(redis, prefix, spec.name, "remove", [{"id": one} for one in gone])
        except (*STORE_ERRORS, EngineRefused) as error:
            log.debug("rows of departed members stay for now: %s", error)

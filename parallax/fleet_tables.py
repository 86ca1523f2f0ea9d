"""The fleet as two tables of its own, `parallax_nodes` and `parallax_tables`, which anybody can open like any other.

With PARALLAX_FLEET each process publishes what it announces as a few rows, through ingest like every publisher; the leader declares
the tables, and removes the rows of members that are gone.
"""

import asyncio
import json
import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

from redis.asyncio import Redis

from parallax.replication.keys import TableKeys
from parallax.replication.position import Position
from parallax.replication.spec import TableSpec
from parallax.store import STORE_ERRORS

log = logging.getLogger(__name__)

PUBLISH_SECONDS = 3.0
MOST_TABLES = 200
"""Rows that one member has in `parallax_tables`; further tables, by name, are not there."""
MOST_WAITING = 1000
"""With so many entries in their ingest, nobody takes them: no more are added."""

NODES = TableSpec.declare(
    "parallax_nodes",
    {
        "schema": {
            "id": "string",
            "kind": "string",
            "state": "string",
            "version": "string",
            "sessions": "integer",
            "views": "integer",
            "memory_mib": "float",
            "loop_busy": "float",
            "updated": "datetime",
        },
        "index": "id",
    },
)
TABLES = TableSpec.declare(
    "parallax_tables",
    {
        "schema": {
            "id": "string",
            "table": "string",
            "member": "string",
            "kind": "string",
            "state": "string",
            "rows": "int64",
            "offset": "int64",
            "lag_seconds": "float",
            "lag_records": "int64",
            "silence_seconds": "float",
            "backlog_entries": "int64",
            "backlog_seconds": "float",
            "updated": "datetime",
        },
        "index": "id",
    },
)
FLEET = (NODES, TABLES)
NAMES = frozenset(spec.name for spec in FLEET)


def with_fleet(declared: Iterable[TableSpec]) -> list[TableSpec]:
    """Return declared tables and those of the fleet; one that is declared under such a name counts."""
    known = list(declared)
    names = {spec.name for spec in known}
    return [*known, *(spec for spec in FLEET if spec.name not in names)]


def rows_of(member: dict[str, Any], now_ms: int) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of a member, as it announces itself, by table. The fleet's own tables are not in them."""
    is_node = member["kind"] == "node"
    state = ("draining" if member["draining"] else "ready" if member["ready"] else "not ready") if is_node else ""
    own = {
        "id": member["id"],
        "kind": member["kind"],
        "state": state or ("leader" if member["leader"] else "standby"),
        "version": member["version"],
        "sessions": member["sessions"],
        "views": member.get("views", 0),
        "memory_mib": round(member["memory_bytes"] / (1 << 20), 1),
        "loop_busy": member["loop_busy"],
        "updated": now_ms,
    }
    tables = []
    for name in _shown(member):
        table, waits = member["tables"][name], member.get("backlog", {}).get(name, {})
        tables.append(
            {
                "id": f"{member['id']}/{name}",
                "table": name,
                "member": member["id"],
                "kind": member["kind"],
                "state": table["state"],
                "rows": table["rows"],
                "offset": Position.parse(table["position"]).offset,
                "lag_seconds": table["lag_seconds"],
                "lag_records": table["lag_records"],
                "silence_seconds": table["silence_seconds"],
                "backlog_entries": waits.get("entries"),
                "backlog_seconds": waits.get("seconds"),
                "updated": now_ms,
            }
        )
    return {NODES.name: [own], TABLES.name: tables}


def ids_of(fleet: Iterable[dict[str, Any]]) -> dict[str, set[str]]:
    """Return which rows there shall be, by table, if these are the members that announce themselves."""
    found: dict[str, set[str]] = {NODES.name: set(), TABLES.name: set()}
    for member in fleet:
        found[NODES.name].add(member["id"])
        found[TABLES.name] |= {f"{member['id']}/{name}" for name in _shown(member)}
    return found


def _shown(member: dict[str, Any]) -> list[str]:
    return sorted(member["tables"].keys() - NAMES)[:MOST_TABLES]


async def publish(redis: "Redis", prefix: str, table: str, op: str, rows: list[dict[str, Any]]) -> None:
    """Add an entry to a table's ingest, unless nobody takes what is there.

    Raises:
        one of STORE_ERRORS: Redis could not be asked.
    """
    ingest = TableKeys(prefix, table).ingest
    if rows and await redis.xlen(ingest) < MOST_WAITING:
        await redis.xadd(ingest, {"op": op, "format": "json", "data": json.dumps(rows)})


async def publish_ours(redis: "Redis", prefix: str, describe: Callable[[], dict[str, Any]]) -> None:
    """Publish the rows of this process, whose announcement is `describe()`, again and again until cancelled."""
    while True:
        await asyncio.sleep(PUBLISH_SECONDS)  # the announcement comes first: rows of the unknown are removed
        try:
            for table, rows in rows_of(describe(), int(time.time() * 1000)).items():
                await publish(redis, prefix, table, "update", rows)
        except STORE_ERRORS as error:
            log.debug("the rows of this process cannot be published: %s", error)

"""Asking the leader to create, alter or drop a table."""

import asyncio
import json
import time
from typing import Any, Literal

from redis.asyncio import Redis

from parallax.errors import TableRequestRefused
from parallax.replication.keys import FleetKeys
from parallax.replication.spec import TableSpec
from parallax.store import text

Action = Literal["create", "alter", "drop"]
REQUEST_SECONDS = 20.0
POLL_SECONDS = 0.05


async def request(
    redis: "Redis",
    prefix: str,
    action: Action,
    name: str,
    spec: TableSpec | None = None,
    *,
    seconds: float = REQUEST_SECONDS,
) -> None:
    """Ask the leader, and wait until it is done: the table's log says so then, and the nodes follow.

    Creating a table that is there with the same spec, and dropping one that is not there, succeed.

    Raises:
        TableRequestRefused: the leader would not, and says why; or none answered within `seconds`.
        one of parallax.store.STORE_ERRORS: Redis could not be asked.
    """
    keys = FleetKeys(prefix)
    body = json.dumps({"action": action, "name": name, "spec": spec and spec.to_json()})
    request_id = text(await redis.xadd(keys.requests, {"body": body}, maxlen=1000))
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        answer = await redis.get(keys.reply(request_id))
        if answer is not None:
            problem = json.loads(answer)["problem"]
            if problem:
                raise TableRequestRefused(problem)
            return
        await asyncio.sleep(POLL_SECONDS)
    await redis.xdel(keys.requests, request_id)
    raise TableRequestRefused(f"no leader answered within {seconds:g} s: is a coordinator running? See `parallax status`")


async def catalog(redis: "Redis", prefix: str) -> dict[str, TableSpec]:
    """Return the tables that there shall be, by name."""
    found: dict[str, TableSpec] = {}
    entries: dict[Any, Any] = await redis.hgetall(FleetKeys(prefix).catalog)
    for name, data in sorted(entries.items()):
        spec = json.loads(data)["spec"]
        if spec is not None:
            found[text(name)] = TableSpec.from_json(spec)
    return found

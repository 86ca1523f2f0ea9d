"""The examples of docs/examples run as they stand, and what they publish is served; a full Redis is waited out as they show."""

import asyncio
import datetime
import os
import shutil
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis.exceptions import OutOfMemoryError

from parallax.replication.keys import TableKeys
from parallax.replication.spec import TableSpec
from tests.cluster import PREFIX, Cluster
from tests.oracle import comparable_rows
from tests.processes import PATIENCE, ROOT, until

EXAMPLES = ROOT / "docs" / "examples"
PRICES = TableSpec.declare(
    "prices",
    {"schema": {"symbol": "string", "price": "float", "size": "integer", "at": "datetime"}, "index": "symbol"},
)
EVENTS = TableSpec.declare("events", {"schema": {"n": "int64", "text": "string"}, "limit": 1_000_000})
AT = datetime.datetime(2026, 1, 1, 12, 30)  # noqa: DTZ001 - the table keeps no zone

MakeCluster = Callable[..., Awaitable[Cluster]]


async def run(cluster: Cluster, *command: str) -> str:
    """Run an example and return what it said."""
    assert shutil.which(command[0]), f"{command[0]} is needed to run the examples"
    env = dict(os.environ) | {"PARALLAX_REDIS_URL": cluster.server.url, "PARALLAX_PREFIX": PREFIX, "PYTHONPATH": str(ROOT)}
    process = await asyncio.create_subprocess_exec(
        *command, cwd=EXAMPLES, env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(60 * PATIENCE):
        said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()
    return said.decode()


@pytest.mark.cluster
async def test_the_examples_publish_what_they_say(make_cluster: MakeCluster) -> None:
    cluster = await make_cluster([PRICES], coordinators=1, nodes=1)
    await run(cluster, sys.executable, "publish.py")
    await run(cluster, "node", "publish.mjs")
    said = await run(cluster, "sh", "publish.sh")

    assert said.splitlines()[-1].isdigit(), "the backlog"
    await cluster.at_rest()
    assert await cluster.rejected("prices") == []
    expected: list[tuple[Any, ...]] = [
        ("JS-A", 10.5, 100, AT),
        ("JS-B", None, None, None),
        ("JS-C", None, 1, None),
        ("JS-E", 1.0, None, None),
        ("PY-A", 10.75, 100, AT),
        ("PY-B", 7.0, None, None),
        ("PY-C", 1.25, None, None),
        ("PY-E", None, 5, None),
        ("SH-A", 10.5, 100, AT),
        ("SH-C", 1.25, None, None),
        ("SH-D, Inc.", None, 7, None),
    ]
    rows = [dict(zip(PRICES.columns, row, strict=True)) for row in expected]
    assert await cluster.read("node-1", PRICES) == comparable_rows(rows, PRICES.columns)


@pytest.mark.cluster
async def test_a_plain_publisher_that_is_far_ahead_meets_a_full_redis_and_loses_nothing(make_cluster: MakeCluster) -> None:
    """What docs/operations.md says of it: XADD is refused, the coordinator goes on, and XADD works again."""
    cluster = await make_cluster([EVENTS], coordinators=1, nodes=1)
    key = TableKeys(PREFIX, "events").ingest
    cluster["coordinator-1"].pause()
    used = (await cluster.redis.info("memory"))["used_memory"]
    await cluster.redis.config_set("maxmemory", str(used + (8 << 20)))
    written = 0

    async def write() -> None:
        nonlocal written
        while True:
            await cluster.redis.xadd(key, {"data": f'{{"n": {written}, "text": "{"x" * 1000}"}}'})
            written += 1

    with pytest.raises(OutOfMemoryError):
        await write()
    assert written > 1000
    before = written
    cluster["coordinator-1"].resume()

    async def is_room() -> bool:
        try:
            await cluster.redis.xadd(key, {"data": f'{{"n": {written}, "text": ""}}'})
        except OutOfMemoryError:
            return False
        return True

    await until(is_room, 60, "the coordinator makes room")
    await cluster.redis.config_set("maxmemory", "0")
    await cluster.at_rest(60)
    assert [row[0] for row in await cluster.read("node-1", EVENTS)] == list(range(before + 1))

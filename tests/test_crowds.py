"""Too much of something, with real processes: updates, garbage, producers, restarts, questions, edits at a bad moment."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from parallax.replication.keys import TableKeys
from parallax.replication.snapshot import Manifest
from parallax.replication.spec import TableSpec
from parallax.replication.window import CAPACITY
from parallax.status import fleet
from tests.cluster import PREFIX, Cluster
from tests.processes import PATIENCE, until

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240 * PATIENCE)]

TEN = TableSpec.declare("ten", {"schema": {"id": "integer", "n": "integer"}, "index": "id"})
GARBAGE = TableSpec.declare("garbage", {"schema": {"id": "integer", "n": "integer"}, "index": "id"})
MANY = TableSpec.declare("many", {"schema": {"n": "integer"}, "max_rows": 1_000_000})
OPEN = TableSpec.declare("open", {"schema": {"id": "integer", "n": "integer"}, "index": "id", "writes": "forward"})

UPDATES_A_SECOND = 2000
CALLS_A_SECOND = 12.0
"""Most commands that one node may send while there is no coordinator, for these four tables."""
KINDS_OF_GARBAGE: tuple[dict[str, str | bytes], ...] = (
    {},
    {"data": ""},
    {"data": "{"},
    {"data": b"\xff\xff\xff\xff\x00"},
    {"data": '[{"id": null}]'},
    {"data": '[{"id": 1, "n": "x"}]'},
    {"data": '[{"id": 1, "unknown": 1}]'},
    {"data": '[{"id": 1}]', "format": "parquet"},
    {"data": '[{"id": 1}]', "op": "explode"},
    {"data": '[{"id": 1}]', "seq": "1"},
    {"op": "clear", "data": "not empty"},
    {"anything": "x" * 2000},
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("crowds"), [TEN, GARBAGE, MANY, OPEN], nodes=2)
    try:
        await cluster.start()
        yield cluster
    finally:
        await cluster.close()
        print(cluster.logs())


async def update_ten(cluster: Cluster, seconds: float) -> int:
    """Send single updates of ten rows at an even pace, and return the last number."""
    number, began = 0, time.monotonic()
    while time.monotonic() < began + seconds:
        async with cluster.redis.pipeline(transaction=False) as pipe:
            while number < (time.monotonic() - began) * UPDATES_A_SECOND:
                pipe.xadd(TableKeys(PREFIX, "ten").ingest, {"data": json.dumps([{"id": number % 10, "n": number}])})
                number += 1
            await pipe.execute()
        await asyncio.sleep(0.02)
    return number - 1


async def test_nodes_join_while_ten_rows_change_two_thousand_times_a_second(cluster: Cluster) -> None:
    updates = asyncio.get_running_loop().create_task(update_ten(cluster, 4))
    joined = 0
    while not updates.done():
        await cluster["node-2"].kill()
        await cluster.restart("node-2")
        joined += 1
    last = await updates
    await cluster.converged(60)
    expected = [(number % 10, number) for number in range(last - 9, last + 1)]
    for name in ("node-1", "node-2"):
        assert await cluster.read(name, TEN) == sorted(expected)
    assert joined >= 1
    assert last > UPDATES_A_SECOND


async def test_a_publisher_of_nothing_but_garbage_harms_nobody(cluster: Cluster) -> None:
    keys = TableKeys(PREFIX, "garbage")
    before = await cluster.redis.xlen(keys.log)
    for _ in range(10):
        async with cluster.redis.pipeline(transaction=False) as pipe:
            for number in range(300):
                pipe.xadd(keys.ingest, KINDS_OF_GARBAGE[number % len(KINDS_OF_GARBAGE)] or {"": ""})
            await pipe.execute()
        await cluster.publish("open", data='[{"id": 1, "n": 1}]')
    await cluster.at_rest(60)
    leader = await cluster.leader()
    counts = (await cluster.status(leader))["sequencing"]["garbage"]
    assert counts["refused"] == 3000
    assert counts["entries"] == 3000
    assert await cluster.redis.xlen(keys.rejected) <= 1000
    assert await cluster.redis.xlen(keys.log) - before <= 1, "refusals write no record"
    assert all("reason" in entry for entry in await cluster.rejected("garbage"))
    assert await cluster.read("node-1", GARBAGE) == []


async def test_a_node_that_comes_again_under_its_name_is_one_node(cluster: Cluster) -> None:
    async def boots() -> list[str]:
        return [member["boot"] for member in await fleet(cluster.server.url) if member["id"] == "node-2"]

    (before,) = await boots()
    await cluster["node-2"].kill()
    await cluster.restart("node-2")

    async def is_one() -> bool:
        found = await boots()
        return len(found) == 1 and found != [before]

    await until(is_one, 10, "the dead one is forgotten")
    await cluster.converged()


@pytest.mark.parametrize("seconds", [4, pytest.param(60, marks=pytest.mark.deep)])
async def test_without_a_coordinator_nodes_ask_redis_little(cluster: Cluster, seconds: float) -> None:
    for name in ("coordinator-1", "coordinator-2"):
        await cluster[name].kill()
    await cluster.redis.config_resetstat()
    began = time.monotonic()
    await asyncio.sleep(seconds)  # what is measured is the time itself
    stats: dict[str, Any] = await cluster.redis.info("commandstats")
    took = time.monotonic() - began
    nodes = sum(name.startswith("node") for name in cluster.running)
    by_name = {name: found["calls"] for name, found in stats.items()}
    by_name.pop("cmdstat_info", None)
    inside = ("cmdstat_xrange", "cmdstat_xinfo|stream", "cmdstat_exists")  # of which most are called by scripts
    calls = sum(count for name, count in by_name.items() if name not in inside)
    rate = calls / took / nodes
    print(f"{rate:.1f} commands a second from each of {nodes} nodes: {by_name}")
    assert 0.5 < rate < CALLS_A_SECOND, by_name
    for name in ("coordinator-1", "coordinator-2"):
        cluster[name].start()
    for name in ("coordinator-1", "coordinator-2"):
        await cluster.ready(name)
    await cluster.converged(60)


async def test_an_edit_at_a_node_that_starts_again_from_a_snapshot(cluster: Cluster) -> None:
    keys = TableKeys(PREFIX, "open")
    await cluster.converged()
    async with cluster.viewer("node-1") as viewer:
        table = await viewer.open_table("open")
        view = await table.view()
        before = (await cluster.status("node-1"))["tables"]["open"]["resyncs"]
        cluster["node-1"].pause()
        await cluster.redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")  # what it missed does not wait for it
        try:
            for number in range(50):
                await cluster.publish("open", data=json.dumps([{"id": 100 + number, "n": number}]))
            await until(lambda: _is_drained(cluster, "open"), 20, "all is in the log")
            await cluster.redis.set(keys.want, "1", ex=10)
            await until(lambda: _is_newest_snapshot(cluster, keys), 20, "a snapshot of it all is there")
            await cluster.redis.xtrim(keys.log, maxlen=1, approximate=False)
        finally:
            cluster["node-1"].resume()
        await table.update([{"id": 7, "n": 7}])
        rows = json.loads(await view.to_json_string())
        assert {"id": 7, "n": 7} in rows, "its author sees it"
        assert len([row for row in rows if row["id"] >= 100]) == 50
        assert (await cluster.status("node-1"))["tables"]["open"]["resyncs"] == before + 1
    await cluster.converged()


async def _is_drained(cluster: Cluster, table: str) -> bool:
    return (await cluster.backlog())[table] == 0


async def _is_newest_snapshot(cluster: Cluster, keys: TableKeys) -> bool:
    position = await cluster.redis.hget(keys.manifest, "position")
    return bool(position == (await cluster.top(keys.table)).encode())


@pytest.mark.parametrize("count", [15_000, pytest.param(100_000, marks=pytest.mark.deep)])
async def test_of_very_many_producers_the_newest_are_remembered(cluster: Cluster, count: int) -> None:
    keys = TableKeys(PREFIX, "many")

    async def publish(numbers: range) -> None:
        for first in range(numbers.start, numbers.stop, 5000):
            async with cluster.redis.pipeline(transaction=False) as pipe:
                for number in range(first, min(first + 5000, numbers.stop)):
                    pipe.xadd(keys.ingest, {"data": f'[{{"n":{number}}}]', "producer": f"{number} of {count}", "seq": 1})
                await pipe.execute()

    await cluster.converged(60)
    before = (await cluster.status("node-1"))["tables"]["many"]["rows"]
    await publish(range(count // 2))
    await cluster[await cluster.leader()].kill()
    await publish(range(count // 2, count))
    await publish(range(count - 5000, count))  # again
    for name in ("coordinator-1", "coordinator-2"):
        if not cluster[name].is_running:
            await cluster.restart(name)
    await cluster.converged(120)
    assert (await cluster.status("node-1"))["tables"]["many"]["rows"] == before + count
    await cluster.redis.set(keys.want, "1", ex=10)
    await until(lambda: _is_newest_snapshot(cluster, keys), 20, "a snapshot is there")
    manifest = Manifest.decode(await cluster.redis.hget(keys.manifest, "body"))
    assert [name for name, _ in manifest.window] == [f"{number} of {count}" for number in range(count - CAPACITY, count)]
    assert await cluster.rejected("many") == []

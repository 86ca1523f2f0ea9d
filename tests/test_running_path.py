"""The running path with real processes: whatever is published, in whatever order, and whoever dies meanwhile, every replica
ends equal to the oracle."""

import asyncio
import json
import os
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest

from parallax.replication.spec import TableSpec
from tests.cluster import Cluster
from tests.operations import INDEXED, LIMITED, PLAIN, Mix, Operation, Operations, interleaved
from tests.oracle import Oracle, Value, difference
from tests.processes import PATIENCE, RedisKind, until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180 * PATIENCE)]

MakeCluster = Callable[..., Awaitable[Cluster]]

SEED = os.environ.get("PARALLAX_TEST_SEED", "1")
OPERATIONS = int(os.environ.get("PARALLAX_TEST_OPERATIONS", "8000"))
MIX = Mix(ragged=0.2, steady=0.7, largest_batch=20, replace=0.1, clear=0.04)
"""Operations that can be merged now and then, as those of real publishers can; and few that wipe what went wrong before."""

KEYED = TableSpec(
    "keyed", (("id", "string"), ("x", "integer"), ("at", "datetime"), ("f", "float"), ("small", "uint8")), index="id"
)
RECENT = TableSpec("recent", (("n", "int64"), ("x", "integer"), ("s", "string")), limit=500)
NUMBERS = TableSpec("numbers", (("n", "int64"), ("s", "string")), max_rows=10_000_000)
SMALL = (KEYED, RECENT, NUMBERS)


class Publisher:
    """Publishes random operations, in lots of random size, and tells the oracles."""

    def __init__(self, cluster: Cluster, specs: Sequence[TableSpec], seed: str = SEED, mix: Mix = MIX) -> None:
        self.cluster = cluster
        self.specs = specs
        self.oracles = {spec.name: Oracle(spec) for spec in specs}
        self._random = random.Random(f"{seed} lots")
        self._source = interleaved(specs, seed, 10**9, mix)

    async def publish(self, count: int, *, most_waiting: int = 1500) -> None:
        """Publish `count` operations, never with many more than `most_waiting` in ingest."""
        while count:
            lot = [next(self._source) for _ in range(min(count, self._random.choice((1, 10, 100, 400))))]
            count -= len(lot)
            await self.cluster.publish_all(lot)
            for name, operation in lot:
                self.oracles[name].apply(operation.op, operation.rows)
            if self._random.random() < 0.5:
                await until(lambda: self._waiting_at_most(most_waiting), 60, "the coordinator keeps up")

    async def _waiting_at_most(self, most: int) -> bool:
        waiting = sum((await self.cluster.backlog()).values())
        assert waiting <= most, f"{waiting} entries wait"
        return True

    async def check(self, nodes: Sequence[str] = ()) -> None:
        """Wait until all is applied, compare all digests, and what `nodes` (all that run) show with the oracles."""
        await self.cluster.converged(60)
        for spec in self.specs:
            assert await self.cluster.rejected(spec.name) == []
            expected = self.oracles[spec.name].rows()
            for name in nodes or [name for name in self.cluster.running if name.startswith("node")]:
                assert difference(expected, await self.cluster.read(name, spec)) == "", f"{spec.name} on {name}"


async def test_same_order_same_state(make_cluster: MakeCluster) -> None:
    """A leader, a standby, a node that is there all the while, one that joins half-way, one that joins at the end.

    PARALLAX_TEST_SEED replays a run; PARALLAX_TEST_OPERATIONS makes it longer.
    """
    specs = (INDEXED, LIMITED, PLAIN)
    # Snapshots are taken, and logs trimmed, several times on the way.
    cluster = await make_cluster(specs, coordinators=2, nodes=1, settings={"SNAPSHOT_MIN_BYTES": "1000000"})
    publisher = Publisher(cluster, specs)
    await publisher.publish(OPERATIONS // 2)
    await asyncio.gather(cluster.add_node(), publisher.publish(OPERATIONS - OPERATIONS // 2))
    await cluster.add_node()
    assert len(cluster.running) == 5
    assert min(len(oracle) for oracle in publisher.oracles.values()) > 0, "the seed leaves something to compare"
    await publisher.check()


async def test_a_killed_node_comes_back_equal(make_cluster: MakeCluster) -> None:
    cluster = await make_cluster(SMALL, coordinators=1, nodes=2)
    publisher = Publisher(cluster, SMALL)
    await publisher.publish(600)
    await cluster["node-2"].kill()
    await publisher.publish(600)
    await asyncio.gather(cluster.restart("node-2"), publisher.publish(600))
    await publisher.check()


async def publish_numbers(cluster: Cluster, numbers: Sequence[int], lot: int = 20) -> None:
    """Publish one row for each number, each in an entry of its own."""
    for start in range(0, len(numbers), lot):
        rows = [{"n": number, "s": f"row {number}"} for number in numbers[start : start + lot]]
        operations = [Operation("update", (row,), "json", json.dumps([row]).encode()) for row in rows]
        await cluster.publish_all((NUMBERS.name, operation) for operation in operations)


async def numbers_on(cluster: Cluster, node: str) -> list[Value]:
    return [row[0] for row in await cluster.read(node, NUMBERS)]


@pytest.mark.parametrize("fault", ["kill", "pause", "term"])
async def test_another_leads_on_and_nothing_is_lost_or_twice(make_cluster: MakeCluster, fault: str) -> None:
    """A leader that is killed, frozen for longer than its lease and let go again, or told to stop, while rows stream in."""
    cluster = await make_cluster([NUMBERS], coordinators=2, nodes=2)
    first = await cluster.leader()
    await publish_numbers(cluster, range(2000))
    if fault == "kill":
        await cluster[first].kill()
    elif fault == "pause":
        cluster[first].pause()
    else:
        assert await cluster[first].terminate() == 0
    second = next(name for name in cluster.running if name.startswith("coordinator") and name != first)

    async def leads() -> bool:
        return bool((await cluster.status(second))["leader"])

    await publish_numbers(cluster, range(2000, 4000))
    await until(leads, 10, "the standby leads")
    await publish_numbers(cluster, range(4000, 5000))
    if fault == "pause":
        cluster[first].resume()  # it still believes that it leads, and has an append in mind
    else:
        cluster[first].start()
    await publish_numbers(cluster, range(5000, 6000))
    await cluster.ready(first)
    await cluster.converged()
    for node in ("node-1", "node-2"):
        assert await numbers_on(cluster, node) == list(range(6000))


async def test_a_leader_told_to_stop_hands_over_at_once(make_cluster: MakeCluster) -> None:
    cluster = await make_cluster([NUMBERS], coordinators=2, nodes=1, settings={"LEASE_TTL_SECONDS": "30"})
    first = await cluster.leader()
    started = time.monotonic()
    assert await cluster[first].terminate() == 0
    await publish_numbers(cluster, range(10))

    async def is_visible() -> bool:
        return await numbers_on(cluster, "node-1") == list(range(10))

    await until(is_visible, 3, "rows published after the leader left are visible")
    assert time.monotonic() - started < 4 * PATIENCE  # not the lease's 30 s


@pytest.mark.parametrize("kind", ["valkey", "redis"])
async def test_redis_killed_and_restarted_with_its_data(make_cluster: MakeCluster, kind: RedisKind) -> None:
    cluster = await make_cluster(SMALL, redis_kind=kind, coordinators=2, nodes=2)
    await publish_numbers(cluster, range(10))
    await cluster.at_rest()
    publisher = Publisher(cluster, (KEYED, RECENT))
    await publisher.publish(800)
    await cluster.server.kill()  # with entries in ingest, and perhaps an append under way
    assert await numbers_on(cluster, "node-1") == list(range(10)), "nodes serve what they have while Redis is away"
    assert (await cluster.fetch(cluster.url("node-1", "/readyz", internal=True)))[0] == 200
    cluster.server.start()
    await cluster.server.ready()
    await publisher.publish(800)
    await publisher.check()
    await publish_numbers(cluster, range(10, 20))
    await cluster.at_rest()
    assert await numbers_on(cluster, "node-2") == list(range(20))


async def test_redis_frozen_for_a_while(make_cluster: MakeCluster) -> None:
    cluster = await make_cluster(SMALL, coordinators=2, nodes=2)
    await publish_numbers(cluster, range(10))
    await cluster.at_rest()
    publisher = Publisher(cluster, (KEYED, RECENT))
    await publisher.publish(500)
    cluster.server.pause()
    try:
        await asyncio.sleep(2.5)  # the fault itself: longer than the lease, so that every coordinator must doubt
        assert await numbers_on(cluster, "node-1") == list(range(10)), "nodes serve what they have"
    finally:
        cluster.server.resume()
    await publisher.publish(500)
    await publisher.check()


async def test_connections_cut_again_and_again(make_cluster: MakeCluster) -> None:
    """What is published on the feed while nobody listens is lost: it must come from the log."""
    cluster = await make_cluster(SMALL, coordinators=2, nodes=2)
    publisher = Publisher(cluster, SMALL)
    for kind in ("pubsub", "normal", "pubsub", "normal", "pubsub"):
        await publisher.publish(200, most_waiting=10**9)
        await cluster.redis.client_kill_filter(_type=kind, skipme=True)
        await publisher.publish(200, most_waiting=10**9)
    await publisher.check()


async def test_redis_emptied_gets_the_state_back(make_cluster: MakeCluster) -> None:
    cluster = await make_cluster(SMALL, coordinators=2, nodes=2)
    publisher = Publisher(cluster, SMALL)
    await publisher.publish(500)
    await cluster.at_rest()
    await cluster.redis.flushall()
    await publisher.publish(500)
    late = await cluster.add_node()
    await publisher.check()
    assert late in cluster.running


async def test_views_that_were_open_all_the_while(make_cluster: MakeCluster) -> None:
    """Live views of one viewer on each node, several of them grouped, show in the end what the oracle holds."""
    cluster = await make_cluster([KEYED], coordinators=1, nodes=2)
    publisher = Publisher(cluster, [KEYED])
    async with AsyncExitStack() as stack:
        shown: dict[str, dict[str, Any]] = {}
        for name in ("node-1", "node-2"):
            table = await (await stack.enter_async_context(cluster.viewer(name))).open_table(KEYED.name)
            shown[name] = {
                "filter": await table.view(filter=[["x", ">", 0]], columns=["id", "x"]),
                "sort": await table.view(sort=[["id", "desc"]], columns=["id"]),
                "sums": await table.view(group_by=["id"], columns=["small"], aggregates={"small": "sum"}),
                "any": await table.view(group_by=["id"], columns=["f"], aggregates={"f": "any"}),
                "split": await table.view(group_by=["id"], split_by=["id"], columns=["x"]),
            }
            await publisher.publish(500)
        await publisher.publish(500)
        await cluster.converged()  # which also makes visible what was applied
        rows = {row[0]: row[1] for row in publisher.oracles[KEYED.name].rows()}
        small = {row[0]: row[-1] or 0 for row in publisher.oracles[KEYED.name].rows()}
        assert len(rows) > 10, "the seed leaves something to compare"
        for name, views in shown.items():
            data = {kind: await view.to_columns() for kind, view in views.items()}
            found = dict(zip(data["filter"]["id"], data["filter"]["x"], strict=True))
            assert found == {key: x for key, x in rows.items() if x is not None and x > 0}, name
            assert data["sort"]["id"] == sorted(rows, reverse=True), name
            sums = zip(data["sums"]["__ROW_PATH__"], data["sums"]["small"], strict=True)
            assert {(path or ["all"])[0]: x or 0 for path, x in sums} == small | {"all": sum(small.values())}, name
            for kind in ("any", "split"):
                assert {path[0] for path in data[kind]["__ROW_PATH__"] if path} == rows.keys(), f"{kind} on {name}"


async def test_viewers_come_through_the_load_balancer_while_a_node_is_there(make_cluster: MakeCluster) -> None:
    cluster = await make_cluster([NUMBERS], coordinators=1, nodes=2, front=True)
    await publish_numbers(cluster, range(10))
    await cluster.converged()
    assert await numbers_on(cluster, "front") == list(range(10))
    for gone, left in (("node-1", "node-2"), ("node-2", "node-1")):
        await cluster[gone].kill()
        for _ in range(4):  # whichever node it would have been
            assert await numbers_on(cluster, "front") == list(range(10)), f"only {left} runs"
        await cluster.restart(gone)

        async def passes_on(name: str = gone) -> bool:
            async with cluster.viewer("front"):
                return bool((await cluster.status(name))["sessions"])

        await until(passes_on, 15, f"the load balancer sends viewers to {gone} again")


REFUSED: dict[str, dict[str, str | bytes]] = {
    "unknown column": {"op": "update", "format": "json", "data": '[{"id": "a", "y": 1}]'},
    "no key": {"op": "update", "format": "json", "data": '[{"x": 1}]'},
    "no JSON": {"op": "update", "format": "json", "data": "{"},
    "no Arrow": {"op": "update", "format": "arrow", "data": b"\x00\xff"},
    "too large": {"op": "replace", "format": "json", "data": '[{"id": "a", "x": 2147483648}]'},
    "unknown op": {"op": "destroy", "format": "json", "data": "[]"},
    "no fields that we know": {"colour": "red"},
}


async def test_what_is_refused_is_kept_with_the_reason_and_stops_nothing(make_cluster: MakeCluster) -> None:
    cluster = await make_cluster(SMALL, coordinators=1, nodes=1)
    oracle = Oracle(KEYED)
    source = Operations(KEYED, SEED, Mix(replace=0, clear=0))
    sent = []
    for fields in REFUSED.values():
        for operation in source.take(5):
            await cluster.publish(KEYED.name, **operation.fields())
            oracle.apply(operation.op, operation.rows)
        sent.append((await cluster.publish(KEYED.name, **fields), fields))
    await cluster.converged()
    assert difference(oracle.rows(), await cluster.read("node-1", KEYED)) == ""
    kept = await cluster.rejected(KEYED.name)
    assert len(kept) == len(sent)
    for (entry_id, fields), entry in zip(sent, kept, strict=True):
        reason = entry.pop("reason").decode()
        assert len(reason) > 10, f"no reason for {fields}"
        assert entry.pop("entry") == entry_id
        assert entry == {name: value.encode() if isinstance(value, str) else value for name, value in fields.items()}
    assert (await cluster.backlog())[KEYED.name] == 0


async def test_a_node_told_to_stop_leaves_in_order(make_cluster: MakeCluster) -> None:
    cluster = await make_cluster([KEYED], coordinators=1, nodes=2)
    assert await cluster["node-1"].terminate() == 0

    async def members() -> list[Any]:
        return [name async for name in cluster.redis.sscan_iter("parallax:{fleet}:members")]

    assert len(await members()) == 2, "it left the registry"
    await cluster.converged()

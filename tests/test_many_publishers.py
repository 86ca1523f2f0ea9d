"""Several publishers at once, in every format, while tables are created, altered, dropped and made again: every node ends with
what the oracle holds."""

import asyncio
import os
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace

import pytest

from parallax.replication.spec import TableSpec
from parallax.tables import request
from tests.cluster import PREFIX, Cluster
from tests.operations import INDEXED, LIMITED, PLAIN, Mix, Operation, Operations, interleaved
from tests.oracle import Oracle, difference
from tests.processes import PATIENCE, until

pytestmark = pytest.mark.cluster

SEED = os.environ.get("PARALLAX_TEST_SEED", "1")
MIX = Mix(ragged=0.2, steady=0.7, largest_batch=20)
MOST_WAITING = 2000
SHAPES = (
    TableSpec("moody", (("id", "string"), ("x", "integer")), index="id"),
    TableSpec("moody", (("id", "string"), ("x", "int64"), ("s", "string")), index="id"),
    TableSpec(
        "moody", (("id", "string"), ("x", "int64"), ("s", "string"), ("at", "datetime"), ("b", "boolean")), index="id"
    ),
)
"""Each can be altered into the next: columns are added, or grow."""


@dataclass
class Told:
    """What was published, with the ids that Redis gave: they say in which order, whoever published."""

    operations: dict[str, list[tuple[tuple[int, int], Operation]]] = field(default_factory=dict)

    async def publish(self, cluster: Cluster, lot: Sequence[tuple[str, Operation]]) -> None:
        async with cluster.redis.pipeline(transaction=False) as pipe:
            for name, operation in lot:
                pipe.xadd(f"{PREFIX}:{{{name}}}:in", operation.fields())
            ids = await pipe.execute()
        for (name, operation), entry_id in zip(lot, ids, strict=True):
            ms, _, number = entry_id.partition(b"-")
            self.operations.setdefault(name, []).append(((int(ms), int(number)), operation))

    def oracle(self, spec: TableSpec) -> Oracle:
        oracle = Oracle(spec)
        for _, operation in sorted(self.operations.get(spec.name, []), key=lambda pair: pair[0]):
            oracle.apply(operation.op, operation.rows)
        return oracle


async def publish(cluster: Cluster, told: Told, specs: Sequence[TableSpec], seed: str, count: int) -> None:
    """One publisher, on all tables."""
    source, rng = interleaved(specs, seed, count, MIX), random.Random(f"{seed} lots")

    async def keeps_up() -> bool:
        return sum((await cluster.backlog()).values()) <= MOST_WAITING

    while lot := [pair for _, pair in zip(range(rng.choice((1, 10, 100, 300))), source, strict=False)]:
        await told.publish(cluster, lot)
        await until(keeps_up, 120, "the coordinator keeps up")


async def live(cluster: Cluster, seed: str, lives: int, count: int) -> Oracle:
    """Create a table, publish, alter it twice meanwhile, drop it, and so on; at last it stays. Return what it must hold."""
    oracle = Oracle(SHAPES[0])
    for life in range(lives):
        if life:
            await request(cluster.redis, PREFIX, "drop", "moody")
        for number, shape in enumerate(SHAPES):
            action = "alter" if number else "create"
            await request(cluster.redis, PREFIX, action, "moody", shape)
            held = [] if not number else oracle.rows()
            before = oracle.columns
            oracle = Oracle(shape)
            oracle.update([dict(zip(before, row, strict=True)) for row in held])
            told = Told()
            narrow = Operations(shape, f"{seed} {life} {number}", replace(MIX, clear=0.1))
            for operation in narrow.take(count):
                await told.publish(cluster, [("moody", operation)])
                oracle.apply(operation.op, operation.rows)

            async def is_sequenced() -> bool:
                return await cluster.redis.xlen(f"{PREFIX}:{{moody}}:in") == 0

            await until(is_sequenced, 30, "what was published for this shape is in the log")
    return oracle


async def run(make_cluster: Callable[..., Awaitable[Cluster]], operations: int) -> None:
    specs = (INDEXED, LIMITED, PLAIN)
    cluster = await make_cluster(specs, coordinators=2, nodes=2, settings={"SNAPSHOT_MIN_BYTES": "2000000"})
    told = Told()
    publishers = [publish(cluster, told, specs, f"{SEED} {number}", operations // 4) for number in range(4)]
    moody, *_ = await asyncio.gather(live(cluster, SEED, 3, 40), *publishers)
    await cluster.converged(120)
    nodes = [name for name in cluster.running if name.startswith("node")]
    for spec in specs:
        expected = told.oracle(spec).rows()
        assert expected, "the seed leaves something to compare"
        assert await cluster.rejected(spec.name) == []
        for name in nodes:
            assert difference(expected, await cluster.read(name, spec)) == "", f"{spec.name} on {name}"
    assert await cluster.rejected("moody") == []
    for name in nodes:
        assert difference(moody.rows(), await cluster.read(name, SHAPES[-1])) == "", f"moody on {name}"


@pytest.mark.timeout(180 * PATIENCE)
async def test_several_publishers_at_once(make_cluster: Callable[..., Awaitable[Cluster]]) -> None:
    await run(make_cluster, 4_000)


@pytest.mark.deep
@pytest.mark.timeout(1800 * PATIENCE)
async def test_several_publishers_for_long(make_cluster: Callable[..., Awaitable[Cluster]]) -> None:
    await run(make_cluster, 200_000)

"""Accident after accident, drawn from a seed, while rows stream in: nothing is lost, nothing comes twice, all replicas agree."""

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import pytest

from tests.append_only import forget_newest, newest_file
from tests.cluster import Cluster
from tests.operations import Operations
from tests.oracle import Value
from tests.processes import PATIENCE
from tests.test_running_path import KEYED, NUMBERS, RECENT, SMALL, Publisher, numbers_on, publish_numbers

pytestmark = [pytest.mark.cluster, pytest.mark.deep, pytest.mark.timeout(400 * PATIENCE)]

MakeCluster = Callable[..., Awaitable[Cluster]]

FIRST = int(os.environ.get("PARALLAX_TEST_SEED", "1"))
SEEDS = range(FIRST, FIRST + int(os.environ.get("PARALLAX_TEST_RUNS", "2")))
ACCIDENTS = (
    "kill leader",
    "pause leader",
    "stop leader",
    "kill standby",
    "kill coordinators",
    "kill node",
    "pause node",
    "kill redis",
    "pause redis",
    "empty redis",
)
HOLD_SECONDS = (0.2, 1.0, 2.0, 4.0)  # shorter and longer than the lease


class Accident:
    """One accident: `happen`, then after a while `heal`."""

    def __init__(self, cluster: Cluster, kind: str) -> None:
        self.cluster = cluster
        self.kind = kind
        self.dead: list[str] = []
        self.paused: list[str] = []

    @property
    def leaves_redis(self) -> bool:
        return self.kind not in ("kill redis", "pause redis")

    async def happen(self, rng: random.Random) -> None:
        cluster = self.cluster
        deed, _, whom = self.kind.partition(" ")
        if whom == "redis":
            if deed == "kill":
                await cluster.server.kill()
            elif deed == "pause":
                cluster.server.pause()
            else:
                await cluster.at_rest(60)  # what waits in ingest would be lost, as it must
                await cluster.redis.flushall()
            return
        for name in await self._victims(whom, rng):
            if deed == "pause":
                cluster[name].pause()
                self.paused.append(name)
            else:
                self.dead.append(name)
                if deed == "stop":
                    assert await cluster[name].terminate() == 0
                else:
                    await cluster[name].kill()

    async def _victims(self, whom: str, rng: random.Random) -> list[str]:
        if whom == "node":
            return [rng.choice([name for name in self.cluster.running if name.startswith("node")])]
        leader = await self.cluster.leader(20)
        standby = [name for name in self.cluster.running if name.startswith("coordinator") and name != leader]
        return {"leader": [leader], "standby": standby, "coordinators": [leader, *standby]}[whom]

    async def heal(self) -> None:
        if self.kind == "pause redis":
            self.cluster.server.resume()
        elif self.kind == "kill redis":
            self.cluster.server.start()
            await self.cluster.server.ready()
        for name in self.paused:
            self.cluster[name].resume()
        for name in self.dead:
            self.cluster[name].start()


def assert_each_once(found: Sequence[Value], numbers: range, where: str) -> None:
    counted = Counter(found)
    twice = [number for number, count in counted.items() if count > 1]
    missing = [number for number in numbers if number not in counted]
    assert (twice, missing) == ([], []), f"{where}: twice {twice[:5]}, missing {missing[:5]} of {len(numbers)}"
    assert list(found) == sorted(found), f"{where}: out of order"


@pytest.mark.parametrize("seed", SEEDS)
async def test_accident_after_accident(make_cluster: MakeCluster, seed: int) -> None:
    rng = random.Random(f"accidents {seed}")
    cluster = await make_cluster(
        SMALL,
        redis_kind=rng.choice(("valkey", "redis")),
        nodes=2,
        settings={"SNAPSHOT_MIN_BYTES": str(rng.choice((20_000, 200_000, 32 << 20)))},
    )
    publisher = Publisher(cluster, (KEYED, RECENT), seed=str(seed))
    numbers = 0

    async def publish() -> None:
        nonlocal numbers
        await publisher.publish(rng.choice((50, 200, 400)), most_waiting=10**9)
        await publish_numbers(cluster, range(numbers, numbers + 100))
        numbers += 100

    await publish()
    for _ in range(8):
        accident = Accident(cluster, rng.choice(ACCIDENTS))
        print(f"seed {seed}, {numbers} numbers: {accident.kind}")
        await accident.happen(rng)
        until = time.monotonic() + rng.choice(HOLD_SECONDS)
        while time.monotonic() < until:  # as long as the accident lasts
            if accident.leaves_redis:
                await publish()
            await asyncio.sleep(0.1)
        await accident.heal()
        await publish()
        if rng.random() < 0.6:  # otherwise the next one comes before all have recovered
            for name in accident.dead:
                await cluster.ready(name, 60)
            await cluster.at_rest(60)
            for name in ("node-1", "node-2"):
                assert_each_once(await numbers_on(cluster, name), range(numbers), name)
    for name in cluster.processes:
        await cluster.ready(name, 60)
    await publisher.check()
    for name in ("node-1", "node-2"):
        assert_each_once(await numbers_on(cluster, name), range(numbers), name)


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_redis_that_forgot_its_newest_writes(make_cluster: MakeCluster, seed: int) -> None:
    """As after a failover that lost the tail: what was in the log comes again from ingest or is gone with it; never twice."""
    rng = random.Random(f"forgotten {seed}")
    snapshots = {"SNAPSHOT_MIN_BYTES": str(rng.choice((2_000, 20_000, 32 << 20)))}
    cluster = await make_cluster((NUMBERS, KEYED), redis_kind=rng.choice(("valkey", "redis")), nodes=2, settings=snapshots)
    others = Operations(KEYED, seed)
    numbers = 0
    forgotten: set[int] = set()

    async def publish(count: int) -> None:
        nonlocal numbers
        await publish_numbers(cluster, range(numbers, numbers + count), lot=rng.choice((1, 20)))
        numbers += count
        await cluster.publish_all((KEYED.name, operation) for operation in others.take(30))

    for _ in range(6):
        await publish(200)
        if rng.random() < 0.5:
            await cluster.at_rest(60)
        await publish(rng.choice((20, 200, 600)))
        await cluster.server.kill()
        newest = newest_file(cluster.directory)
        size = newest.stat().st_size
        cut = forget_newest(newest, rng.choice((1, 100, 1_000, 10_000, 50_000, 200_000)))
        victim = rng.choice(("coordinator-1", "coordinator-2", "node-1", None, None, None))
        if victim is not None:
            await cluster[victim].kill()
        cluster.server.start()
        await cluster.server.ready()
        if victim is not None:
            cluster[victim].start()
        before = numbers
        await publish(200)
        for name in cluster.processes:
            await cluster.ready(name, 60)
        await cluster.at_rest(60)
        found = await numbers_on(cluster, "node-1")
        assert found == await numbers_on(cluster, "node-2")
        gone = set(range(before)) - set(found) - forgotten
        assert not gone or len(gone) == max(gone) - min(gone) + 1, f"a hole in what was forgotten: {sorted(gone)[:20]}"
        assert not gone or max(gone) == before - 1, "only the newest writes can be forgotten"
        forgotten |= gone
        kept = [number for number in range(numbers) if number not in forgotten]
        assert found == kept, f"cut {cut} bytes of {size}: {len(found)} numbers, expected {len(kept)}"
    await cluster.converged(60)

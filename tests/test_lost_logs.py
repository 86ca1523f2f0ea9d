"""What Redis lost, whole or in part: the fleet mends it by itself, without a new update, and says what is gone."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from parallax.replication.keys import TableKeys
from tests.cluster import PREFIX, Cluster
from tests.processes import PATIENCE, until
from tests.test_running_path import NUMBERS, numbers_on, publish_numbers

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180 * PATIENCE)]

Make = Callable[..., Awaitable[Cluster]]

KEYS = TableKeys(PREFIX, NUMBERS.name)
SMALL_SNAPSHOTS = {"SNAPSHOT_MIN_BYTES": "2000"}


async def trimmed(cluster: Cluster, count: int = 300) -> None:
    """Publish until snapshots were taken, and the log no longer begins at its origin."""
    published = 0

    async def is_trimmed() -> bool:
        nonlocal published
        await publish_numbers(cluster, range(published, published + count))
        published += count
        await cluster.at_rest()
        first: Any = await cluster.redis.xrange(KEYS.log, count=1)
        return not first[0][0].endswith(b"-1")

    await until(is_trimmed, 30, "the log is trimmed")


async def all_live(cluster: Cluster, count: int) -> None:
    """Every replica is at the top, and has these numbers."""
    await cluster.converged(40)
    for name in [name for name in cluster.running if name.startswith("node")]:
        assert len(await numbers_on(cluster, name)) == count


def said(cluster: Cluster, words: str) -> list[str]:
    found = []
    for process in cluster.processes.values():
        found += [line for line in process.log.read_text().splitlines() if words in line]
    return found


@pytest.mark.parametrize("is_leader_killed", [False, pytest.param(True, marks=pytest.mark.deep)])
async def test_the_tail_and_the_manifest_are_lost_together(make_cluster: Make, is_leader_killed: bool) -> None:
    cluster = await make_cluster([NUMBERS], coordinators=2, nodes=1, settings=SMALL_SNAPSHOTS)
    await trimmed(cluster)
    old = await cluster.redis.dump(KEYS.log)
    old_top = await cluster.top(NUMBERS.name)
    await publish_numbers(cluster, range(10_000, 10_100))
    await cluster.at_rest()
    count = len(await numbers_on(cluster, "node-1"))
    if is_leader_killed:
        await cluster[await cluster.leader()].kill()
    async with cluster.redis.pipeline(transaction=True) as pipe:
        pipe.restore(KEYS.log, 0, old, replace=True)
        pipe.delete(KEYS.manifest)
        await pipe.execute()
    assert await cluster.top(NUMBERS.name) == old_top
    await cluster.leader(30)
    await all_live(cluster, count)
    assert said(cluster, "nothing leads to its log's top")
    (lost,) = said(cluster, "its log ends at")
    assert lost.endswith(f"its log ends at {old_top}")
    assert (await cluster.status(await cluster.leader()))["sequencing"]["numbers"]["lost"] > 0
    node = await cluster.add_node()
    assert len(await numbers_on(cluster, node)) == count


@pytest.mark.parametrize(
    "what",
    [
        "chunk",
        *(pytest.param(what, marks=pytest.mark.deep) for what in ("log trimmed", "manifest", "log trimmed and manifest")),
    ],
)
async def test_a_newcomer_comes_to_life_without_an_update(make_cluster: Make, what: str) -> None:
    cluster = await make_cluster([NUMBERS], coordinators=2, nodes=1, settings=SMALL_SNAPSHOTS)
    await trimmed(cluster)
    count = len(await numbers_on(cluster, "node-1"))
    if "log trimmed" in what:
        await cluster.redis.xtrim(KEYS.log, maxlen=0, approximate=False)
    if "manifest" in what:
        await cluster.redis.delete(KEYS.manifest)
    if "chunk" in what:
        for key in await cluster.redis.keys(f"{KEYS.chunk_prefix}*"):
            await cluster.redis.delete(key)
    await cluster.add_node()
    await all_live(cluster, count)


async def test_all_is_lost_but_what_one_coordinator_has(make_cluster: Make) -> None:
    """Redis is empty, and the one who leads has just been started: he yields to the one who has the rows."""
    settings = SMALL_SNAPSHOTS | {"CANDIDATE_SECONDS": "3"}
    cluster = await make_cluster([NUMBERS], coordinators=2, nodes=1, settings=settings)
    await trimmed(cluster)
    count = len(await numbers_on(cluster, "node-1"))
    cold = await cluster.leader()
    warm = next(name for name in ("coordinator-1", "coordinator-2") if name != cold)
    await cluster[cold].kill()
    cluster[warm].pause()
    await cluster.redis.flushall()
    cluster[cold].start()

    async def leads() -> bool:
        return bool((await cluster.status(cold))["leader"])

    await until(leads, 20, "the one who knows nothing leads")
    cluster[warm].resume()
    await until(lambda: has_yielded(cluster, cold), 30, "he yields")
    await all_live(cluster, count)
    assert await cluster.leader() == warm


async def has_yielded(cluster: Cluster, name: str) -> bool:
    return "beyond our 0-0" in cluster[name].log.read_text()


async def test_of_two_that_know_the_same_one_leads_on_a_wiped_redis(make_cluster: Make) -> None:
    cluster = await make_cluster([NUMBERS], coordinators=2, nodes=1)
    await publish_numbers(cluster, range(500))
    await cluster.at_rest()
    await cluster.redis.flushall()
    await all_live(cluster, 500)

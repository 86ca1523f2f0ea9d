"""What Parallax does not promise, as `docs/guarantees.md` says it: each sentence is what really happens, no less and no more."""

import asyncio
import json
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import parallax
from parallax.replication.keys import TableKeys
from tests.cluster import PREFIX, Cluster
from tests.processes import PATIENCE, until
from tests.test_connect import perspective_rows
from tests.test_lost_logs import said
from tests.test_running_path import KEYED, NUMBERS, numbers_on, publish_numbers
from tests.test_verify import SPEC, TRUTH, replica, spoil, verify

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180 * PATIENCE)]

Make = Callable[..., Awaitable[Cluster]]

KEYS = TableKeys(PREFIX, NUMBERS.name)


async def has_numbers(cluster: Cluster, count: int) -> bool:
    return len(await numbers_on(cluster, "node-1")) == count


async def copied(cluster: Cluster) -> dict[bytes, bytes]:
    """Return all that is in Redis, as a dump would have it."""
    return {key: await cluster.redis.dump(key) for key in await cluster.redis.keys("*")}


async def put_back(cluster: Cluster, dump: dict[bytes, bytes]) -> None:
    """Give Redis what a dump holds, and nothing else."""
    async with cluster.redis.pipeline(transaction=True) as pipe:
        pipe.flushall()
        for key, value in dump.items():
            pipe.restore(key, 0, value)
        await pipe.execute()


async def test_an_old_dump_takes_everybody_back(make_cluster: Make) -> None:
    cluster = await make_cluster([NUMBERS], coordinators=2, nodes=1)
    await publish_numbers(cluster, range(100))
    await cluster.at_rest()
    dump = await copied(cluster)
    await publish_numbers(cluster, range(100, 150))
    await cluster.at_rest()
    assert await has_numbers(cluster, 150)
    await put_back(cluster, dump)
    await until(lambda: has_numbers(cluster, 100), 30, "the node follows the dump")
    await cluster.converged(30)
    assert said(cluster, "its log ends at")
    await publish_numbers(cluster, range(100, 110))
    await cluster.at_rest()
    assert await has_numbers(cluster, 110)


async def test_entries_without_a_number_come_twice_beside_a_state_that_was_given_back(make_cluster: Make) -> None:
    """Redis lost the log from its beginning, and still has in ingest what the log had taken in."""
    cluster = await make_cluster([NUMBERS], coordinators=1, nodes=1)
    bare = {"op": "update", "format": "json", "data": json.dumps([{"n": 1, "s": "bare"}])}
    numbered = bare | {"data": json.dumps([{"n": 2, "s": "numbered"}]), "producer": "p", "seq": 1}
    async with cluster.redis.pipeline(transaction=True) as pipe:
        for fields in (bare, numbered):
            pipe.xadd(KEYS.ingest, fields)
        await pipe.execute()
    await cluster.at_rest()
    assert await numbers_on(cluster, "node-1") == [1, 2]
    async with cluster.redis.pipeline(transaction=True) as pipe:
        pipe.delete(KEYS.log, KEYS.manifest)
        for fields in (bare, numbered):
            pipe.xadd(KEYS.ingest, fields)
        await pipe.execute()
    await until(lambda: has_numbers(cluster, 3), 30, "the bare one came again")
    await cluster.converged(30)
    assert sorted(await numbers_on(cluster, "node-1")) == [1, 1, 2]
    assert said(cluster, "its log is gone; giving back the state")


async def test_what_no_coordinator_has_is_not_given_back(make_cluster: Make) -> None:
    """Nodes serve what they have while nobody leads; the table begins empty with a coordinator who knows nothing."""
    cluster = await make_cluster([NUMBERS], coordinators=1, nodes=1)
    await publish_numbers(cluster, range(50))
    await cluster.at_rest()
    await cluster["coordinator-1"].kill()
    await cluster.redis.flushall()
    await asyncio.sleep(2)
    assert await has_numbers(cluster, 50), "the node serves on"
    await cluster.restart("coordinator-1")
    await until(lambda: has_numbers(cluster, 0), 30, "the table is empty")
    await cluster.converged(30)
    await publish_numbers(cluster, range(7))
    await cluster.at_rest()
    assert await has_numbers(cluster, 7)


async def test_a_message_on_the_channel_is_lost_while_nobody_leads(make_cluster: Make) -> None:
    cluster = await make_cluster([NUMBERS], coordinators=1, nodes=1)
    await cluster["coordinator-1"].kill()
    heard = await cluster.redis.publish(KEYS.ingest, '[{"n": 1, "s": "said to nobody"}]')
    await cluster.redis.xadd(KEYS.ingest, {"op": "update", "format": "json", "data": '[{"n": 2, "s": "kept"}]'})
    await cluster.restart("coordinator-1")
    await cluster.at_rest()
    assert heard == 0, "PUBLISH tells its caller that nobody listens"
    assert await numbers_on(cluster, "node-1") == [2]


async def test_a_wrong_majority_stays(make_cluster: Make) -> None:
    cluster = await make_cluster([SPEC], coordinators=1, nodes=2, program="tests.corruptible")
    await cluster.publish(SPEC.name, data=json.dumps([{"id": key, "x": x} for key, x in TRUTH]))
    await cluster.at_rest()
    await spoil(cluster, "node-1", "node-2", how=signal.SIGUSR2)
    code, found = await verify(cluster)
    assert code == 1
    assert found["node-1"] == found["node-2"] == "with the majority"

    async def has_healed() -> bool:
        return bool((await replica(cluster, "coordinator-1"))["heals"] == 1)

    await until(has_healed, 30, "the one who was right starts again")
    wrong = await cluster.read("node-1", SPEC)
    assert wrong == await cluster.read("node-2", SPEC) != TRUTH


async def test_a_subscriber_is_not_told_of_rows_that_went_while_he_was_away(make_cluster: Make) -> None:
    cluster = await make_cluster([KEYED], coordinators=1, nodes=2, front=True)
    await cluster.publish(KEYED.name, op="update", format="json", data=json.dumps([{"id": key} for key in "abc"]))
    await cluster.at_rest()
    states: list[Any] = []
    told: set[str] = set()

    def take(*arguments: Any) -> None:
        for argument in arguments:
            if isinstance(argument, bytes) and argument:
                told.update(row["id"] for row in perspective_rows(argument))

    async with parallax.connect(cluster.url("front"), on_state=states.append) as client:
        view = await (await client.open_table(KEYED.name)).view(columns=["id"])
        await view.on_remove(take)
        await view.num_rows()  # a client does not wait for a subscription; what it asks next of a view is answered after it
        await cluster.publish(KEYED.name, op="remove", format="json", data='[{"id": "a"}]')
        await until(_is(lambda: told == {"a"}), 15, "he is told")
        node = states[-1].node
        cluster[node].pause()
        await cluster.publish(KEYED.name, op="remove", format="json", data='[{"id": "b"}]')
        await until(_is(lambda: states[-1].name == "live" and states[-1].node != node), 15, "he is elsewhere")
        cluster[node].resume()
        assert json.loads(await view.to_json_string()) == [{"id": "c"}], "what he reads is right"
        await cluster.publish(KEYED.name, op="remove", format="json", data='[{"id": "c"}]')
        await until(_is(lambda: "c" in told), 15, "he is told again")
        assert told == {"a", "c"}


def _is(condition: Callable[[], bool]) -> Callable[[], Awaitable[bool]]:
    async def check() -> bool:
        return condition()

    return check

"""Replicas that are truly spoiled, in real processes, are found by a verify, and healed."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from parallax.replication.keys import TableKeys
from parallax.replication.spec import TableSpec
from tests.cluster import PREFIX, Cluster
from tests.processes import PATIENCE, ROOT, until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120 * PATIENCE)]

MakeCluster = Callable[..., Awaitable[Cluster]]

SPEC = TableSpec("rows", (("id", "string"), ("x", "int64")), index="id")
COUNT = 500
TRUTH = [(f"k{number:04}", number) for number in range(COUNT)]


@pytest.fixture
def make(make_cluster: MakeCluster) -> Callable[[int, int], Awaitable[Cluster]]:
    """A fleet with rows in its table, whose members can be spoiled."""

    async def make(coordinators: int, nodes: int) -> Cluster:
        cluster = await make_cluster([SPEC], coordinators=coordinators, nodes=nodes, program="tests.corruptible")
        rows = [{"id": key, "x": x} for key, x in TRUTH]
        await cluster.publish(SPEC.name, data=json.dumps(rows))
        await cluster.at_rest()
        assert await verify(cluster) == (0, dict.fromkeys(cluster.running, "equal"))
        return cluster

    return make


async def verify(cluster: Cluster) -> tuple[int, dict[str, str]]:
    """Run `parallax verify`; return its exit code, and what it says of each member."""
    code, out, _ = await command(cluster, SPEC.name, "--json")
    return code, {line["member"]: line["result"] for line in json.loads(out)}


async def command(cluster: Cluster, *argv: str) -> tuple[int, str, str]:
    """Run `parallax verify`; return its exit code, and what it prints."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "parallax.cli", "verify", "--redis", cluster.server.url, *argv),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def spoil(cluster: Cluster, *names: str, how: int = signal.SIGUSR1) -> None:
    for name in names:
        os.kill(cluster[name].pid, how)

    async def are_spoiled() -> bool:
        return all("\nspoiled\n" in cluster[name].log.read_text() for name in names)

    await until(are_spoiled, 10, f"{names} are spoiled")


async def replica(cluster: Cluster, name: str) -> dict[str, Any]:
    found: dict[str, Any] = (await cluster.status(name))["tables"][SPEC.name]
    return found


async def healed(cluster: Cluster, *names: str, seconds: float = 30) -> None:
    """Wait until exactly these began to heal, once each, and are LIVE again; then all are equal, and right."""

    async def are_healed() -> bool:
        found = {name: await replica(cluster, name) for name in cluster.running}
        assert all(found[name]["heals"] and found[name]["state"] == "live" for name in names), f"{found}"
        return True

    await until(are_healed, seconds, f"{names} are healed")
    await cluster.at_rest()
    assert {name: (await replica(cluster, name))["heals"] for name in cluster.running} == {
        name: int(name in names) for name in cluster.running
    }
    assert await verify(cluster) == (0, dict.fromkeys(cluster.running, "equal"))
    for name in cluster.running:
        if name.startswith("node"):
            assert await cluster.read(name, SPEC) == TRUTH


async def test_a_spoiled_node_is_healed(make: Callable[[int, int], Awaitable[Cluster]]) -> None:
    cluster = await make(1, 3)
    await spoil(cluster, "node-2")
    assert await cluster.read("node-2", SPEC) != TRUTH
    right = dict.fromkeys(cluster.running, "with the majority")
    assert await verify(cluster) == (1, right | {"node-2": "DIFFERS from the majority"})
    await healed(cluster, "node-2")
    for name, kind in (("node-2", "minority"), ("node-1", "elsewhere")):
        assert f'parallax_node_verdicts_total{{table="rows",verdict="{kind}"}} 1.0' in await metrics(cluster, name)


async def test_a_spoiled_standby_is_healed(make: Callable[[int, int], Awaitable[Cluster]]) -> None:
    cluster = await make(2, 1)
    leader = await cluster.leader()
    standby = ({"coordinator-1", "coordinator-2"} - {leader}).pop()
    await spoil(cluster, standby)
    assert (await verify(cluster))[1][standby] == "DIFFERS from the majority"
    await healed(cluster, standby)
    assert await cluster.leader() == leader, "he is right"


async def test_a_spoiled_leader_yields_and_is_healed_by_his_successor(
    make: Callable[[int, int], Awaitable[Cluster]],
) -> None:
    """Though he had spread his state already, as the snapshot that stands."""
    cluster = await make(2, 2)
    leader = await cluster.leader()
    await spoil(cluster, leader)
    keys = TableKeys(PREFIX, SPEC.name)
    before = await cluster.redis.hget(keys.manifest, "body")
    await cluster.publish(SPEC.name, data='[{"id": "k0001", "x": 1}]')
    await cluster.redis.set(keys.want, "1")

    async def spread() -> bool:
        return bool(await cluster.redis.hget(keys.manifest, "body") != before)

    await until(spread, 15, "the spoiled leader wrote a snapshot")
    code, said = await verify(cluster)
    assert (code, said[leader]) == (1, "DIFFERS from the majority")
    await healed(cluster, leader)
    assert await cluster.leader() != leader
    late = await cluster.add_node()  # it loads the snapshot that stands now
    await cluster.at_rest()
    assert await cluster.read(late, SPEC) == TRUTH


async def test_two_that_differ_both_start_again_from_the_log(make: Callable[[int, int], Awaitable[Cluster]]) -> None:
    cluster = await make(1, 1)
    await spoil(cluster, "node-1")
    assert await verify(cluster) == (1, dict.fromkeys(cluster.running, "DIFFERS, and none has a majority"))
    await healed(cluster, "node-1", "coordinator-1")


async def test_a_spoiled_leader_without_standby_is_healed_by_the_snapshot_that_stands(
    make: Callable[[int, int], Awaitable[Cluster]],
) -> None:
    cluster = await make(1, 2)
    await spoil(cluster, "coordinator-1")
    assert (await verify(cluster))[1]["coordinator-1"] == "DIFFERS from the majority"
    await healed(cluster, "coordinator-1")


async def metrics(cluster: Cluster, name: str) -> str:
    _, body = await cluster.fetch(cluster.url(name, "/metrics", internal=True))
    return body.decode()


async def test_nobody_needs_to_ask(make_cluster: MakeCluster) -> None:
    """While rows stream in, too."""
    settings = {"VERIFY_SECONDS": "1.5"}
    cluster = await make_cluster([SPEC], coordinators=2, nodes=2, program="tests.corruptible", settings=settings)
    await cluster.publish(SPEC.name, data=json.dumps([{"id": key, "x": x} for key, x in TRUTH]))
    await cluster.at_rest()
    await spoil(cluster, "node-1")

    async def is_healed() -> bool:
        await cluster.publish(SPEC.name, data=json.dumps([{"id": TRUTH[-1][0], "x": TRUTH[-1][1]}]))
        found = await replica(cluster, "node-1")
        assert (found["heals"], found["state"], found["verdict"]) == (1, "live", "equal"), f"{found}"
        return True

    await until(is_healed, 30, "node-1 is healed, and was found equal")
    assert await cluster.read("node-1", SPEC) == TRUTH


async def test_what_the_command_says_when_it_cannot_ask(make_cluster: MakeCluster) -> None:
    cluster = await make_cluster([SPEC], coordinators=1, nodes=1)
    assert (await command(cluster, "nothing"))[0] == 2
    assert (await command(cluster, "--prefix", "other"))[0] == 2
    await cluster["coordinator-1"].kill()
    code, out, err = await command(cluster, "--seconds", "1")
    assert (code, "rows  node-1  no answer" in out, "is there a leader?" in err) == (2, True, True)
    await cluster.server.kill()
    code, _, err = await command(cluster, "--seconds", "1")
    assert (code, "Traceback" in err) == (2, False)

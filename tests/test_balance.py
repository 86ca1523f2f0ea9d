"""Viewers move to nodes that have few, and from nodes whose memory runs out; those without a link are left alone."""

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress

from hypothesis import given
from hypothesis import strategies as st

from node.balance import LEAST_EXCESS, excess
from parallax.replication.spec import TableSpec
from tests.cluster import Cluster
from tests.processes import PATIENCE, until
from tests.sockets import SocketViewer, measured, resident_bytes, socket_viewer

SPEC = TableSpec.declare("t", {"schema": {"n": "integer"}, "limit": 9})
MakeCluster = Callable[..., Awaitable[Cluster]]


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=8), st.sampled_from([0.0, 1.0, 1.5, 3.0]))
def test_nobody_falls_below_the_mean_and_all_come_to_rest(sessions: list[int], ratio: float) -> None:
    """Those who are let go come back anywhere: here to the emptiest node."""
    total = sum(sessions)
    for _ in range(10_000):
        going = [excess(own, sessions, ratio) for own in sessions]
        mean = total / len(sessions)
        assert all(0 <= count <= max(0, own - mean) for own, count in zip(sessions, going, strict=True))
        if not any(going):
            break
        sessions = [own - count for own, count in zip(sessions, going, strict=True)]
        sessions[sessions.index(min(sessions))] += sum(going)
    else:
        raise AssertionError("they move for ever")
    if ratio and len(sessions) > 1:
        assert max(sessions) <= max(mean * ratio, mean + LEAST_EXCESS)


async def test_a_node_that_has_most_viewers_lets_some_go(make_cluster: MakeCluster) -> None:
    cluster = await make_cluster([SPEC], coordinators=1, nodes=2, settings={"SHED_RATIO": "1.2"})
    async with AsyncExitStack() as stack:

        async def connect(node: str) -> SocketViewer:
            return await stack.enter_async_context(socket_viewer(cluster.ports[node]))

        stock = [await connect("node-1") for _ in range(5)]
        links = [await connect("node-1") for _ in range(45)]
        for viewer in links:
            await viewer.hello()

        async def is_balanced() -> bool:
            gone = [viewer for viewer in links if viewer.has_ended]
            for viewer in gone:
                assert viewer.close_code == 1012
                links.remove(viewer)
                await (await connect("node-2")).hello()
            return (await measured(cluster, "node-1"))("sessions") <= 35

        await until(is_balanced, 60, "node-1 has few enough")
        assert not any(viewer.has_ended for viewer in stock), "who has no link would not come back by himself"
        assert (await measured(cluster, "node-1"))("shed_closes_total") >= 15


async def test_nodes_whose_memory_runs_out_start_afresh_one_after_the_other(make_cluster: MakeCluster) -> None:
    spec = TableSpec.declare("t", {"schema": {"word": "string"}, "limit": 9})
    cluster = await make_cluster([spec], coordinators=1, nodes=1, settings={"DRAIN_SECONDS": "0.2"})
    await cluster.publish("t", op="update", format="json", data=json.dumps([{"word": "first"}]))
    await cluster.at_rest()
    limit = resident_bytes(cluster, "node-1") + (40 << 20)
    cluster.settings = {"REBUILD_BYTES": str(limit), "GUARD": "true", "DRAIN_SECONDS": "0.2"}
    boots: dict[str, set[str]] = {await cluster.add_node(): set(), await cluster.add_node(): set()}
    async with socket_viewer(cluster.ports["node-2"]) as viewer:

        async def both_did() -> bool:
            # Words are kept for ever, whatever becomes of their rows.
            words = [{"word": secrets.token_hex(40)} for _ in range(60_000)]
            await cluster.publish("t", op="update", format="json", data=json.dumps(words))
            ready = 0
            for name in boots:
                with suppress(OSError):
                    status = await cluster.status(name)
                    boots[name].add(status["boot"])
                    ready += status["ready"]
            assert ready > 0, "one of them always serves"
            return all(len(known) > 1 for known in boots.values())

        async with asyncio.timeout(90 * PATIENCE):
            while not await both_did():  # noqa: ASYNC110 - it publishes, too
                await asyncio.sleep(0.05)
        await viewer.ended()
        assert viewer.close_code == 1012
    for name in boots:
        assert cluster[name].is_running, "its guard goes on"
        await cluster.ready(name)


async def test_a_limit_that_is_too_low_is_said_to_be(make_cluster: MakeCluster) -> None:
    cluster = await make_cluster([SPEC], coordinators=1, nodes=2, settings={"REBUILD_BYTES": "1"})

    async def have_complained() -> bool:
        return all("from the start: raise it" in cluster[name].log.read_text() for name in ("node-1", "node-2"))

    await until(have_complained, 20, "they say what is wrong")
    await asyncio.sleep(3)  # longer than it takes to look again
    assert cluster["node-1"].log.read_text().count("raise it") == 1, "it says so once"
    assert cluster["node-1"].is_running

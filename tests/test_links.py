"""Viewers whose link said hello see no table go back in time, whichever node they are on."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from node.gateway import messages
from parallax.replication.position import Position
from parallax.replication.spec import TableSpec
from parallax.tasks import Tasks
from parallax.version import VERSION
from tests.cluster import Cluster
from tests.processes import until
from tests.sockets import COLUMNS, MAKE, ON_UPDATE, SocketViewer, measured, said_by, socket_viewer
from tests.test_gateway import make

SIZE, UPDATE = 8, 33
SPEC = TableSpec.declare("t", {"schema": {"k": "integer", "n": "integer"}, "index": "k", "writes": "forward"})
OTHER = TableSpec.declare("other", {"schema": {"n": "integer"}, "limit": 5})
ALL_ROWS = messages.encode(messages.new("ToText"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    settings = {"CATCHUP_MS": "1500"}
    cluster = Cluster(tmp_path_factory.mktemp("links"), [SPEC, OTHER], coordinators=1, nodes=2, settings=settings)
    try:
        await cluster.start()
        await cluster.publish("t", op="update", format="json", data=json.dumps([{"k": 1, "n": 1}]))
        await cluster.at_rest()
        yield cluster
    finally:
        await cluster.close()
        print(cluster.logs())


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def position(fleet: Cluster, node: str) -> Position:
    return Position.parse((await fleet.status(node))["tables"]["t"]["position"])


async def publish(fleet: Cluster, number: int) -> None:
    await fleet.publish("t", op="update", format="json", data=json.dumps([{"k": 1, "n": number}]))


async def number(viewer: SocketViewer) -> int:
    """Read the table's only number."""
    answer = await viewer.ask(COLUMNS, ALL_ROWS, "v")
    found: int = json.loads(said_by(answer.body))["n"][0]
    return found


async def test_a_link_is_greeted_and_its_pings_are_answered(fleet: Cluster) -> None:
    async with socket_viewer(fleet.ports["node-1"]) as viewer:
        assert await viewer.hello() == {"node": "node-1", "version": VERSION, "behind": []}
        await viewer.say('{"ping": 17}')
        assert await viewer.hear("pong") == 17


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "[]",
        "{}",
        '{"ping": 1, "hello": {}}',
        '{"ping": {}}',
        '{"hello": {"positions": {"t": "first"}}}',
        '{"hello": {"positions": []}}',
        '{"hello": {"positions": {}, "more": 1}}',
        json.dumps({"hello": {"positions": {f"t{n}": "1-1" for n in range(1001)}}}),
        "[" * 100_000,
    ],
    ids=lambda text: text[:40] or "empty",
)
async def test_what_no_link_says_ends_the_connection(fleet: Cluster, text: str) -> None:
    async with socket_viewer(fleet.ports["node-1"]) as viewer:
        await viewer.say(text)
        await viewer.ended()
        assert viewer.close_code == 1003


async def test_a_stock_client_is_told_no_positions(fleet: Cluster) -> None:
    async with socket_viewer(fleet.ports["node-1"]) as viewer:
        await viewer.ask(MAKE, make("v"), "t")
        await number(viewer)
        assert viewer.texts == []


async def test_answers_wait_until_the_node_has_come_as_far_as_the_viewer(fleet: Cluster) -> None:
    ahead = (await position(fleet, "node-1")).next()
    async with socket_viewer(fleet.ports["node-1"]) as viewer:
        await viewer.say(json.dumps({"hello": {"positions": {"t": str(ahead)}}}))
        await viewer.send(MAKE, make("v"), "t", msg_id=1)
        await viewer.send(COLUMNS, ALL_ROWS, "v", msg_id=2)
        await asyncio.sleep(0.3)
        assert (viewer.messages, viewer.texts) == ([], []), "nothing is said before"
        await publish(fleet, 1001)
        assert (await viewer.hear("hello"))["behind"] == []
        answer = await viewer.take(2)
        assert json.loads(said_by(answer.body))["n"] == [1001]


async def test_who_comes_from_a_history_that_is_not_here_is_served_and_told(fleet: Cluster) -> None:
    term = (await position(fleet, "node-1")).term + (1 << 40)
    async with socket_viewer(fleet.ports["node-1"]) as viewer:
        hello = await viewer.hello(t=f"{term}-7", other=f"{term}-1", nothing="1-1")
        assert hello["behind"] == ["other", "t"]
        assert (await viewer.ask(SIZE, b"", "t")).number == SIZE


async def test_positions_come_before_what_they_stand_for(fleet: Cluster) -> None:
    """Deltas, answers and edits, each of which shows something new."""
    async with socket_viewer(fleet.ports["node-1"]) as viewer:
        await viewer.hello()
        await viewer.ask(MAKE, make("v"), "t")
        await viewer.send(ON_UPDATE, messages.encode(messages.new("OnUpdate", mode=0)), "v", msg_id=9)
        await number(viewer)
        first = (await viewer.hear("position"))["t"]
        await publish(fleet, 2001)
        await viewer.take(9)
        second = (await viewer.hear("position"))["t"]
        assert Position.parse(second) > Position.parse(first)
        assert Position.parse(second) == await position(fleet, "node-1")

        edit = messages.new("Edit")
        edit.data.rows = json.dumps([{"__INDEX__": 1, "n": 2002}])
        assert (await viewer.ask(UPDATE, messages.encode(edit), "t")).number == UPDATE
        third = (await viewer.hear("position"))["t"]
        assert Position.parse(third) > Position.parse(second)
        await number(viewer)
        assert viewer.texts == [], "nothing new, nothing told"


async def test_who_stands_where_no_rows_changed_is_told_nothing_older(fleet: Cluster) -> None:
    """At a record such as `verify`, or a new leader's `begin`."""
    await publish(fleet, 2500)
    await fleet.converged()
    top = await fleet.top("t")
    async with socket_viewer(fleet.ports["node-1"]) as viewer:
        assert (await viewer.hello(t=top))["behind"] == []
        await viewer.ask(MAKE, make("v"), "t")
        assert await number(viewer) == 2500
        assert (await viewer.hear("position"))["t"] == top


async def test_no_viewer_goes_back_in_time_from_node_to_node(fleet: Cluster) -> None:
    async def keep_publishing() -> None:
        for value in range(3000, 100_000):
            await publish(fleet, value)
            await asyncio.sleep(0.005)

    async with Tasks() as tasks:
        tasks.start(keep_publishing(), name="publisher")
        seen, highest = 0, {}
        for turn in range(60):
            async with socket_viewer(fleet.ports[f"node-{1 + turn % 2}"]) as viewer:
                hello = await viewer.hello(**highest)
                assert hello["behind"] == []
                await viewer.ask(MAKE, make("v"), "t")
                for _ in range(3):
                    found = await number(viewer)
                    assert found >= seen, f"turn {turn}"
                    seen = found
                while any("position" in text for text in viewer.texts):
                    highest = await viewer.hear("position")
        assert seen > 3000


async def test_a_link_is_told_when_a_table_is_stale(fleet: Cluster) -> None:
    async with socket_viewer(fleet.ports["node-1"]) as viewer:
        await viewer.hello()
        fleet.server.pause()
        try:
            while await viewer.hear("stale") != ["other", "t"]:
                pass
        finally:
            fleet.server.resume()
        while await viewer.hear("stale"):
            pass
    await until(lambda: _is_live(fleet), 10, "all is as before")


async def _is_live(fleet: Cluster) -> Any:
    await fleet.at_rest()
    return (await measured(fleet))("sessions") == 0

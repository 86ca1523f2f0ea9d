"""`parallax.connect` over lines that are slow or go silent."""

import asyncio
from collections.abc import AsyncIterator

import pytest

import parallax
from parallax.link import Link
from parallax.link_state import LinkState, View
from parallax.replication.spec import TableSpec
from tests.page_node import Node
from tests.processes import PATIENCE
from tests.relay import GREETING, Relay

FIGURES = TableSpec("figures", (("n", "integer"),), index="n")
NOTES = TableSpec("notes", (("n", "integer"), ("text", "string")), index="n")


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    node = Node()
    await node.host(NOTES, [{"n": number, "text": f"{number:04}" * 500} for number in range(1000)])
    yield node
    await node.close()


async def test_an_answer_that_takes_long_on_its_way_is_waited_for(relay: Relay) -> None:
    async with asyncio.timeout(60 * PATIENCE), parallax.connect(relay.url, timeout=60) as client:
        view = await (await client.open_table("notes")).view()
        relay.rate = 500_000  # it takes 4 s
        assert len(await view.to_arrow()) > 2_000_000
        relay.rate = 0


async def test_a_node_that_goes_silent_while_views_are_made_is_left(relay: Relay) -> None:
    states: list[LinkState] = []
    async with asyncio.timeout(30 * PATIENCE), parallax.connect(relay.url, on_state=states.append) as client:
        view = await (await client.open_table("notes")).view()
        before = relay.connections
        relay.silent_after = GREETING
        relay.cut()
        assert await view.num_rows() == 1000
        assert relay.connections >= before + 2, "the first one fell silent"
    assert [state.name for state in states].count("closed") == 1


async def test_a_node_that_never_greets_is_left(relay: Relay) -> None:
    async with asyncio.timeout(30 * PATIENCE), parallax.connect(relay.url) as client:
        table = await client.open_table("notes")
        before = relay.connections
        relay.silent_after = b"HTTP/1.1 101"
        relay.cut()
        assert await table.size() == 1000
        assert relay.connections >= before + 2


async def test_who_subscribes_while_views_are_made_again_is_told(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other view is not made yet when he subscribes to his, which is."""
    await node.host(FIGURES, [{"n": 1}])
    is_held, may_go_on = asyncio.Event(), asyncio.Event()
    remake = Link._remake

    async def slowly(link: Link, view_id: str, view: View) -> None:
        await remake(link, view_id, view)
        if view.table == "notes":
            is_held.set()
            await may_go_on.wait()

    monkeypatch.setattr(Link, "_remake", slowly)
    async with asyncio.timeout(30 * PATIENCE), parallax.connect(node.url) as client:
        view = await (await client.open_table("figures")).view()
        await (await client.open_table("notes")).view()
        await node.hand_over()
        await is_held.wait()
        told = asyncio.Event()
        await view.on_update(lambda *_: told.set())
        may_go_on.set()
        assert await view.to_columns() == {"n": [1]}
        told.clear()
        await node.update(FIGURES, [{"n": 2}])
        await told.wait()

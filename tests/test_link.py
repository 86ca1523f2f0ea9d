"""link.js over lines that are slow or go silent, in a real browser."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import expect

from parallax.replication.spec import TableSpec
from tests.browser import Browser
from tests.page_node import TRADED, TRADES, Node
from tests.processes import PATIENCE, until
from tests.relay import GREETING, Relay

pytestmark = pytest.mark.browser
LEAVING = 1012
NOTES = TableSpec("notes", (("n", "integer"), ("text", "string")), index="n")
CONNECTS = """
    const bundle = await import(document.getElementById("bundle").href);
    await bundle.ready;
    const { connect } = await import(document.getElementById("link").href);
    const Client = customElements.get("perspective-viewer").__wasm_module__.Client;
    const url = location.origin.replace("http", "ws") + "/websocket";
    const link = connect(Client, { url });
"""
ASKS = f"""async () => {{
    {CONNECTS}
    const table = await link.client.open_table("notes");
    const view = await table.view();
    const size = (await view.to_arrow()).byteLength;
    link.close();
    return size;
}}"""
ASKS_TOO_LATE = f"""async () => {{
    {CONNECTS}
    const table = await link.client.open_table("trades");
    const view = await table.view();
    const outcome = (asked) => asked.then(() => "answered", (error) => error.message ?? String(error));
    const pending = outcome(view.to_columns());
    link.close();
    return await Promise.all([pending, outcome(view.to_columns()), outcome(link.client.open_table("trades"))]);
}}"""


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    node = Node()
    yield node
    await node.close()


async def test_an_answer_that_takes_long_on_its_way_is_waited_for(node: Node, relay: Relay, browser: Browser) -> None:
    await node.host(NOTES, [{"n": number, "text": f"{number:04}" * 500} for number in range(1000)])
    tab = await browser.open(relay.url + "?table=none")
    await expect(tab.page.locator("#empty")).to_be_visible()
    relay.rate = 500_000  # it takes 4 s
    async with asyncio.timeout(60 * PATIENCE):
        assert await tab.page.evaluate(ASKS) > 2_000_000
    relay.rate = 0


async def test_a_node_that_goes_silent_while_views_are_made_is_left(node: Node, relay: Relay, browser: Browser) -> None:
    await node.host(TRADES, TRADED)
    tab = await browser.open(relay.url)
    await expect(tab.cell("a")).to_be_visible()
    before = len(tab.sockets)
    relay.silent_after = GREETING
    relay.cut()

    async def has_tried_twice() -> bool:
        return len(tab.sockets) >= before + 2

    await until(has_tried_twice, 15, "it has gone on to the next")
    await node.update(TRADES, [{"id": "a", "price": 8.75}])
    await expect(tab.row("a")).to_contain_text("8.75")
    await expect(tab.page.locator("#connection")).to_have_text("live")


async def test_nothing_is_said_to_a_socket_that_is_closing(node: Node, relay: Relay, browser: Browser) -> None:
    await node.host(TRADES, TRADED)
    tab = await browser.open(relay.url)
    await expect(tab.cell("a")).to_be_visible()
    relay.silent_after = LEAVING.to_bytes(2, "big")  # the node's last word: that the connection ends comes much later
    await node.hand_over()

    async def is_last_word() -> bool:
        return not relay.silent_after

    await until(is_last_word, 10, "the node has said that it leaves")
    await tab.restore(sort=[["id", "desc"]])
    await expect(tab.page.locator("#connection")).to_have_text("live")
    assert [row[0] for row in await tab.rows()] == ["c", "b", "a"]
    assert tab.complaints == []


async def test_what_is_asked_of_a_closed_link_fails(node: Node, browser: Browser) -> None:
    await node.host(TRADES, TRADED)
    tab = await browser.open(node.url + "?table=none")
    await expect(tab.page.locator("#empty")).to_be_visible()
    async with asyncio.timeout(20 * PATIENCE):
        outcomes = await tab.page.evaluate(ASKS_TOO_LATE)
    assert ["the connection was closed" in outcome for outcome in outcomes] == [True] * 3, outcomes

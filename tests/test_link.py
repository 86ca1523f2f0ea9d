"""link.js over lines that are slow or go silent, in a real browser."""

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest
from playwright.async_api import expect

from parallax.replication.spec import TableSpec
from tests.browser import Browser
from tests.page_node import TRADED, TRADES, Node
from tests.processes import PATIENCE, until
from tests.relay import Relay, relay_to

pytestmark = pytest.mark.browser
NOTES = TableSpec("notes", (("n", "integer"), ("text", "string")), index="n")
ASKS = """async () => {
    const bundle = await import(document.getElementById("bundle").href);
    await bundle.ready;
    const { connect } = await import(document.getElementById("link").href);
    const Client = customElements.get("perspective-viewer").__wasm_module__.Client;
    window.states = [];
    const url = location.origin.replace("http", "ws") + "/websocket";
    const link = connect(Client, { url, onstate: ({ name }) => { if (name !== states.at(-1)) states.push(name); } });
    const table = await link.client.open_table("notes");
    const view = await table.view();
    const size = (await view.to_arrow()).byteLength;
    link.close();
    return size;
}"""


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    node = Node()
    yield node
    await node.close()


@pytest.fixture
async def relay(node: Node) -> AsyncIterator[Relay]:
    port = urlsplit(node.url).port
    assert port is not None
    async with relay_to(port) as relay:
        yield relay


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
    relay.silent_after = b'{"hello"'
    relay.cut()

    async def has_tried_twice() -> bool:
        return len(tab.sockets) >= before + 2

    await until(has_tried_twice, 15, "it has gone on to the next")
    await node.update(TRADES, [{"id": "a", "price": 8.75}])
    await expect(tab.row("a")).to_contain_text("8.75")
    await expect(tab.page.locator("#connection")).to_have_text("live")

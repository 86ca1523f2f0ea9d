"""The example pages, on a server of their own: the viewer and its link come from a node, and survive it."""

from collections.abc import AsyncIterator

import pytest
from playwright.async_api import expect
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

from parallax.replication.spec import TableSpec
from tests.browser import Browser
from tests.npm import installed, npm
from tests.page_node import Node
from tests.processes import HOST, ROOT, until
from tests.test_page import get

EXAMPLES = ROOT / "docs" / "examples"
PRICES = TableSpec("prices", (("symbol", "string"), ("price", "float")), index="symbol")


async def test_what_pages_elsewhere_load_has_addresses_that_stay() -> None:
    node = Node()
    try:
        for name in ("link.js", "perspective.js", "perspective.css"):
            answer = await get(node.url + name, Accept_Encoding="gzip")
            assert (answer.code, answer.headers["Access-Control-Allow-Origin"]) == (200, "*")
            assert answer.headers["Content-Encoding"] == "gzip"
            again = await get(node.url + name, Accept_Encoding="gzip", If_None_Match=answer.headers["Etag"])
            assert (again.code, again.headers["Cache-Control"]) == (304, "no-cache")
    finally:
        await node.close()


class Elsewhere:
    """A server of another origin than the node, with files of its own that name the node's usual address."""

    def __init__(self) -> None:
        self.files: dict[str, str] = {}
        elsewhere = self

        class File(RequestHandler):
            def get(self, name: str) -> None:
                self.set_header("Content-Type", "text/javascript" if name.endswith(".js") else "text/html")
                self.finish(elsewhere.files[name])

        sockets = bind_sockets(0, HOST)
        self.origin = f"http://{HOST}:{sockets[0].getsockname()[1]}"
        self.node = Node(allowed_origins=self.origin)
        self._server = HTTPServer(Application([(r"/(.*)", File)]))
        self._server.add_sockets(sockets)

    def serve(self, name: str, source: str) -> None:
        self.files[name] = source.replace("127.0.0.1:8080", self.node.url.split("/")[2])

    async def close(self) -> None:
        self._server.stop()
        await self._server.close_all_connections()
        await self.node.close()


@pytest.fixture
async def elsewhere() -> AsyncIterator[Elsewhere]:
    elsewhere = Elsewhere()
    yield elsewhere
    await elsewhere.close()


@pytest.mark.browser
async def test_the_example_runs_on_another_server(elsewhere: Elsewhere, browser: Browser) -> None:
    node = elsewhere.node
    source = (EXAMPLES / "page.html").read_text()
    assert source.count("127.0.0.1:8080") == 4
    elsewhere.serve("", source)
    await node.host(PRICES, [{"symbol": "B", "price": 2.5}, {"symbol": "A", "price": 1.5}])
    tab = await browser.open(elsewhere.origin)
    await expect(tab.row("A")).to_contain_text("1.50")
    assert [row[0] for row in await tab.rows()] == ["A", "B"]
    await node.hand_over()
    await node.update(PRICES, [{"symbol": "A", "price": 7.5}])
    await expect(tab.row("A")).to_contain_text("7.50")
    await expect(tab.page.locator("#state")).to_have_text("live")
    assert tab.complaints == []


@pytest.mark.browser
@pytest.mark.timeout(600)
async def test_the_react_example_runs_and_lets_go_of_its_views(elsewhere: Elsewhere, browser: Browser) -> None:
    node = elsewhere.node
    installed(EXAMPLES / "react")
    npm(EXAMPLES / "react", "run", "build")
    elsewhere.serve("", (EXAMPLES / "react" / "index.html").read_text())
    elsewhere.serve("main.js", (EXAMPLES / "react" / "main.js").read_text())
    await node.host(PRICES, [{"symbol": "B", "price": 2.5}, {"symbol": "A", "price": 1.5}])
    tab = await browser.open(elsewhere.origin)
    shown = tab.cell("A")
    await expect(shown).to_have_count(2)
    assert [row[0] for row in await tab.rows()] == ["A", "B", "B", "A"]
    await node.hand_over()
    await node.update(PRICES, [{"symbol": "A", "price": 7.5}])
    await expect(tab.cell("7.50")).to_have_count(2)
    await tab.page.get_by_text("turn round").click()

    async def is_turned() -> bool:
        return [row[0] for row in await tab.rows()] == ["B", "A", "A", "B"]

    await until(is_turned, 10, "both are sorted the other way")
    await expect(tab.page.get_by_role("status")).to_have_text("live")
    await tab.page.get_by_text("close the second").click()
    await expect(shown).to_have_count(1)

    async def is_one() -> bool:
        return node.views == 1

    await until(is_one, 10, "the second's view is gone")
    assert tab.complaints == []

"""docs/examples/page.html, on a server of its own: the viewer and its link come from a node, and survive it."""

import pytest
from playwright.async_api import expect
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

from parallax.replication.spec import TableSpec
from tests.browser import Browser
from tests.page_node import Node
from tests.processes import HOST, ROOT
from tests.test_page import get

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


@pytest.mark.browser
async def test_the_example_runs_on_another_server(browser: Browser) -> None:
    sockets = bind_sockets(0, HOST)
    origin = f"http://{HOST}:{sockets[0].getsockname()[1]}"
    node = Node(allowed_origins=origin)
    source = (ROOT / "docs" / "examples" / "page.html").read_text()
    assert source.count("127.0.0.1:8080") == 4

    class Index(RequestHandler):
        def get(self) -> None:
            self.finish(source.replace("127.0.0.1:8080", node.url.split("/")[2]))

    server = HTTPServer(Application([(r"/", Index)]))
    server.add_sockets(sockets)
    try:
        await node.host(PRICES, [{"symbol": "B", "price": 2.5}, {"symbol": "A", "price": 1.5}])
        tab = await browser.open(origin)
        await expect(tab.row("A")).to_contain_text("1.50")
        assert [row[0] for row in await tab.rows()] == ["A", "B"]
        await node.hand_over()
        await node.update(PRICES, [{"symbol": "A", "price": 7.5}])
        await expect(tab.row("A")).to_contain_text("7.50")
        await expect(tab.page.locator("#state")).to_have_text("live")
        assert tab.complaints == []
    finally:
        server.stop()
        await server.close_all_connections()
        await node.close()

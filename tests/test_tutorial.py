"""Perspective's own Tornado tutorial, with the client of the npm registry, against a fleet behind its load balancer."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from playwright.async_api import expect
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler, StaticFileHandler

from parallax.replication.spec import TableSpec
from tests.browser import Browser
from tests.cluster import Cluster
from tests.npm import installed
from tests.processes import HOST

TUTORIAL = Path(__file__).parent / "tutorial"
ITS_SERVER = "ws://localhost:8080/websocket"
SPEC = TableSpec("data_source_one", (("name", "string"), ("client", "string"), ("price", "float")), index="name")
ROWS = [
    {"name": "AAPL.N", "client": "Homer", "price": 12.25},
    {"name": "AMZN.N", "client": "Marge", "price": 8.5},
    {"name": "QQQ.N", "client": "Homer", "price": 3.75},
]

pytestmark = [pytest.mark.browser, pytest.mark.cluster, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def packages() -> Path:
    """The npm packages of the lock file, installed once for each lock file."""
    return installed(TUTORIAL)


class Page:
    """Serves the tutorial's page, from an origin of its own."""

    def __init__(self, packages: Path) -> None:
        self.websocket = ITS_SERVER
        page = self

        class Index(RequestHandler):
            def get(self) -> None:
                source = (TUTORIAL / "index.html").read_text()
                assert source.count(ITS_SERVER) == 1
                self.finish(source.replace(ITS_SERVER, page.websocket))

        sockets = bind_sockets(0, HOST)
        self.origin = f"http://{HOST}:{sockets[0].getsockname()[1]}"
        self.server = HTTPServer(
            Application([(r"/", Index), (r"/node_modules/(.*)", StaticFileHandler, {"path": str(packages)})])
        )
        self.server.add_sockets(sockets)


@pytest.fixture
async def page(packages: Path) -> AsyncIterator[Page]:
    page = Page(packages)
    yield page
    page.server.stop()
    await page.server.close_all_connections()


def test_the_lock_file_names_no_registry_and_the_version_that_is_promised() -> None:
    lock = json.loads((TUTORIAL / "package-lock.json").read_text())["packages"]
    assert [name for name, package in lock.items() if name and not package.get("integrity")] == []
    assert [name for name, package in lock.items() if "resolved" in package] == []
    ours = {name: package["version"] for name, package in lock.items() if "@perspective-dev/" in name}
    assert len(ours) >= 3
    assert set(ours.values()) == {"5.5.1"}


async def test_the_tutorial_runs(make_cluster: Callable[..., Awaitable[Cluster]], page: Page, browser: Browser) -> None:
    cluster = await make_cluster([SPEC], front=True, settings={"ALLOWED_ORIGINS": page.origin})
    page.websocket = cluster.url("front", "/websocket").replace("http://", "ws://")
    await cluster.publish("data_source_one", op="update", format="json", data=json.dumps(ROWS))

    tab = await browser.open(page.origin)
    await expect(tab.row("QQQ.N")).to_be_visible()
    assert await tab.rows() == [["AAPL.N", "Homer", "12.25"], ["AMZN.N", "Marge", "8.50"], ["QQQ.N", "Homer", "3.75"]]

    changed = json.dumps([{"name": "AMZN.N", "price": 99.5}, {"name": "SPY.N", "client": "Lisa", "price": 1.0}])
    await cluster.publish("data_source_one", op="update", format="json", data=changed)
    await expect(tab.row("AMZN.N")).to_contain_text("99.50")
    await expect(tab.row("SPY.N")).to_contain_text("Lisa")

    # What its viewer offers works too: this asks about expressions in the way that changed after 5.5.
    await tab.page.evaluate(
        """document.querySelector("perspective-viewer").restore(
            {group_by: ["client"], columns: ["price", "twice"], expressions: {twice: '"price" * 2'}})"""
    )
    await expect(tab.row("Homer")).to_contain_text("32.00")
    await expect(tab.row("Marge")).to_contain_text("199.00")
    await cluster.publish("data_source_one", op="update", format="json", data='[{"name": "QQQ.N", "price": 10}]')
    await expect(tab.row("Homer")).to_contain_text("44.50")
    assert [line for line in tab.complaints if "`load(table)` is deprecated" not in line] == []

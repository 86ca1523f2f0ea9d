"""Three panels through the load balancer while everything that can be taken away is taken away: nobody notices."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from playwright.async_api import Locator, expect

from tests.browser import Browser, Tab
from tests.cluster import Cluster
from tests.processes import until
from tests.relay import Relay, relay_to
from tests.sockets import measured, resident_bytes
from tests.test_failover import OBSERVE, SPEC, goes_on, moved_from, node_of, ticking
from tests.test_real_clients import BARS

pytestmark = [pytest.mark.browser, pytest.mark.cluster, pytest.mark.timeout(400)]
MakeCluster = Callable[..., Awaitable[Cluster]]
NODES = ("node-1", "node-2", "node-3")
KEYS, GROUPS = 200, 4
PANELS: dict[str, dict[str, Any]] = {
    "grouped": {
        "group_by": ["group", "k"],
        "columns": ["n"],
        "filter": [["k", "<", 10]],
        "aggregates": {"n": "max"},
        "plugin": "Datagrid",
    },
    "chart": {"group_by": ["group"], "columns": ["n"], "filter": [["k", ">=", 196]], "plugin": "Y Bar"},
    "editable": {"sort": [["k", "asc"]], "plugin": "Datagrid", "plugin_config": {"edit_mode": "EDIT"}},
}
LAYOUT = {
    "layout": {
        "type": "split-layout",
        "orientation": "horizontal",
        "sizes": [0.25, 0.25, 0.5],
        "children": [{"type": "tab-layout", "tabs": [name], "selected": 0} for name in PANELS],
    },
    "panels": {name: {"table": "t", "title": name} | panel for name, panel in PANELS.items()},
}
LABELS = ["TOTAL", "g0", "0", "4", "8", "g1", "g2", "2", "6", "g3", "3", "7"]  # g1 is collapsed
CHARTED = (196, 197, 198, 199)
SCROLLED = 1000  # pixels
UNANSWERED = re.compile(r"/websocket' failed: |status of 50[23] .*/websocket\)$|/websocket: net::ERR_ABORTED")
VIEWER = "document.querySelector('perspective-viewer')"


@dataclass(slots=True)
class Scene:
    """The page with its three panels."""

    cluster: Cluster
    relay: Relay
    tab: Tab
    heights: tuple[int, ...] = (100, 75, 50, 25)
    needed: list[float] = field(default_factory=list)

    @property
    def editable(self) -> Locator:
        return self.tab.page.locator("[slot=editable] regular-table")

    async def labels(self) -> list[str]:
        found: list[str] = await self.tab.page.locator("[slot=grouped] regular-table tbody tr").evaluate_all(
            "rows => rows.map(row => [...row.querySelectorAll('th')].map(cell => cell.textContent.trim()).filter(Boolean).pop())"
        )
        return found

    async def config(self) -> dict[str, Any]:
        found: dict[str, Any] = await self.tab.page.evaluate(f"{VIEWER}.saveWorkspace()")
        return found

    async def is_whole(self, what: str) -> None:
        """Check that updates go on, in the grid and in the chart's own view, and that all is as it was arranged."""
        await goes_on(self.tab)

        async def is_live() -> bool:
            return await self.tab.page.locator("#connection").get_attribute("data-state") == "live"

        await until(is_live, 20, f"{what}: the pill says so")
        assert await self.labels() == LABELS, what
        await self.chart_follows()
        assert await self.editable.evaluate("table => table.scrollTop") == SCROLLED, what
        assert int(await self.editable.locator("tbody td").first.inner_text()) > 20, what
        config = await self.config()
        assert [node["tabs"] for node in config["layout"]["children"]] == [[name] for name in PANELS], what
        for name, panel in PANELS.items():
            found = config["panels"][name]
            assert {key: found[key] for key in panel} == panel, what
        assert await self.tab.page.evaluate("seen.back") == [], f"{what}: the counter went back"
        assert self.tab.complaints == [], what

    async def chart_follows(self) -> None:
        """Change what the chart shows, and see it drawn."""
        self.heights = self.heights[1:] + self.heights[:1]
        rows = [{"k": key, "n": height} for key, height in zip(CHARTED, self.heights, strict=True)]
        await self.cluster.publish("t", op="update", format="json", data=json.dumps(rows))

        async def is_drawn() -> bool:
            bars = await self.tab.page.evaluate(BARS)
            assert [100 * bar / max(bars) for bar in bars] == pytest.approx(self.heights, abs=2)
            return True

        await until(is_drawn, 20, "the chart follows")

    async def books(self) -> list[tuple[str, list[float]]]:
        """Return sessions, views and subscriptions of the nodes that have any."""
        found = []
        for name in self.cluster.running:
            if name.startswith("node"):
                figures = await measured(self.cluster, name)
                found.append((name, [figures(what) for what in ("sessions", "views", "subscriptions")]))
        return [(name, figures) for name, figures in found if any(figures)]

    async def is_alone(self) -> None:
        """Check that the nodes keep nothing but what the open page needs, now as at first."""

        async def is_so() -> bool:
            assert await self.books() == [(await node_of(self.tab), self.needed)]
            return True

        await until(is_so, 20, "nothing else is left")

    def forgive(self) -> None:
        """Forget what the browser itself writes, and no page can keep it from, when nobody answers a socket or a request.

        The load balancer answers for the nodes while there are none, with 502 and 503: the browser reports each such answer to
        `link.js`, which tried to connect, or asked why it could not.
        """
        print("forgiven", *self.tab.complaints, sep="\n")
        self.tab.complaints[:] = [line for line in self.tab.complaints if not UNANSWERED.search(line)]

    async def edit(self, key: int, number: int) -> None:
        """Change a number as somebody does at the keyboard, and see it on every node."""
        row = self.editable.locator("tbody tr").filter(has=self.tab.page.get_by_text(str(key), exact=True))
        cell = row.locator("td").nth(2)
        await cell.click()
        await self.tab.page.keyboard.press("ControlOrMeta+a")
        await self.tab.page.keyboard.type(str(number))
        await self.tab.page.keyboard.press("Enter")

        async def is_everywhere() -> bool:
            for name in self.cluster.running:
                if name.startswith("node"):
                    rows = {row[0]: row[2] for row in await self.cluster.read(name, SPEC)}
                    assert rows[key] == number, f"{name}: {rows}"
            return True

        await until(is_everywhere, 20, f"the edit {number} is on every node")


@asynccontextmanager
async def three_panels(cluster: Cluster, browser: Browser) -> AsyncIterator[Scene]:
    rows = [{"k": key, "group": f"g{key % GROUPS}", "n": key} for key in range(KEYS)]
    await cluster.publish("t", op="update", format="json", data=json.dumps(rows))
    await cluster.at_rest()
    async with ticking(cluster), relay_to(cluster.ports["front"]) as relay:
        tab = await browser.open(relay.url)
        await expect(tab.cell("g1").first).to_be_visible()
        await tab.page.evaluate(f"layout => {VIEWER}.restoreWorkspace(layout)", LAYOUT)
        await tab.toggle("g1")
        grid = tab.page.locator("[slot=grouped] regular-table")
        await expect(grid.locator("tbody tr")).to_have_count(len(LABELS))
        await grid.evaluate(OBSERVE)
        scene = Scene(cluster, relay, tab)
        await expect(scene.editable.locator("tbody td").first).to_have_text("0")
        await scene.editable.evaluate(f"table => (table.scrollTop = {SCROLLED})")
        await scene.is_whole("at first")
        [(_, scene.needed)] = await scene.books()
        print("sessions, views, subscriptions:", scene.needed)
        yield scene
        await tab.page.close()

        async def books_are_clean() -> bool:
            assert await scene.books() == []
            return True

        await until(books_are_clean, 60, "nobody's views are left")


async def drops(scene: Scene, count: int) -> None:
    """Cut the line again and again, each time as soon as a node has greeted the page."""
    for _ in range(count):
        before = scene.relay.greetings
        scene.relay.cut()

        async def is_there_again(before: int = before) -> bool:
            return scene.relay.greetings > before

        await until(is_there_again, 30, "it has connected again")


async def test_three_panels_survive_kills_drops_and_changes(make_cluster: MakeCluster, browser: Browser) -> None:
    cluster = await make_cluster([SPEC], coordinators=1, nodes=2, front=True)
    async with three_panels(cluster, browser) as scene:
        await scene.edit(60, 33)
        node = await node_of(scene.tab)
        await cluster[node].kill()
        await moved_from(scene.tab, node)
        await scene.is_whole("kill -9")
        await cluster.restart(node)
        await scene.is_alone()
        await scene.edit(60, 34)

        # What is being changed when the line is cut is what is there afterwards.
        restore = f"filter => {VIEWER}.restore({{filter}}, {{panel: 'grouped'}})"
        for bound in (8, 9, 10):
            async with asyncio.TaskGroup() as group:
                group.create_task(scene.tab.page.evaluate(restore, [["k", "<", bound]]))
                await asyncio.sleep(0)
                scene.relay.cut()
        await scene.tab.toggle("g1")  # another view, whose groups are all open
        await scene.is_whole("drops within changes")
        await scene.is_alone()


@pytest.mark.deep
async def test_three_panels_survive_everything_else(make_cluster: MakeCluster, browser: Browser) -> None:
    cluster = await make_cluster([SPEC], coordinators=1, nodes=3, front=True)
    async with three_panels(cluster, browser) as scene:
        before = sum(resident_bytes(cluster, name) for name in NODES)
        await drops(scene, 20)
        await scene.is_whole("20 drops in a row")
        await scene.is_alone()
        assert sum(resident_bytes(cluster, name) for name in NODES) - before < 64 << 20

        for name in NODES:  # a rolling restart
            assert await cluster[name].terminate() == 0
            await cluster.restart(name)
        await scene.is_whole("a rolling restart")
        await scene.is_alone()

        node = await node_of(scene.tab)
        cluster[node].pause()
        await moved_from(scene.tab, node)
        await scene.is_whole("SIGSTOP")
        cluster[node].resume()
        await scene.is_alone()

        for name in NODES:
            await cluster[name].kill()
        await expect(scene.tab.page.locator("#connection")).to_have_text("reconnecting")
        await asyncio.sleep(10)  # the outage is what it is about
        for name in NODES:
            await cluster.restart(name)
        await expect(scene.tab.page.locator("#connection")).to_have_text("live")
        scene.forgive()
        await scene.is_whole("an outage of 10 s")
        await scene.is_alone()
        await scene.edit(61, 55)

"""A page in a real browser, through the load balancer, while nodes die, stop, stall and come back."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from playwright.async_api import expect

from parallax.replication.spec import TableSpec
from parallax.tasks import Tasks
from tests.browser import Browser, Tab
from tests.cluster import Cluster
from tests.processes import PATIENCE, until
from tests.sockets import measured

MakeCluster = Callable[..., Awaitable[Cluster]]
SPEC = TableSpec.declare(
    "t", {"schema": {"k": "integer", "group": "string", "n": "integer"}, "index": "k", "writes": "forward"}
)
KEYS, GROUPS = 12, 4

OBSERVE = """table => {
    // When the grid changed, and whether the counter, which only grows, ever went back.
    window.seen = { times: [], counts: [], back: [] };
    const look = () => {
        const cells = [...table.querySelectorAll('tbody td')].map(cell => cell.textContent.replaceAll(',', ''));
        const count = Math.max(...cells.filter(text => /^\\d+$/.test(text)).map(Number));
        const last = seen.counts.at(-1) ?? 0;
        if (count > last) { seen.times.push(performance.now()); seen.counts.push(count); }
        if (count < last) seen.back.push([last, count]);
    };
    new MutationObserver(look).observe(table, {
        subtree: true, childList: true, characterData: true,
    });
}"""


@asynccontextmanager
async def ticking(cluster: Cluster) -> AsyncIterator[None]:
    """Publish a number that grows, about thirty times a second, in the first row."""

    async def keep_publishing() -> None:
        for number in range(1000, 1_000_000):
            await cluster.publish("t", op="update", format="json", data=json.dumps([{"k": 0, "n": number}]))
            await asyncio.sleep(0.03)

    async with Tasks() as tasks:
        tasks.start(keep_publishing(), name="publisher")
        yield


async def node_of(tab: Tab) -> str:
    """Return the name of the node that the page is connected to."""
    found = await tab.page.locator("#connection").get_attribute("data-node")
    assert found
    return found


async def moved_from(tab: Tab, node: str) -> None:
    async def is_elsewhere() -> bool:
        live = await tab.page.locator("#connection").get_attribute("data-state") == "live"
        return live and await node_of(tab) != node

    await until(is_elsewhere, 20, f"the page has left {node}")


async def goes_on(tab: Tab) -> None:
    """Wait until the grid has changed some more."""
    before = await tab.page.evaluate("seen.counts.length")

    async def has_changed() -> bool:
        return bool(await tab.page.evaluate("seen.counts.length") > before + 5)

    await until(has_changed, 20, "updates go on")


async def longest_gap(tab: Tab) -> float:
    """Return the longest time between two changes of the grid (ms)."""
    found: float = await tab.page.evaluate("Math.max(...seen.times.slice(1).map((time, i) => time - seen.times[i]))")
    return found


@asynccontextmanager
async def a_grouped_page(cluster: Cluster, browser: Browser) -> AsyncIterator[Tab]:
    """Open the page, grouped, with one group collapsed and one filter, while its table ticks."""
    rows = [{"k": key, "group": f"g{key % GROUPS}", "n": key} for key in range(KEYS)]
    await cluster.publish("t", op="update", format="json", data=json.dumps(rows))
    await cluster.at_rest()
    async with ticking(cluster):
        tab = await browser.open(cluster.url("front"))
        await expect(tab.cell("g1").first).to_be_visible()
        await tab.restore(group_by=["group", "k"], columns=["n"], filter=[["k", "<", 10]], aggregates={"n": "max"})
        await expect(tab.page.locator("th.psp-tree-label").first).to_be_visible()
        await tab.toggle("g1")
        await expect(tab.page.locator("th.psp-tree-label").filter(has_text=re.compile(r"^\s*9\s*$"))).to_have_count(0)
        await tab.page.locator("regular-table").evaluate(OBSERVE)
        await goes_on(tab)
        yield tab


async def labels(tab: Tab) -> list[str]:
    return [label[0] for label in await tab.lines()]


EXPECTED = ["TOTAL", "  g0", "    0", "    4", "    8", "  g1", "  g2", "    2", "    6", "  g3", "    3", "    7"]


@pytest.mark.browser
@pytest.mark.cluster
async def test_a_page_does_not_notice_what_happens_to_its_node(make_cluster: MakeCluster, browser: Browser) -> None:
    cluster = await make_cluster([SPEC], coordinators=1, nodes=3, front=True)
    async with a_grouped_page(cluster, browser) as tab:
        assert await labels(tab) == EXPECTED
        gaps: dict[str, Any] = {}

        async def suffers(what: str, node: str) -> None:
            await moved_from(tab, node)
            await goes_on(tab)
            assert await labels(tab) == EXPECTED, what
            gaps[what] = await longest_gap(tab)
            await tab.page.evaluate("seen.times = []")

        node = await node_of(tab)
        await cluster[node].kill()
        await suffers("kill -9", node)
        await cluster.restart(node)

        node = await node_of(tab)
        assert await cluster[node].terminate() == 0
        await suffers("SIGTERM", node)
        await cluster.restart(node)

        node = await node_of(tab)
        cluster[node].pause()
        await suffers("SIGSTOP", node)
        cluster[node].resume()

        print(f"longest gaps (ms): {gaps}")
        assert await tab.page.evaluate("seen.back") == []
        assert tab.complaints == []
        await expect(tab.page.locator("#connection")).to_have_text("live")

    async def books_are_clean() -> bool:
        for name in ("node-1", "node-2", "node-3"):
            figures = await measured(cluster, name)
            if figures("sessions") or figures("views") or figures("subscriptions"):
                return False
        return True

    await tab.page.close()
    await until(books_are_clean, 20 * PATIENCE, "nobody's views are left")

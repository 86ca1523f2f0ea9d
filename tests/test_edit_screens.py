"""Two people edit one table, each in a real Chromium on a node of his own, by typing into the grid."""

import json
from collections.abc import Awaitable, Callable

import pytest
from playwright.async_api import expect

from parallax.replication.spec import TableSpec
from tests.browser import Browser, Tab
from tests.cluster import Cluster
from tests.page_node import TRADED, TRADES, Node
from tests.processes import until
from tests.test_failover import moved_from

BOOK = TableSpec.declare(
    "book", {"schema": {"id": "string", "note": "string", "size": "integer"}, "index": "id", "writes": "forward"}
)
pytestmark = [pytest.mark.browser, pytest.mark.cluster]


async def type_into(tab: Tab, row: str, column: int, text: str) -> None:
    """Type a value into a cell, as somebody does who edits the grid."""
    cell = tab.row(row).locator("td").nth(column)
    await cell.click()
    await tab.page.keyboard.press("Control+A")
    await tab.page.keyboard.type(text)
    await tab.page.keyboard.press("Enter")


async def test_what_one_types_both_see(make_cluster: Callable[..., Awaitable[Cluster]], browser: Browser) -> None:
    cluster = await make_cluster([BOOK], coordinators=1, nodes=2)
    rows = [{"id": f"row {number}", "note": f"note {number}", "size": number} for number in range(6)]
    await cluster.publish("book", op="update", format="json", data=json.dumps(rows))
    tabs = []
    for node in ("node-1", "node-2"):
        tab = await browser.open(cluster.url(node))
        await expect(tab.row("row 5")).to_be_visible()
        await tab.restore(plugin_config={"edit_mode": "EDIT"}, settings=False)
        tabs.append(tab)
    one, two = tabs

    await type_into(one, "row 1", 1, "changed by one")
    await type_into(two, "row 4", 1, "changed by two")
    await type_into(two, "row 2", 2, "4321")
    expected = [[row["id"], row["note"], f"{row['size']:,}"] for row in rows]
    expected[1][1], expected[4][1], expected[2][2] = "changed by one", "changed by two", "4,321"

    async def is_shown() -> bool:
        for tab in tabs:
            assert await tab.rows() == expected
        return True

    await until(is_shown, 20, "both show all three edits")
    await cluster.converged()
    assert [tab.complaints for tab in tabs] == [[], []]


async def test_an_edit_that_nobody_confirms_is_said_to_be_in_doubt(
    make_cluster: Callable[..., Awaitable[Cluster]], browser: Browser
) -> None:
    cluster = await make_cluster([BOOK], coordinators=1, nodes=2, front=True)
    rows = [{"id": f"row {number}", "note": "as it was", "size": number} for number in range(6)]
    await cluster.publish("book", op="update", format="json", data=json.dumps(rows))
    tab = await browser.open(cluster.url("front"))
    await expect(tab.row("row 5")).to_be_visible()
    await tab.restore(plugin_config={"edit_mode": "EDIT"}, settings=False)
    await type_into(tab, "row 1", 1, "before")

    async def are(*expected: str) -> bool:
        for node in ("node-1", "node-2"):
            notes = {row[0]: row[1] for row in await cluster.read(node, BOOK)}
            assert tuple(notes[f"row {number}"] for number in (1, 2, 3)) == expected
        return True

    await until(lambda: are("before", "as it was", "as it was"), 20, "the first edit is on every node")
    node = await tab.page.locator("#connection").get_attribute("data-node")
    assert node
    cluster[node].pause()
    await type_into(tab, "row 2", 1, "meanwhile")
    await expect(tab.page.get_by_role("status").filter(has_text="may have been made, or not")).to_be_visible()
    await moved_from(tab, node)
    await type_into(tab, "row 3", 1, "after")
    await expect(tab.row("row 3")).to_contain_text("after")
    cluster[node].resume()
    await cluster.at_rest()
    try:
        assert await are("before", "as it was", "after")
    except AssertionError:  # the node had read it
        assert await are("before", "meanwhile", "after")
    await cluster.converged()
    assert len(tab.complaints) == 1, "the viewer does not catch it, so the console has it, too"
    assert "may have been made, or not" in tab.complaints[0]


async def test_an_edit_that_is_refused_is_said_to_be(browser: Browser) -> None:
    node = Node()
    try:
        await node.host(TRADES, TRADED)
        tab = await browser.open(node.url)
        await expect(tab.row("a")).to_be_visible()
        await tab.restore(plugin_config={"edit_mode": "EDIT"}, settings=False)
        await type_into(tab, "a", 1, "99")
        await expect(tab.page.locator("#note")).to_contain_text("Edit of trades: ")
        await expect(tab.page.locator("#note")).to_contain_text("read-only")
    finally:
        await node.close()

"""Two people edit one table, each in a real Chromium on a node of his own, by typing into the grid."""

import json
from collections.abc import Awaitable, Callable

import pytest
from playwright.async_api import expect

from parallax.replication.spec import TableSpec
from tests.browser import Browser, Tab
from tests.cluster import Cluster
from tests.processes import until

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

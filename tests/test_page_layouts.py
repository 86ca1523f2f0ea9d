"""The page's panels: kept, sent to others, dressed, used without a mouse, and shown again by a node of another version."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Page, expect

from node.gateway.session import Session
from parallax.link import TABLE_ON_DELETE
from parallax.replication.spec import TableSpec
from parallax.wire import Envelope
from tests.browser import Browser, Tab
from tests.page_node import ACCOUNTS, ANN, TRADED, TRADES, Node
from tests.processes import until

pytestmark = pytest.mark.browser


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    node = Node()
    await node.host(ACCOUNTS, ANN)
    await node.host(TRADES, TRADED)
    yield node
    await node.close()


async def panels(page: Page) -> list[tuple[str, str, str]]:
    """Return table, plugin and theme of each panel."""
    found: dict[str, Any] = await page.evaluate(
        "(document.querySelector('perspective-viewer')?.saveWorkspace())?.then(saved => saved.panels) ?? {}"
    )
    return sorted((panel["table"], panel["plugin"], panel["theme"]) for panel in found.values())


async def has_panels(page: Page, *expected: tuple[str, str], theme: str = "Pro Light") -> None:
    async def are_there() -> bool:
        found = await panels(page)
        assert found == sorted((*one, theme) for one in expected), found
        return True

    await until(are_there, 20, f"the page has {expected}")


async def kept(page: Page) -> dict[str, Any]:
    """Return the layouts in the browser's storage, by table."""
    found: dict[str, str] = await page.evaluate("({...localStorage})")
    return {name.rpartition(".")[2]: json.loads(text) for name, text in found.items() if name.startswith("parallax.layout.")}


async def add_panel(tab: Tab, table: str) -> None:
    await tab.page.get_by_role("button", name="Add panel").click()
    await tab.page.locator("#panels").get_by_role("button", name=table).click()


async def keeps(page: Page, count: int, table: str = "trades") -> None:
    """Wait until that many panels of a table's layout are kept."""

    async def are_kept() -> bool:
        layout = (await kept(page)).get(table)
        assert len(layout["panels"] if layout else []) == count
        return True

    await until(are_kept, 20, f"{count} panels are kept")


async def test_a_layout_is_kept_and_can_be_sent_to_others(node: Node, browser: Browser) -> None:
    tab = await browser.open(f"{node.url}?table=trades#token=secret")
    page = tab.page
    await expect(tab.cell("a")).to_be_visible()
    assert await kept(page) == {}, "nobody has changed anything"
    await add_panel(tab, "accounts")
    await has_panels(page, ("accounts", "Datagrid"), ("trades", "Datagrid"))
    await tab.restore(plugin="Y Bar", group_by=["id"], columns=["price"])
    mine = [("accounts", "Datagrid"), ("trades", "Y Bar")]
    await has_panels(page, *mine)
    await keeps(page, 2)

    await page.reload()
    await has_panels(page, *mine)
    await expect(tab.row("7")).to_contain_text("Ann")
    await node.update(ACCOUNTS, [{"number": 7, "holder": "Bea"}])
    await expect(tab.row("7")).to_contain_text("Bea")

    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await page.get_by_role("button", name="Copy link").click()
    await expect(page.locator("#note")).to_have_text("The link is copied.")
    link: str = await page.evaluate("navigator.clipboard.readText()")
    assert "secret" not in link
    assert urlsplit(link).query == "table=trades"

    friend = await browser.open(link)
    await has_panels(friend.page, *mine)
    await add_panel(friend, "trades")
    more = [*mine, ("trades", "Datagrid")]
    await has_panels(friend.page, *more)

    async def is_in_the_address() -> bool:
        return friend.page.url != link

    await until(is_in_the_address, 20, "the address has followed")
    await friend.page.reload()
    await has_panels(friend.page, *more)
    assert await kept(friend.page) == {}, "a layout of the address leaves one's own alone"

    await page.get_by_role("button", name="Reset").click()
    await has_panels(page, ("trades", "Datagrid"))
    assert await kept(page) == {}
    assert page.url.endswith("#token=secret")
    assert [*tab.complaints, *friend.complaints] == []
    await page.goto("about:blank")
    await friend.page.goto("about:blank")

    async def nothing_is_left() -> bool:
        return node.views == 0

    await until(nothing_is_left, 20, "nobody's views are left")


async def test_a_theme_is_kept_for_all_panels_and_the_page(node: Node, browser: Browser) -> None:
    tab = await browser.open(node.url)
    page = tab.page
    await expect(tab.cell("7")).to_be_visible()
    await add_panel(tab, "trades")
    both = [("accounts", "Datagrid"), ("trades", "Datagrid")]
    await has_panels(page, *both)
    await keeps(page, 2, "accounts")
    await page.get_by_label("Theme").select_option("Dracula")
    await has_panels(page, *both, theme="Dracula")
    assert await page.evaluate("document.documentElement.dataset.theme") == "dark"
    await page.reload()
    await has_panels(page, *both, theme="Dracula")
    await expect(page.get_by_label("Theme")).to_have_value("Dracula")
    await tab.restore(theme="Pro Light")  # as with the viewer's own menu, in one panel
    await has_panels(page, *both)
    await expect(page.locator("html")).to_have_attribute("data-theme", "light")
    assert tab.complaints == []


async def test_panels_come_and_go_with_their_tables(node: Node, browser: Browser) -> None:
    tab = await browser.open(f"{node.url}?table=trades")
    page = tab.page
    await expect(tab.cell("a")).to_be_visible()
    await add_panel(tab, "accounts")
    both = [("accounts", "Datagrid"), ("trades", "Datagrid")]
    await has_panels(page, *both)
    await keeps(page, 2)
    await node.drop("accounts")
    await has_panels(page, ("trades", "Datagrid"))
    await expect(tab.cell("a")).to_be_visible()
    await node.host(ACCOUNTS, ANN)
    await has_panels(page, *both)
    await expect(tab.row("7")).to_contain_text("Ann")

    # With another column a table's layout stays; without one that it shows, the table is shown as it is.
    await node.host(TableSpec("accounts", (*ACCOUNTS.schema, ("since", "date")), index="number"), [ANN[0] | {"since": None}])
    await has_panels(page, *both)
    await tab.restore(sort=[["price", "desc"]])
    await keeps(page, 2)
    await node.drop("accounts")
    await node.host(TableSpec("trades", (("id", "string"), ("cost", "float")), index="id"), [{"id": "a", "cost": 9.5}])
    await expect(tab.row("a")).to_contain_text("9.50")
    await has_panels(page, ("trades", "Datagrid"))
    # The viewer's own words for what went, and the client's if that was just before it was watched.
    went = re.compile("View not found|there is no table 'accounts' here")
    assert [line for line in tab.complaints if not went.search(line)] == []


async def test_a_table_may_go_just_before_the_page_watches_it(
    node: Node, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched: list[str] = []
    answer_at_once = Session._at_once

    def at_once(session: Session, request: Envelope) -> bool:
        if request.number == TABLE_ON_DELETE:
            watched.append(request.entity_id)
            if request.entity_id == "accounts":
                session._gateway.remove_table("accounts")
        return answer_at_once(session, request)

    monkeypatch.setattr(Session, "_at_once", at_once)
    tab = await browser.open(f"{node.url}?table=trades")
    await expect(tab.cell("a")).to_be_visible()
    await add_panel(tab, "accounts")
    await until(lambda: asyncio.sleep(0, "accounts" in watched), 20, "the new panel's table is watched")
    await has_panels(tab.page, ("trades", "Datagrid"))


async def test_a_viewer_that_fails_is_made_anew(node: Node, browser: Browser) -> None:
    """As one does whose table goes while it is being restored."""
    tab = await browser.open(f"{node.url}?table=trades")
    await expect(tab.cell("a")).to_be_visible()
    await tab.page.evaluate(
        """() => {
            const stage = document.getElementById("stage");
            let failures = 2;
            stage.replaceChildren = (...viewers) => {
                if (viewers.length && failures-- > 0) throw new Error("Panel disposed");
                Element.prototype.replaceChildren.apply(stage, viewers);
            };
        }"""
    )
    await node.drop("trades")
    await node.host(TableSpec("trades", (("id", "string"), ("cost", "float")), index="id"), [{"id": "a", "cost": 7.25}])
    await expect(tab.row("a")).to_contain_text("7.25")
    assert [line for line in tab.complaints if "View not found" not in line] == []


async def test_everything_can_be_done_without_a_mouse_and_has_a_name(node: Node, browser: Browser) -> None:
    tab = await browser.open(node.url)
    page = tab.page
    await expect(tab.cell("7")).to_be_visible()
    for role, name in {
        "combobox": "Table",
        "button": "Add panel",
        "toolbar": "Layout",
        "region": "Table accounts",
    }.items():
        await expect(page.get_by_role(role, name=name, exact=True)).to_be_visible()  # type: ignore[arg-type]

    await page.keyboard.press("Tab")
    await expect(page.locator("#tables")).to_be_focused()
    await page.keyboard.type("trades")
    await expect(tab.cell("a")).to_be_visible()
    await expect(page.locator("#tables")).to_be_focused()
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("button", name="Add panel")).to_be_focused()
    await page.keyboard.press("Enter")
    await page.keyboard.press("Tab")
    await expect(page.locator("#panels button").first).to_be_focused()
    await page.keyboard.press("Enter")
    await has_panels(page, ("accounts", "Datagrid"), ("trades", "Datagrid"))
    await expect(page.locator("#panels")).to_be_hidden()
    await expect(page.get_by_role("button", name="Add panel")).to_be_focused()
    for name in ("Configure", "Copy link", "Reset"):
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("button", name=name)).to_be_focused()
    await page.keyboard.press("Enter")  # Reset
    await has_panels(page, ("trades", "Datagrid"))
    assert tab.complaints == []


@pytest.mark.parametrize("width", [1320, 1280, 1200, 1000])
async def test_what_the_header_says_moves_no_panel(node: Node, browser: Browser, width: int) -> None:
    tab = await browser.open(node.url)
    await expect(tab.cell("7")).to_be_visible()
    await tab.page.set_viewport_size({"width": width, "height": 600})
    tops = await tab.page.evaluate(
        """() => ["live", "reconnecting", "stale: no updates reach this node"].map((text) => {
            document.getElementById("connection").textContent = text;
            document.getElementById("note").textContent = text === "live" ? "" : "Edit of trades: ".padEnd(150, "long ");
            return document.getElementById("stage").getBoundingClientRect().top;
        })"""
    )
    assert len(set(tops)) == 1, tops
    assert tops[0] < 100


async def test_the_pill_says_what_lasts_and_the_page_follows_the_nodes_version(
    node: Node, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    tab = await browser.open(f"{node.url}?table=trades")
    page = tab.page
    pill = page.locator("#connection")
    await expect(tab.cell("a")).to_be_visible()
    await expect(pill).to_have_text("live")
    await expect(page.locator("#figures")).to_contain_text(" ms")
    said = """pill => new MutationObserver(() => (window.said = [...(window.said ?? []), pill.textContent]))
        .observe(pill, { childList: true, characterData: true, subtree: true })"""
    await pill.evaluate(said)

    await node.hand_over()  # for less than a moment
    await until(lambda: _has(tab, 2), 20, "it has connected again")
    await node.update(TRADES, [{"id": "a", "price": 7.25}])
    await expect(tab.row("a")).to_contain_text("7.25")
    assert await page.evaluate("window.said ?? []") == []

    await node.lose_log("accounts")  # which is not on this page
    await node.lose_log("trades")
    await expect(pill).to_have_text("stale: no updates reach this node")
    await node.lose_log()
    await expect(pill).to_have_text("live")
    assert await page.evaluate("window.said") == ["stale: no updates reach this node", "live"]

    await add_panel(tab, "accounts")
    both = [("accounts", "Datagrid"), ("trades", "Datagrid")]
    await has_panels(page, *both)
    monkeypatch.setattr("node.gateway.link.VERSION", "99.0.0")
    monkeypatch.setattr("node.pages.VERSION", "99.0.0")
    async with page.expect_navigation():
        await node.hand_over()
    await has_panels(page, *both)
    assert await page.evaluate("window.said") is None
    assert tab.complaints == []


async def _has(tab: Tab, sockets: int) -> bool:
    return len(tab.sockets) >= sockets

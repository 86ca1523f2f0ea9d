"""The page in a real browser, served by a node's own routes: what a visitor sees, and what he is sent."""

import gzip
import hashlib
import re
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import expect
from tornado.httpclient import AsyncHTTPClient, HTTPResponse

from parallax.replication.spec import TableSpec
from tests.browser import Browser, Tab
from tests.page_node import ACCOUNTS, ANN, TRADED, TRADES, Node


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    node = Node()
    yield node
    await node.close()


async def get(url: str, method: str = "GET", **headers: str) -> HTTPResponse:
    """Fetch as a browser that decompresses nothing, so that what was sent is seen."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return await AsyncHTTPClient().fetch(url, method=method, headers=names, raise_error=False, decompress_response=False)


async def asset_urls(node: Node) -> dict[str, str]:
    index = (await get(node.url)).body.decode()
    return {path.rpartition("/")[2]: node.url.rstrip("/") + path for path in re.findall(r'"(/assets/[^"]+)"', index)}


async def expect_status(tab: Tab, text: str) -> None:
    await expect(tab.page.locator("#connection")).to_have_text(text)


# In a browser ---------------------------------------------------------------------------------------------------------


@pytest.mark.browser
async def test_a_table_is_shown_and_changes_by_itself(node: Node, browser: Browser) -> None:
    await node.host(TRADES, TRADED)
    tab = await browser.open(node.url)
    await expect(tab.row("b")).to_contain_text("2.50")
    assert await tab.rows() == [["a", "1.50"], ["b", "2.50"], ["c", "3.50"]]
    await expect_status(tab, "live")

    await node.update(TRADES, [{"id": "b", "price": 99.25}, {"id": "d", "price": 4.5}])
    await expect(tab.row("b")).to_contain_text("99.25")
    await expect(tab.row("d")).to_contain_text("4.50")
    assert tab.complaints == []


@pytest.mark.browser
async def test_it_loads_everything_once_and_from_the_node(node: Node, browser: Browser) -> None:
    await node.host(TRADES, TRADED)
    tab = await browser.open(node.url)
    await expect(tab.cell("a")).to_be_visible()
    urls = [response.url for response in tab.responses if not response.url.startswith("blob:")]
    assert sorted(urls) == sorted([node.url, *(await asset_urls(node)).values()])
    assert [socket.url for socket in tab.sockets] == [node.url.replace("http", "ws") + "websocket"]

    again = await tab.page.context.new_page()
    fresh: list[str] = []
    again.on("response", lambda response: None if response.from_service_worker else fresh.append(response.url))
    await again.goto(node.url)
    await expect(again.locator("regular-table td").first).to_be_visible()
    cached = await again.evaluate(
        "performance.getEntriesByType('resource').filter(e => e.name.includes('/assets/')).map(e => e.transferSize)"
    )
    assert cached == [0] * 7  # from the cache, without asking


@pytest.mark.browser
async def test_the_picker_follows_the_tables(node: Node, browser: Browser) -> None:
    await node.host(TRADES, TRADED)
    tab = await browser.open(node.url)
    await expect(tab.cell("a")).to_be_visible()
    picker = tab.page.locator("#tables")
    await expect(picker.locator("option")).to_have_text(["trades"])

    await node.host(ACCOUNTS, ANN)  # first in the list now, but nobody asked for it
    await expect(picker.locator("option")).to_have_text(["accounts", "trades"])
    await expect(picker).to_have_value("trades")
    await expect(tab.cell("a")).to_be_visible()

    await picker.select_option("accounts")
    await expect(tab.row("7")).to_contain_text("Ann")
    assert tab.page.url == f"{node.url}?table=accounts"
    await node.update(ACCOUNTS, [{"number": 7, "holder": "Bea"}])
    await expect(tab.row("7")).to_contain_text("Bea")

    await picker.select_option("trades")
    await expect(tab.row("a")).to_contain_text("1.50")
    await expect(tab.cell("Bea")).to_have_count(0)
    assert tab.complaints == []


@pytest.mark.browser
async def test_the_address_chooses_the_table(node: Node, browser: Browser) -> None:
    await node.host(TRADES, TRADED)
    await node.host(ACCOUNTS, ANN)
    tab = await browser.open(f"{node.url}?table=trades")
    await expect(tab.cell("a")).to_be_visible()
    await expect(tab.page.locator("#tables")).to_have_value("trades")
    await expect(tab.page).to_have_title("trades · Parallax")


@pytest.mark.browser
async def test_an_empty_node_says_how_to_publish_and_shows_the_first_table(node: Node, browser: Browser) -> None:
    tab = await browser.open(node.url)
    await expect(tab.page.locator("#empty")).to_contain_text("There is no table yet")
    await expect(tab.page.locator("#empty")).to_contain_text("redis-cli XADD 'parallax:{trades}:in'")
    await expect_status(tab, "live")
    await node.host(TRADES, TRADED)
    await expect(tab.cell("a")).to_be_visible()
    await expect(tab.page.locator("#empty")).to_be_hidden()
    assert tab.complaints == []


@pytest.mark.browser
async def test_a_table_that_is_not_there_is_waited_for(node: Node, browser: Browser) -> None:
    await node.host(ACCOUNTS, ANN)
    tab = await browser.open(f"{node.url}?table=trades")
    await expect(tab.page.locator("#empty")).to_contain_text("There is no table “trades” yet")
    await expect(tab.page.locator("#tables option")).to_have_text(["accounts"])
    await node.host(TRADES, TRADED)
    await expect(tab.cell("a")).to_be_visible()
    await expect(tab.page.locator("#tables")).to_have_value("trades")


@pytest.mark.browser
async def test_a_table_that_is_dropped_goes_and_may_come_back_in_another_shape(node: Node, browser: Browser) -> None:
    await node.host(ACCOUNTS, ANN)
    await node.host(TRADES, TRADED)
    tab = await browser.open(f"{node.url}?table=trades")
    await expect(tab.cell("a")).to_be_visible()
    await node.drop("trades")
    await expect(tab.page.locator("#empty")).to_contain_text("There is no table “trades” yet")
    await expect(tab.page.locator("regular-table")).to_have_count(0)
    await node.host(TRADES, [{"id": "z", "price": 7.5}])
    await expect(tab.row("z")).to_contain_text("7.50")

    reshaped = TableSpec("trades", (("number", "integer"), ("side", "string")), index="number")
    await node.host(reshaped, [{"number": 1, "side": "buy"}])
    await expect(tab.row("1")).to_contain_text("buy")
    await node.update(reshaped, [{"number": 1, "side": "sell"}])
    await expect(tab.row("1")).to_contain_text("sell")
    assert [line for line in tab.complaints if "View not found" not in line] == []  # the viewer's own words for what went


@pytest.mark.browser
async def test_a_lost_connection_is_said(node: Node, browser: Browser) -> None:
    await node.host(TRADES, TRADED)
    tab = await browser.open(node.url)
    await expect(tab.cell("a")).to_be_visible()
    await node.leave()
    await expect_status(tab, "reconnecting")
    await expect(tab.cell("a")).to_be_visible()  # what was there stays


# What is sent ---------------------------------------------------------------------------------------------------------


async def test_the_page_is_asked_for_anew_but_not_sent_anew(node: Node) -> None:
    first = await get(node.url)
    assert (first.code, first.headers["Cache-Control"]) == (200, "no-cache")
    assert first.headers["Content-Type"] == "text/html; charset=utf-8"
    second = await get(node.url, If_None_Match=first.headers["Etag"])
    assert (second.code, second.body) == (304, b"")


async def test_assets_are_compressed_and_kept_for_ever(node: Node) -> None:
    urls = await asset_urls(node)
    assert set(urls) == {"page.js", "page.css", "link.js", "layouts.js", "pill.js", "perspective.js", "perspective.css"}
    for name, url in urls.items():
        packed = await get(url, Accept_Encoding="gzip, br")
        assert (packed.code, packed.headers["Content-Encoding"]) == (200, "gzip"), name
        assert packed.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        assert packed.headers["Vary"] == "Accept-Encoding"
        plain = await get(url)
        assert "Content-Encoding" not in plain.headers
        assert gzip.decompress(packed.body) == plain.body
        assert url.split("/")[-2] == hashlib.sha256(plain.body).hexdigest()[:16]
        assert packed.headers["Etag"] != plain.headers["Etag"]
        assert (await get(url, Accept_Encoding="gzip", If_None_Match=packed.headers["Etag"])).code == 304
        head = await get(url, method="HEAD", Accept_Encoding="gzip")
        assert (head.code, head.body, head.headers["Content-Length"]) == (200, b"", str(len(packed.body)))


async def test_an_asset_of_another_version_is_answered_but_not_kept(node: Node) -> None:
    url = (await asset_urls(node))["page.js"]
    digest = url.split("/")[-2]
    other = await get(url.replace(digest, "0" * 16))
    assert other.body == (await get(url)).body
    assert other.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    "path", ["assets/0123456789abcdef/other.js", "assets/page.js", "assets/0123456789abcdef/../pages.py"]
)
async def test_nothing_else_is_served(node: Node, path: str) -> None:
    assert (await get(node.url + path)).code == 404


async def test_every_answer_is_locked_down(node: Node) -> None:
    for url in (node.url, *(await asset_urls(node)).values(), f"{node.url}assets/0123456789abcdef/none.js"):
        headers = (await get(url)).headers
        rules = dict(rule.split(" ", 1) for rule in headers["Content-Security-Policy"].split("; "))
        assert rules["default-src"] == "'self'"
        assert rules["frame-ancestors"] == "'self'"
        assert "'unsafe-inline'" not in rules["script-src"]
        assert "'unsafe-eval'" not in rules["script-src"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert "Server" not in headers


async def test_the_page_has_no_inline_script_and_names_no_other_host(node: Node) -> None:
    sources = [(await get(node.url)).body.decode()]
    sources += [(await get(url)).body.decode() for name, url in (await asset_urls(node)).items() if name.startswith("page")]
    for source in sources:
        assert re.findall(r"<script(?![^>]*\bsrc=)|\son\w+=|javascript:", source) == []
        assert set(re.findall(r"https?://[^\s'\"]+", source)) <= {"http://www.w3.org/2000/svg"}

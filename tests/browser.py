"""A real Chromium for tests, through Playwright: every page it opens reports what went wrong on it.

Tests take the fixture `browser`.
"""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser as Chromium
from playwright.async_api import (
    ConsoleMessage,
    Error,
    Locator,
    Page,
    Response,
    ViewportSize,
    WebSocket,
    async_playwright,
    expect,
)

from tests.processes import PATIENCE

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    "--no-sandbox",  # CI runs as root
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
SIZE: ViewportSize = {"width": 1280, "height": 800}
WAIT_MS = 20_000 * PATIENCE
"""How long a locator waits for what should come: a cold load of the viewer takes seconds where cores are few."""
expect.set_options(timeout=WAIT_MS)


@dataclass(slots=True)
class Tab:
    """A page and what happened on it.

    `complaints` holds console errors and warnings, uncaught errors and requests that failed, in order; a test that expects none
    asserts that it is empty.
    """

    page: Page
    complaints: list[str] = field(default_factory=list)
    responses: list[Response] = field(default_factory=list)
    sockets: list[WebSocket] = field(default_factory=list)

    def __post_init__(self) -> None:
        # Functions, not methods: Playwright sets attributes of its own on what it calls.
        self.page.on("console", lambda message: self._said(message))
        self.page.on("pageerror", lambda error: self.complaints.append(f"uncaught: {error}"))
        self.page.on("requestfailed", lambda request: self.complaints.append(f"{request.url}: {request.failure}"))
        self.page.on("response", lambda response: self.responses.append(response))
        self.page.on("websocket", lambda socket: self.sockets.append(socket))
        self.page.set_default_timeout(WAIT_MS)

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.type}: {message.text} ({message.location['url'][-80:]})")

    def cell(self, text: str) -> Locator:
        """Return the datagrid's cells whose text is `text`; locators reach into the viewer's shadow roots."""
        return self.page.locator("regular-table tbody :is(th, td)").filter(has_text=_whole(text))

    def row(self, text: str) -> Locator:
        """Return the datagrid's rows that have a cell with this text."""
        cell = self.page.locator(":is(th, td)").filter(has_text=_whole(text))
        return self.page.locator("regular-table tbody tr").filter(has=cell)

    async def rows(self) -> list[list[str]]:
        """Return the texts of the datagrid's visible body, row by row."""
        found: list[list[str]] = await self.page.locator("regular-table tbody tr").evaluate_all(
            "rows => rows.map(row => [...row.querySelectorAll('th, td')].map(cell => cell.textContent.trim()))"
        )
        return found

    async def lines(self) -> list[list[str]]:
        """Return the same without what is empty before a group's label, which is indented by its depth instead."""
        found: list[list[str]] = await self.page.locator("regular-table tbody tr").evaluate_all(_LINES)
        return found

    async def restore(self, **config: Any) -> None:
        """Configure the viewer, as somebody does with its side panel."""
        await self.page.evaluate("config => document.querySelector('perspective-viewer').restore(config)", config)

    async def toggle(self, group: str) -> None:
        """Click at a group's label, which expands or collapses it."""
        await self.page.locator("th.psp-tree-label").filter(has_text=_whole(group)).click()


_LINES = r"""rows => rows.map(row => {
    const text = cell => cell.textContent.trim();
    const values = [...row.querySelectorAll("td")].map(text);
    const label = [...row.querySelectorAll("th")].pop();
    return label ? ["  ".repeat(/rt-col-(\d+)/.exec(label.className)[1]) + text(label), ...values] : values;
})"""


def _whole(text: str) -> re.Pattern[str]:
    return re.compile(rf"^\s*{re.escape(text)}\s*$")


@dataclass(slots=True)
class Browser:
    """A running Chromium."""

    chromium: Chromium
    tabs: list[Tab] = field(default_factory=list)

    async def open(self, url: str, beside: Tab | None = None) -> Tab:
        """Open a page as a visitor who was never here: with nothing cached. Or as another tab of the one who has `beside`."""
        context = await self.chromium.new_context(viewport=SIZE) if beside is None else beside.page.context
        tab = Tab(await context.new_page())
        self.tabs.append(tab)
        await tab.page.goto(url, timeout=WAIT_MS)
        return tab


@asynccontextmanager
async def running_browser() -> AsyncIterator[Browser]:
    """A Chromium, closed at the end. What its pages complained of is printed: pytest shows it when the test fails."""
    async with async_playwright() as playwright:
        try:
            chromium = await playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        except Error as error:
            pytest.fail(f"the browser tests need {CHROMIUM} (on Debian `make packages` installs it): {error}", pytrace=False)
        browser = Browser(chromium)
        try:
            yield browser
        finally:
            for tab in browser.tabs:
                print(f"----- {tab.page.url}", *tab.complaints, sep="\n")
            await chromium.close()

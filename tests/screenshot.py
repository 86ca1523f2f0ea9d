"""Make the pictures of docs/ again: the demo's page, with flights in the air. `python -m tests.screenshot`"""

import asyncio
import re
import sys
from urllib.parse import urlsplit

from playwright.async_api import ViewportSize, expect

from tests.browser import Tab, running_browser
from tests.processes import ROOT
from tests.relay import relay_to

SIZE: ViewportSize = {"width": 1320, "height": 640}
SMALL: ViewportSize = {"width": 1280, "height": 480}
SETTLE_MS = 3_000  # what is drawn after the last thing that can be waited for
IS_QUICK = "() => parseFloat(document.getElementById('figures').textContent.split(' · ').pop()) < 20"
QUICK_MS = 60_000
GROUPED = {
    "layout": {
        "type": "split-layout",
        "orientation": "horizontal",
        "sizes": [0.5, 0.5],
        "children": [{"type": "tab-layout", "tabs": [name], "selected": 0} for name in ("grid", "chart")],
    },
    "panels": {
        "grid": {
            "table": "flights",
            "title": "by carrier",
            "group_by": ["carrier", "origin"],
            "columns": ["dep_delay", "arr_delay", "distance"],
            "aggregates": {"dep_delay": "avg", "arr_delay": "avg"},
        },
        "chart": {
            "table": "flights",
            "title": "distance",
            "plugin": "Y Bar",
            "group_by": ["carrier"],
            "columns": ["distance"],
        },
    },
}
AIRBORNE = 8  # so many rows of the first screen are in the air when the picture is taken


async def main() -> None:
    """Run the demo until the picture is taken."""
    demo = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "parallax", "demo", cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert demo.stdout is not None
        async for line in demo.stdout:
            if found := re.match(r"Open +(http\S+)", line.decode()):
                await take(found[1])
                return
        raise SystemExit("the demo ended before it said where its page is")
    finally:
        if demo.returncode is None:
            demo.terminate()
        await demo.communicate()


async def take(url: str) -> None:
    """Take the pictures once there is something to see."""
    port, query = urlsplit(url).port, urlsplit(url).query
    assert port is not None
    async with running_browser() as browser:
        async with relay_to(port) as relay:
            tab = await browser.open(f"{relay.url}?{query or 'table=flights'}")
            await tab.page.set_viewport_size(SIZE)
            await expect(tab.cell("en route").nth(AIRBORNE - 1)).to_be_visible(timeout=120_000)
            # The round trip of a page that has just loaded is measured while everything is busy; it is measured again.
            await tab.page.wait_for_function(IS_QUICK, timeout=QUICK_MS)
            await picture(tab, "screenshot")
            await tab.page.set_viewport_size(SMALL)
            await tab.page.evaluate(
                "layout => document.querySelector('perspective-viewer').restoreWorkspace(layout)", GROUPED
            )
            await expect(tab.cell("TOTAL").first).to_be_visible()
            await expect(tab.page.locator("#connection")).to_have_text("live")
            await tab.page.wait_for_timeout(SETTLE_MS)
            await picture(tab, "grouped")
            await tab.page.get_by_label("Theme").select_option("Pro Dark")
            await expect(tab.page.locator("html")).to_have_attribute("data-theme", "dark")
            for plugin in ("perspective-viewer-datagrid", "perspective-viewer-charts-y-bar"):
                await expect(tab.page.locator(plugin)).to_have_attribute("theme", "Pro Dark")
            await tab.page.wait_for_timeout(SETTLE_MS)
            await picture(tab, "dark")
        await expect(tab.page.locator("#connection")).to_have_text("reconnecting")
        await picture(tab, "reconnecting")


async def picture(tab: Tab, name: str) -> None:
    path = ROOT / "docs" / f"{name}.png"
    await tab.page.screenshot(path=path)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    asyncio.run(main())

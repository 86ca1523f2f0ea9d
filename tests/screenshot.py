"""Make docs/screenshot.png again: the demo's page, with flights in the air. `python -m tests.screenshot`"""

import asyncio
import re
import sys

from playwright.async_api import ViewportSize, expect

from tests.browser import running_browser
from tests.processes import ROOT

PICTURE = ROOT / "docs" / "screenshot.png"
SIZE: ViewportSize = {"width": 1320, "height": 640}
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
    """Take the picture once there is something to see."""
    async with running_browser() as browser:
        tab = await browser.open(url)
        await tab.page.set_viewport_size(SIZE)
        await expect(tab.cell("en route").nth(AIRBORNE - 1)).to_be_visible(timeout=120_000)
        await tab.page.screenshot(path=PICTURE)
    print(f"{PICTURE.relative_to(ROOT)}: {PICTURE.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    asyncio.run(main())

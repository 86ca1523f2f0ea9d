"""What somebody at the page notices: a real Chromium through the load balancer.

    python -m loadtests.bench_page [--rounds 10] [gaps] [loads]

gaps: three panels (a grouped grid, a chart, an editable grid); a number changes some thirty times a second while the page's node is
killed (-9), ended (SIGTERM) or stopped (SIGSTOP). The longest time between two changes of the grouped grid's DOM in the 3 s around it,
beside the longest in 3 s without.
loads: visitors who were never here, at a small table, one of 10,000 rows of 50 columns, and one of 1,000,000 rows, a row of which
changes ten times a second: from the navigation to the first row, and to the first change; requests and bytes; how old the changed
number was when it came to be shown.

Each puts its figures into docs/benchmarks.md, between marks of its own.
"""

import argparse
import asyncio
import datetime
import json
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pyarrow as pa
from playwright.async_api import expect

from parallax.replica.engine import to_ipc
from parallax.replication.spec import TableSpec
from parallax.tasks import Tasks
from tests.browser import Browser, Tab, running_browser
from tests.cluster import Cluster
from tests.processes import ROOT
from tests.test_failover import OBSERVE, SPEC, goes_on, moved_from, node_of, ticking
from tests.test_failover_panels import GROUPS, KEYS, LAYOUT, VIEWER

WINDOW_SECONDS = 3
MOST_VISITS = 5
NUMBERS = {"id": "integer", "n": "integer"}
SMALL = TableSpec.declare("small", {"schema": NUMBERS, "index": "id"})
WIDE = TableSpec.declare("wide", {"schema": NUMBERS | {f"c{number}": "float" for number in range(48)}, "index": "id"})
LONG = TableSpec.declare("long", {"schema": NUMBERS | {"price": "float"}, "index": "id"})
SIZES = {SMALL: 100, WIDE: 10_000, LONG: 1_000_000}
BATCH = 50_000
GAP = "(times => Math.max(...times.slice(1).map((time, i) => time - times[i])))([...seen.times, performance.now()])"
LOOK = """() => new Promise(resolve => {
    // When the first row was there, when it first changed, and the ages (ms) of what it changed to.
    const grid = () => document.querySelector('regular-table')
        ?? document.querySelector('perspective-viewer-datagrid')?.shadowRoot?.querySelector('regular-table');
    const ages = [];
    let first, live, last;
    const look = () => {
        const text = grid()?.querySelectorAll('tbody tr:first-child td')[1]?.textContent;
        if (text) {
            first ??= performance.now();
            if (last !== undefined && text !== last) {
                live ??= performance.now();
                ages.push(Date.now() % 86400000 - Number(text.replaceAll(',', '')));
            }
            last = text;
        }
        if (ages.length < 30) requestAnimationFrame(look); else resolve({ first, live, ages });
    };
    look();
})"""

PAGE = ROOT / "docs" / "benchmarks.md"


def said(values: Sequence[float]) -> str:
    """Return median and worst (ms)."""
    return f"{statistics.median(values):,.0f} | {max(values):,.0f}"


async def gap_of_window(tab: Tab) -> float:
    """Return the longest time (ms) between two changes of the grid in the window that begins now."""
    await tab.page.evaluate("seen.times = seen.times.slice(-1)")
    await asyncio.sleep(WINDOW_SECONDS)
    gap: float = await tab.page.evaluate(GAP)
    return gap


async def kill(cluster: Cluster, node: str) -> None:
    """Kill -9."""
    await cluster[node].kill()


async def end(cluster: Cluster, node: str) -> None:
    """SIGTERM."""
    await cluster[node].terminate()


async def stop(cluster: Cluster, node: str) -> None:
    """SIGSTOP."""
    cluster[node].pause()


WAYS = {"kill -9": (kill, 300), "SIGTERM": (end, 300), "SIGSTOP": (stop, 2000)}
"""What happens to a node, and how much longer than normal (ms) the gap may be: a silent node is found by a probe after 1 s."""


async def recover(cluster: Cluster, node: str, how: Callable[[Cluster, str], Awaitable[None]]) -> None:
    """Make the fleet whole again."""
    if how is stop:
        cluster[node].resume()
        await cluster.ready(node)
    else:
        await cluster.restart(node)


async def gaps(cluster: Cluster, browser: Browser, rounds: int) -> None:
    """Measure the longest gaps."""
    rows = [{"k": key, "group": f"g{key % GROUPS}", "n": key} for key in range(KEYS)]
    await cluster.publish("t", op="update", format="json", data=json.dumps(rows))
    await cluster.at_rest()
    lines = [
        "| what happens to the node | normal gap, ms: median | worst | gap, ms: median | worst | more, median | goal |",
        "|---|---|---|---|---|---|---|",
    ]
    async with ticking(cluster):
        tab = await browser.open(cluster.url("front") + "?table=t")
        await expect(tab.cell("g1").first).to_be_visible()
        await tab.page.evaluate(f"layout => {VIEWER}.restoreWorkspace(layout)", LAYOUT)
        grid = tab.page.locator("[slot=grouped] regular-table")
        await expect(grid.locator("th.psp-tree-label").first).to_be_visible()
        await grid.evaluate(OBSERVE)
        await goes_on(tab)
        for name, (how, goal) in WAYS.items():
            normal, found = [], []
            for number in range(rounds):
                normal.append(await gap_of_window(tab))
                node = await node_of(tab)
                async with asyncio.TaskGroup() as group:
                    window = group.create_task(gap_of_window(tab))
                    await asyncio.sleep(0.5)
                    await how(cluster, node)
                found.append(window.result())
                await moved_from(tab, node)
                await recover(cluster, node, how)
                await asyncio.sleep(2)  # the load balancer takes it in again
                print(f"{name} {number + 1}/{rounds}: {normal[-1]:.0f} ms, {found[-1]:.0f} ms", flush=True)
            more = statistics.median(found) - statistics.median(normal)
            lines.append(f"| {name} | {said(normal)} | {said(found)} | {more:,.0f} | {goal:,} |")
        back = await tab.page.evaluate("seen.back")
        lines += [
            "",
            f"The number went back {len(back) or 'at no'} time{'s' * (len(back) > 1)};"
            f" the console had {len(tab.complaints) or 'no'} line{'s' * (len(tab.complaints) != 1)} of warning or error.",
        ]
        print(*back, *tab.complaints, sep="\n")
        await tab.page.close()
    write("gaps", rounds, lines)


def write(name: str, rounds: int, lines: Sequence[str]) -> None:
    """Put figures into docs/benchmarks.md, between the marks of their name."""
    begin, end = f"<!-- page {name}: begin -->", f"<!-- page {name}: end -->"
    now = datetime.datetime.now(datetime.UTC)
    when = f"Measured {now:%Y-%m-%d} on {os.cpu_count()} cores, {rounds} round{'s' * (rounds > 1)}, load average {os.getloadavg()[0]:.1f}."
    text = PAGE.read_text()
    head, _, rest = text.partition(begin)
    assert end in rest, f"{PAGE} has no mark {begin}"
    PAGE.write_text("\n".join((head + begin, when, "", *lines, end)) + rest.partition(end)[2])
    print(when, *lines, sep="\n", flush=True)


@asynccontextmanager
async def counting(cluster: Cluster, spec: TableSpec) -> AsyncIterator[None]:
    """Publish the time (ms of this day) in the first row's `n`, ten times a second."""

    async def publish() -> None:
        while True:
            row = {spec.index: 0, "n": int(time.time() * 1000) % 86_400_000}
            await cluster.publish(spec.name, op="update", format="json", data=json.dumps([row]))
            await asyncio.sleep(0.1)

    async with Tasks() as tasks:
        tasks.start(publish(), name="publisher")
        yield


async def visit(cluster: Cluster, browser: Browser, spec: TableSpec, rounds: int) -> str:
    """Measure cold loads of a table's page."""
    first, live, ages = [], [], []
    sizes: list[int] = []
    for _ in range(rounds):
        tab = await browser.open("about:blank")
        await tab.page.goto(f"{cluster.url('front')}?table={spec.name}")
        seen = await tab.page.evaluate(LOOK)
        first.append(seen["first"])
        live.append(seen["live"])
        ages += seen["ages"]
        sizes = [int(one.headers.get("content-length", "0")) for one in tab.responses if one.url.startswith("http")]
        await tab.page.context.close()
    rows = f"{SIZES[spec]:,} x {len(spec.columns)}"
    return f"| {rows} | {said(first)} | {said(live)} | {said(ages)} | {len(sizes)} | {sum(sizes) / 1e6:.2f} |"


async def fill(cluster: Cluster, spec: TableSpec, rows: int) -> None:
    """Publish rows with a number in each column."""
    for start in range(0, rows, BATCH):
        ids = range(start, min(rows, start + BATCH))
        columns = {name: pa.array([0.25 * one for one in ids] if kind == "float" else ids) for name, kind in spec.schema}
        table = pa.table(columns).cast(spec.arrow_schema)
        await cluster.publish(spec.name, op="update", format="arrow", data=to_ipc(table))
    await cluster.at_rest(180)


async def loads(cluster: Cluster, browser: Browser, rounds: int) -> None:
    """Measure cold loads of all sizes."""
    lines = [
        "| rows x columns | first row, ms: median | worst | first change, ms: median | worst "
        "| age of what is shown, ms: median | worst | requests | MB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for spec, rows in SIZES.items():
        await fill(cluster, spec, rows)
        async with counting(cluster, spec):
            lines.append(await visit(cluster, browser, spec, rounds))
        print(lines[-1], flush=True)
    write("loads", rounds, lines)


async def main(what: Sequence[str], rounds: int, directory: Path) -> None:
    """Measure everything and print it."""
    specs = [SPEC] * ("gaps" in what) + list(SIZES) * ("loads" in what)
    cluster = Cluster(directory, specs, coordinators=1, nodes=2, front=True)
    try:
        await cluster.start()
        async with running_browser() as browser:
            if "gaps" in what:
                await gaps(cluster, browser, rounds)
            if "loads" in what:
                await loads(cluster, browser, min(rounds, MOST_VISITS))
    finally:
        await cluster.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=["gaps", "loads"])
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="parallax-bench-") as made:
        asyncio.run(main(arguments.what, arguments.rounds, Path(made)))

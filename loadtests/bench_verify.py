"""What a verify costs the viewers of a table of 1,000,000 rows.

    python -m loadtests.bench_verify [--rounds 3] [--seconds 8]

10 viewers scroll through a filtered view, each asking for 50 rows that nobody asked for 10 times a second, while 100 rows change 10
times a second: `quiet` without a verify, `verify` with one in the middle of each window. Latencies count from the instant at which a
request was due, whether or not the one before was answered by then. `in pieces` is the node as it is; its rival `at once` exports the
whole table in one turn of its lane. They take turns; the medians of the rounds are printed, and how long after the request the last
digest was reported.
"""

import argparse
import asyncio
import importlib
import statistics
import sys
import tempfile
import time
from pathlib import Path

from loadtests import market
from loadtests.meter import percentile
from loadtests.servers import RATE, Fleet
from parallax.process import run_service
from parallax.replica import engine
from parallax.replication.spec import TableSpec
from parallax.status import verify
from parallax.tasks import Tasks
from tests.cluster import PREFIX

TABLE = "large"
ROWS = 1_000_000
VIEWERS = 10
REQUESTS = 10
"""Of each viewer in a second."""
SCREEN = 50
VIEW_ROWS = ROWS // market.SYMBOLS
SPEC = TableSpec.declare(TABLE, {"schema": market.TYPES, "index": "id"})
LOT_ROWS = 200_000
RIVALS = {"in pieces": "", "at once": "loadtests.bench_verify"}

Point = dict[str, float]


async def fill(fleet: Fleet) -> None:
    """Publish the large table."""
    for start in range(0, ROWS, LOT_ROWS):
        data = market.encode(range(start, start + LOT_ROWS), 0.0)
        await fleet.cluster.publish(TABLE, format="arrow", data=data)
    await fleet.cluster.at_rest(120)


async def scroll(fleet: Fleet, number: int, start: float, seconds: float) -> list[float]:
    """Be one viewer, and return the latency of each request in ms."""
    found: list[float] = []
    async with fleet.cluster.viewer("node-1") as client, Tasks() as tasks:
        view = await (await client.open_table(TABLE)).view(filter=[["symbol", "==", "S1"]])

        async def ask(due: float, row: int) -> None:
            await view.to_columns_string(start_row=row, end_row=row + SCREEN)
            found.append((time.monotonic() - due) * 1000)

        asked = []
        for step in range(round(seconds * REQUESTS)):
            due = start + (step + number / VIEWERS) / REQUESTS
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            row = (number * 997 + step * 61) % (VIEW_ROWS - SCREEN)
            asked.append(tasks.start(ask(due, row), name="request"))
        await asyncio.wait(asked)
        await view.delete()
    return found


async def window(fleet: Fleet, seconds: float, *, has_verify: bool) -> Point:
    """Measure one window."""
    await fleet.tick(TABLE, RATE, seconds + 2)
    start = time.monotonic() + 1.5
    took: list[float] = []

    async def ask() -> None:
        await asyncio.sleep(start + seconds / 3 - time.monotonic())
        started = time.monotonic()
        await verify(fleet.cluster.server.url, PREFIX, [TABLE], 30.0)
        took.append(time.monotonic() - started)

    async with asyncio.TaskGroup() as group:
        viewers = [group.create_task(scroll(fleet, number, start, seconds)) for number in range(VIEWERS)]
        if has_verify:
            group.create_task(ask())
    await fleet.stop_ticks()
    found = [latency for viewer in viewers for latency in viewer.result()]
    shares = {"p50": 0.5, "p99": 0.99, "longest": 1.0}
    return {name: percentile(found, share) or 0.0 for name, share in shares.items()} | {"verify_s": took[0] if took else 0.0}


async def one(program: str, seconds: float) -> dict[str, Point]:
    """Measure one kind of node, quiet and with a verify."""
    with tempfile.TemporaryDirectory(prefix="parallax-bench-") as directory:
        fleet = Fleet(Path(directory), [SPEC])
        fleet.cluster.program = program
        try:
            await fleet.start()
            await fill(fleet)
            return {kind: await window(fleet, seconds, has_verify=kind == "verify") for kind in ("quiet", "verify")}
        finally:
            await fleet.close()


async def run(rounds: int, seconds: float) -> None:
    """Run it all and print medians."""
    market.SIZES[TABLE] = ROWS
    found: dict[tuple[str, str], list[Point]] = {}
    for number in range(rounds):
        for name in list(RIVALS) if number % 2 == 0 else list(RIVALS)[::-1]:
            for kind, point in (await one(RIVALS[name], seconds)).items():
                found.setdefault((name, kind), []).append(point)
                print(f"  {name}, {kind}: {say(point)}", flush=True)
    for (name, kind), points in found.items():
        print(f"{name}, {kind}: {say({key: statistics.median(point[key] for point in points) for key in points[0]})}")


def say(point: Point) -> str:
    """Return figures as text."""
    return ", ".join(f"{key} {value:.4g}" for key, value in point.items())


def rival() -> int:
    """Run a node, or its coordinator, that exports a table in one turn."""
    engine.PIECE_CELLS = sys.maxsize
    kind = sys.argv[1]
    settings = getattr(importlib.import_module(f"{kind}.settings"), f"{kind.capitalize()}Settings")
    return run_service(settings, importlib.import_module(f"{kind}.server").serve)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0)
    arguments = parser.parse_args()
    asyncio.run(run(arguments.rounds, arguments.seconds))


if __name__ == "__main__":
    if sys.argv[1:] in (["node"], ["coordinator"]):
        sys.exit(rival())
    main()

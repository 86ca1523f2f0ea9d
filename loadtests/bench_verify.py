"""What a verify costs the viewers of a table of 1,000,000 rows.

    python -m loadtests.bench_verify [--rounds 3] [--seconds 8]

20 viewers of one filtered view are refreshed while 100 rows change 10 times a second: `quiet` without a verify, `verify` with one in the
middle of each window. `in pieces` is the node as it is; its rival `at once` exports the whole table in one turn of its lane. Both
nodes are measured in each round; medians are printed, and how long after the request the last digest was reported.
"""

import argparse
import asyncio
import importlib
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from loadtests import market
from loadtests.plan import Plan
from loadtests.requests import record
from loadtests.servers import Fleet, measure, raise_limits
from parallax.process import run_service
from parallax.replica import engine
from parallax.replication.spec import TableSpec
from parallax.status import verify
from parallax.tasks import Tasks
from tests.cluster import PREFIX
from tests.processes import HOST

TABLE = "large"
ROWS = 1_000_000
VIEWERS = 20
SPEC = TableSpec.declare(TABLE, {"schema": market.TYPES, "index": "id"})
LOT_ROWS = 200_000
RIVALS = {"in pieces": "", "at once": "loadtests.bench_verify"}
KEYS = ("rate", "latency_p50", "latency_p99", "latency_max", "failed")


async def fill(fleet: Fleet) -> None:
    """Publish the large table."""
    for start in range(0, ROWS, LOT_ROWS):
        data = market.encode(range(start, start + LOT_ROWS), 0.0)
        await fleet.cluster.publish(TABLE, format="arrow", data=data)
    await fleet.cluster.at_rest(120)


async def one(program: str, seconds: float) -> dict[str, dict[str, Any]]:
    """Measure one kind of node, quiet and with a verify in the middle."""
    with tempfile.TemporaryDirectory(prefix="parallax-bench-") as directory:
        fleet = Fleet(Path(directory), [SPEC])
        fleet.cluster.program = program
        try:
            await fleet.start()
            await fill(fleet)
            node = fleet.node
            dialogue = record(market.SCHEMA, filter=[["symbol", "==", "S1"]])
            plan = Plan(HOST, node.port, node.pid, TABLE, VIEWERS, [dialogue], seconds=seconds)
            found: dict[str, dict[str, Any]] = {}
            for kind in ("quiet", "verify"):
                took: list[float] = []

                async def ask(took: list[float] = took) -> None:
                    while True:
                        await asyncio.sleep(seconds / 2)
                        started = time.monotonic()
                        await verify(fleet.cluster.server.url, PREFIX, [TABLE], 30.0)
                        took.append(time.monotonic() - started)

                async with Tasks() as tasks:
                    if kind == "verify":
                        tasks.start(ask(), name="verifies")
                    point = await measure(node, plan)
                await fleet.stop_ticks()
                found[kind] = {key: point[key] for key in KEYS if key in point} | ({"verify_s": took[0]} if took else {})
                print(f"  {program or 'in pieces'} {kind}: {found[kind]}", flush=True)
            return found
        finally:
            await fleet.close()


async def run(rounds: int, seconds: float) -> None:
    """Run it all and print medians."""
    market.SIZES[TABLE] = ROWS
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for number in range(rounds):
        for name in list(RIVALS) if number % 2 == 0 else list(RIVALS)[::-1]:
            for kind, point in (await one(RIVALS[name], seconds)).items():
                found.setdefault((name, kind), []).append(point)
    for (name, kind), points in found.items():
        medians = {
            key: statistics.median(point[key] for point in points) for key in points[0] if key in (*KEYS[:-1], "verify_s")
        }
        print(f"{name}, {kind}: " + ", ".join(f"{key} {value:.4g}" for key, value in medians.items()))


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
    raise_limits()
    asyncio.run(run(arguments.rounds, arguments.seconds))


if __name__ == "__main__":
    if sys.argv[1:] in (["node"], ["coordinator"]):
        sys.exit(rival())
    main()

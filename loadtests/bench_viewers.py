"""What viewers cost a node, beside Perspective's own Tornado handler in the same run.

    python -m loadtests.bench_viewers [--quick] [--rounds 3] [--seconds 4] [--only sorted,grouped,...]
    python -m loadtests.bench_viewers bad          # what bad viewers do to good ones: loadtests/bench_bad_viewers.py
    python -m loadtests.bench_viewers profile      # where a node's processor time goes: loadtests/bench_profile.py

The viewers are those of loadtests/viewers.py, in a process of their own. `ours` is a real node behind Redis, a coordinator and
ingest, of which only the node's processor time counts; `stock` is Perspective's handler and its table in one process. A rival is
started anew for each measurement, the node for each case; they take turns, and medians of the rounds are compared.

  sorted    50 viewers of one sorted view of 100,000 rows, 100 rows changed 10 times a second
  grouped   300 viewers of one grouped view of 10,000 rows
  alone     one viewer of an idle server: the latency of each kind of request
  distinct  100 viewers of 100 different filtered views
  fanout    500 viewers who subscribe and read nothing, beside a bare Tornado websocket that sends as many bytes
  memory    what one more viewer of a view holds in the server, shared and of one's own
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from loadtests import bench_bad_viewers, bench_profile, market
from loadtests.plan import Dialogue, Plan
from loadtests.requests import record
from loadtests.servers import RATE, Fleet, Server, measure, raise_limits, rival
from tests.processes import HOST, ROOT

RESULTS = ROOT / "out" / "bench_viewers.json"
BUSY_CLIENT = 0.9
"""Of one core; a load generator that needs more may be what is measured."""
SHARED = 50
POOL_THREADS = min(32, (os.cpu_count() or 1) + 4)
"""What a ThreadPoolExecutor has unless told otherwise."""
POOLED = {"sorted", "grouped"}
"""Cases in which the stock handler does better with an executor, measured; in the others it does better without."""

Point = dict[str, Any]


def sorted_view() -> Dialogue:
    """Return the dialogue of a viewer who has the dearest rows on top."""
    return record(market.SCHEMA, sort=[["price", "desc"]])


def grouped_view() -> Dialogue:
    """Return that of a pivot."""
    return record(market.SCHEMA, group_by=["symbol"], columns=["price", "size"], aggregates={"price": "avg"})


def filtered_views(count: int) -> list[Dialogue]:
    """Return those of viewers who each look at a symbol of their own."""
    return [record(market.SCHEMA, filter=[["symbol", "==", f"S{number}"]]) for number in range(count)]


@dataclass(slots=True)
class Bench:
    """One run: a fleet that lasts, rivals that come and go, and what was found."""

    fleet: Fleet
    directory: Path
    rounds: int
    seconds: float
    threads: int | None
    case: str = ""
    results: dict[str, Any] = field(default_factory=dict)

    async def point(self, who: str, plan: Plan, rate: float = RATE) -> Point:
        """Measure one server once, and say what was found."""
        if who == "ours":
            found = await self._of(self.fleet.node, plan, rate)
            await self.fleet.settle()
        else:
            pooled = POOL_THREADS if self.case in POOLED else 0
            threads = pooled if self.threads is None else self.threads
            async with rival(who, self.directory, plan.table, threads) as server:
                found = await self._of(server, plan, rate)
        say(who, plan, found)
        return found

    async def _of(self, server: Server, plan: Plan, rate: float) -> Point:
        return await measure(server, replace(plan, port=server.port, pid=server.pid), rate)

    async def both(self, plan: Plan, rivals: Sequence[str] = ("ours", "stock"), rate: float = RATE) -> dict[str, Point]:
        """Measure servers in turn, and return the medians of each one's figures."""
        found: dict[str, list[Point]] = {who: [] for who in rivals}
        for number in range(self.rounds):
            for who in rivals if number % 2 == 0 else rivals[::-1]:
                found[who].append(await self.point(who, plan, rate))
        return {who: medians(points) for who, points in found.items()}

    def plan(self, table: str, viewers: int, dialogues: Sequence[Dialogue], **more: Any) -> Plan:
        """Return a plan whose server is told later."""
        return Plan(HOST, 0, 0, table, viewers, dialogues, seconds=self.seconds, **more)

    # The cases -------------------------------------------------------------------------------------------------------

    async def sorted(self) -> dict[str, Any]:
        """50 viewers of one sorted view."""
        found = await self.both(self.plan("market", SHARED, [sorted_view()]))
        return found | {"times": ratio(found, "per_cpu_second"), "goal": 20}

    async def grouped(self) -> dict[str, Any]:
        """300 viewers of one grouped view."""
        found = await self.both(self.plan("small", 300, [grouped_view()]))
        return found | {"times": ratio(found, "per_cpu_second"), "goal": 5}

    async def alone(self) -> dict[str, Any]:
        """One viewer, nothing else."""
        found = await self.both(
            replace(self.plan("market", 1, [sorted_view()], does="time requests"), seconds=self.seconds / 2)
        )
        if any("failed" in point for point in found.values()):
            return found
        ratios = {kind: found["ours"][kind] / found["stock"][kind] for kind in found["ours"]}
        return found | {"ratios": ratios, "times": max(ratios.values()), "goal": 1.3}

    async def distinct(self) -> dict[str, Any]:
        """100 viewers, each with a view of his own."""
        found = await self.both(self.plan("market", 100, filtered_views(100)))
        return found | {"times": ratio(found, "per_cpu_second"), "times_rate": ratio(found, "rate"), "goal": 0.9}

    async def fanout(self) -> dict[str, Any]:
        """500 who only subscribe; the bare server's listeners need no view."""
        dialogue = record(market.SCHEMA)
        found: dict[str, list[Point]] = {"ours": [], "bare": []}
        for _ in range(self.rounds):
            found["ours"].append(await self.point("ours", self.plan("tiny", 500, [dialogue], does="listen")))
            found["bare"].append(await self.point("bare", self.plan("tiny", 500, [], does="listen")))
        middle = {who: medians(points) for who, points in found.items()}
        idle = await self.point("ours", self.plan("tiny", 1, [dialogue], does="listen"))
        middle["ours"]["server_cores_for_one"] = idle.get("server_cores")
        return middle | {"times": ratio(middle, "deliveries_per_cpu_second", "bare"), "goal": 0.7}

    async def memory(self) -> dict[str, Any]:
        """Viewers of one view, and of different ones, none of whom reads after the first time."""
        found: dict[str, Any] = {}
        for name, table, dialogues in (
            ("one sorted view", "market", [sorted_view()]),
            ("different filtered views", "market", filtered_views(SHARED)),
        ):
            plan = replace(self.plan(table, SHARED, dialogues), does="listen", seconds=1.0, warm_seconds=0.5)
            found[name] = {who: await self._more_for_more(who, plan) for who in ("ours", "stock")}
        return found | {"unit": "KiB for each viewer"}

    async def _more_for_more(self, who: str, plan: Plan) -> float | None:
        """Return the KiB that each viewer after the first one holds, in servers that saw nobody before."""
        grown = []
        for count in (1, 1 + plan.viewers):
            if who == "ours":
                await self.fleet.fresh_node()
            point = await self.point(who, replace(plan, viewers=count), 0)
            if "failed" in point:
                return None
            grown.append(point["rss"] - point["rss_idle"])
        return (grown[1] - grown[0]) / plan.viewers / 1024


CASES: dict[str, Callable[[Bench], Awaitable[dict[str, Any]]]] = {
    "sorted": Bench.sorted,
    "grouped": Bench.grouped,
    "alone": Bench.alone,
    "distinct": Bench.distinct,
    "fanout": Bench.fanout,
    "memory": Bench.memory,
}


def medians(points: Sequence[Point]) -> Point:
    """Return the medians of each figure, and nothing of what is no number; of rounds that failed, that they did."""
    good = [point for point in points if "failed" not in point]
    if not good:
        return dict(points[0])
    found: Point = {}
    for name in good[0]:
        values = [point[name] for point in good if point.get(name) is not None]
        if all(isinstance(value, int | float) for value in values):
            found[name] = statistics.median(values) if values else None
    if len(good) < len(points):
        found["failed_rounds"] = len(points) - len(good)
    return found


def ratio(found: dict[str, Point], figure: str, other: str = "stock") -> float | None:
    """Return ours by the other's, None where one failed."""
    mine, theirs = found["ours"].get(figure), found[other].get(figure)
    return mine / theirs if mine is not None and theirs else None


def say(who: str, plan: Plan, found: Point) -> None:
    """Print one measurement."""
    head = f"  {who:<6} {plan.viewers:>5} of {plan.table:<7}"
    if "failed" in found:
        print(f"{head} failed: {found['failed']}", flush=True)
        return
    if plan.does == "time requests":
        print(head, " ".join(f"{kind} {value:.0f} us" for kind, value in found.items()), flush=True)
        return
    words = [f"server {found['server_cores']:.2f} cores {found['rss'] / 2**20:.0f} MiB"]
    if plan.does == "refresh":
        words += [f"{found['rate']:.2f}/s each, the slowest {found['slowest']:.2f}"]
        words += [f"{found['per_cpu_second']:.0f} refreshes a CPU second"]
        names = ("latency_p50", "latency_p99")
        words += [f"{name} {found[name]:.1f} ms" for name in names if found[name] is not None]
    else:
        words += [f"{found['deliveries_per_cpu_second']:.0f} notifications a CPU second"]
    words += [f"load generator {found['client_cores']:.2f} cores" + " BUSY" * (found["client_cores"] > BUSY_CLIENT)]
    words += [f"{found['errors']} ERRORS"] * bool(found["errors"])
    print(head, "; ".join(words), flush=True)


async def run(
    names: Sequence[str], rounds: int, seconds: float, is_quick: bool = False, threads: int | None = None
) -> dict[str, Any]:
    """Run the cases of these names, and return what was found."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="parallax-bench-") as place:
        directory = Path(place)
        bench = Bench(Fleet(directory), directory, rounds, seconds, threads)
        try:
            await bench.fleet.start()
            await bench.fleet.fill()
            for name in names:
                print(f"{name}:", flush=True)
                bench.case = name
                await bench.fleet.fresh_node()
                found = await CASES[name](bench)
                bench.results[name] = found
                times = found.get("times")
                if times is not None:
                    print(f"{name}: {times:.2f} times the rival, goal {found['goal']}", flush=True)
        finally:
            await bench.fleet.close()
    machine = {"cpus": os.cpu_count(), "python": platform.python_version(), "machine": platform.machine()}
    return {
        "machine": machine,
        "options": {"rounds": rounds, "seconds": seconds, "threads": threads, "quick": is_quick},
        "when": time.strftime("%Y-%m-%d", time.gmtime()),
        "took_seconds": round(time.monotonic() - started),
        "load_average": os.getloadavg()[0],
        "cases": bench.results,
    }


def main() -> int:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["run", "bad", "profile"], default="run")
    parser.add_argument("--rounds", type=int, default=3, help="how often each case is measured; the medians count")
    parser.add_argument("--seconds", type=float, default=4.0, help="the window of one measurement")
    parser.add_argument("--only", default="", help=f"cases, with commas: {', '.join(CASES)}")
    parser.add_argument("--quick", action="store_true", help="one round of 2 s, coarse: does it run at all?")
    parser.add_argument(
        "--threads", type=int, help="threads of the stock handler's executor, 0 for none (the better for each case)"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="the JSON file of figures")
    arguments = parser.parse_args()
    if unknown := set(filter(None, arguments.only.split(","))) - set(CASES):
        parser.error(f"--only: no case {', '.join(sorted(unknown))}")
    if arguments.quick:
        arguments.rounds, arguments.seconds = 1, 2.0
        arguments.results = arguments.results.with_suffix(".quick.json")  # not among the figures that count
    raise_limits()
    known: dict[str, Any] = json.loads(arguments.results.read_text()) if arguments.results.exists() else {}
    if arguments.what == "run":
        names = arguments.only.split(",") if arguments.only else list(CASES)
        found = asyncio.run(run(names, arguments.rounds, arguments.seconds, arguments.quick, arguments.threads))
        found["cases"] = known.get("cases", {}) | found["cases"]
        known |= found
    elif arguments.what == "bad":
        known["bad"] = asyncio.run(bench_bad_viewers.run(max(arguments.seconds, 5.0)))
    else:
        known["profile"] = asyncio.run(bench_profile.run(arguments.seconds))
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    arguments.results.write_text(json.dumps(known, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Where a node's processor time goes when many viewers look at one sorted view.

    python -m loadtests.bench_viewers profile [--seconds 4]

First without a profiler, at saturation: how much runs on the event loop's thread, and how much on the engine's. Then under cProfile
(loadtests/profiled_node.py), at about half of what a node serves: what the event loop's thread is at work on, and what the lanes' are.
It makes Python slower than C: shares are of use, sums are not. Where py-spy is at hand, it needs no second run and sees the engine's
own threads, too: `py-spy record --native --threads --pid PID -o node.svg`.
"""

import asyncio
import pstats
import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loadtests import market
from loadtests.meter import Meter
from loadtests.plan import Plan
from loadtests.requests import record
from loadtests.servers import Fleet, measure
from parallax.tasks import Tasks
from tests.processes import HOST, python_module

VIEWERS = (400, 200, 50)
"""So many, or if a node cannot take them in, so many."""
HALF = (200, 100, 25)
START_UP = {"compile", "exec", "loads", "__build_class__", "open_code", "stat", "create_dynamic", "exec_dynamic"}
"""Built-in functions that run when modules are imported, and hardly later."""
SHOWN = 15


async def run(seconds: float) -> dict[str, Any]:
    """Run it, print and return what was found."""
    with tempfile.TemporaryDirectory(prefix="parallax-bench-") as directory:
        fleet = Fleet(Path(directory))
        try:
            await fleet.start()
            await fleet.fill()
            await fleet.fresh_node()
            found = {"threads": await _threads(fleet, seconds)}
            print(f"threads, of a core: {found['threads']}", flush=True)
            loop_file, engine_file = Path(directory) / "loop.profile", Path(directory) / "engine.profile"
            await fleet.stop_ticks()
            node = fleet.cluster["node-1"]
            await node.terminate()
            node.argv = [*python_module("loadtests.profiled_node"), str(loop_file), str(engine_file)]
            await fleet.cluster.restart("node-1")
            await _look(fleet, seconds, HALF)
            await node.terminate()
            found["event loop"], found["lanes"] = _shares(loop_file), _shares(engine_file)
            for who in ("event loop", "lanes"):
                print(f"{who}:", *[f"  {share:6.1%}  {name}" for name, share in found[who].items()], sep="\n", flush=True)
            return found
        finally:
            await fleet.close()


async def _look(fleet: Fleet, seconds: float, counts: Sequence[int] = VIEWERS) -> dict[str, Any]:
    node = fleet.node
    dialogue = record(market.SCHEMA, sort=[["price", "desc"]])
    found: dict[str, Any] = {}
    for count in counts:
        plan = Plan(HOST, node.port, node.pid, "market", count, [dialogue], seconds=seconds, setup_seconds=20)
        found = await measure(node, plan)
        if "failed" not in found:
            break
        await fleet.settle()
    await fleet.stop_ticks()  # and no more questions about its state, which the profile would show
    return found


async def _threads(fleet: Fleet, seconds: float) -> dict[str, float]:
    """Sample both thread groups while viewers look; the busiest window of the run counts."""
    best = {"event loop": 0.0, "engine": 0.0}

    async def sample() -> None:
        while True:
            meter = Meter(fleet.node.pid)
            await asyncio.sleep(seconds / 2)
            every, main = meter.cpu_seconds(), meter.main_thread_seconds()
            if every > (best["event loop"] + best["engine"]) * seconds / 2:
                best["event loop"], best["engine"] = main / (seconds / 2), (every - main) / (seconds / 2)

    async with Tasks() as tasks:
        tasks.start(sample(), name="threads")
        point = await _look(fleet, seconds)
    return best | {key: point[key] for key in ("viewers", "rate", "per_cpu_second", "failed") if key in point}


def _shares(file: Path) -> dict[str, float]:
    """Return the share of a thread's own time by module, starting up left out, largest first."""
    times: Counter[str] = Counter()
    for (path, _, function), (_, _, own, _, _) in pstats.Stats(str(file)).stats.items():  # type: ignore[attr-defined]
        if "importlib" in path or (path == "~" and START_UP & set(re.findall(r"\w+", function))):
            continue
        times[_part(path, function)] += own
    total = sum(times.values()) or 1.0
    return {name: time / total for name, time in times.most_common(SHOWN)}


def _part(path: str, function: str) -> str:
    parts = Path(path).parts
    if path == "~":
        return f"built in: {function[:60]}"
    for package in ("node", "parallax", "tornado", "redis", "asyncio", "google", "pyarrow", "perspective", "yaml"):
        if package in parts:
            return "/".join(parts[parts.index(package) :])
    return parts[-1] if parts else path

"""One measurement of the report: a fleet or the stock handler, viewers that look at a scene, and who used how much of the machine."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from loadtests import market
from loadtests.plan import PATIENCE, Plan
from loadtests.scenes import Scene, distinct, view
from loadtests.seen import merged, summary
from loadtests.servers import TAIL_SECONDS, Fleet, Server, hear, rival, viewers
from parallax.replication.keys import TableKeys
from tests.cluster import PREFIX
from tests.processes import HOST, LEASH, ROOT, python_module

BUSY_GENERATOR = 0.85
"""Of a core; a load generator that needs more may be what is measured."""
OTHERS = 0.25
"""Cores that programs may use which are no part of a run, unless said otherwise; with more, it is not ours that is measured."""
LATE_MS = 20.0
"""How late the publisher's 99th percentile may be."""
ENOUGH = 0.9
"""Of the refreshes that are due: a viewer who gets so many is served."""

Point = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Load:
    """What a measurement asks of a server."""

    viewers: int
    scene: Scene = field(default_factory=Scene)
    rate: float = 10.0
    """Entries a second."""
    rows: int = market.TICK_ROWS
    """Rows of an entry."""
    seconds: float = 4.0
    subscribers: int = 0
    """Clients that read the feed and throw it away, in the place of so many more nodes."""


@dataclass(slots=True)
class Lab:
    """Servers of one kind, and measurements of them."""

    who: str
    fleet: Fleet | None
    directory: Path
    threads: int = 0
    """Of the stock handler's executor."""
    others: float = OTHERS

    async def point(self, load: Load) -> Point:
        """Measure, say what was found, and return it; `invalid` in it says why it does not count, also at the second try."""
        found = await self._measure(load)
        if why := found.get("invalid"):
            found = await self._measure(load) | {"first_try": why}
        return found

    async def _measure(self, load: Load) -> Point:
        if self.fleet is not None:
            found = await self._look(self.fleet.nodes, load)
            await self.fleet.settle()
            lateness = self.fleet.lateness
            found |= {"publisher": lateness, "entry_bytes": self.fleet.entry_bytes}
        else:
            async with rival(self.who, self.directory, load.scene.table, self.threads) as server:
                found = await self._look([server], load)
        if "failed" not in found:
            found["others_cores"] = others_cores(found)
            found["invalid"] = why_invalid(found, self.others)
        found = {"who": self.who, "load": asdict(load)} | found
        say(found)
        return found

    async def _look(self, servers: Sequence[Server], load: Load) -> Point:
        views = load.scene.views(load.viewers)
        bounds = [round(load.viewers * number / len(servers)) for number in range(len(servers) + 1)]
        slices = [views[start:end] for start, end in pairwise(bounds)]
        cluster = self.fleet.cluster if self.fleet else None
        beside = {"coordinator": cluster["coordinator-1"].pid, "redis": cluster.server.pid} if cluster else {}
        async with AsyncExitStack() as stack:
            if cluster and load.subscribers:
                beside["subscribers"] = await stack.enter_async_context(self._subscribers(load))
            processes = []
            for number, (server, part) in enumerate(zip(servers, slices, strict=True)):
                plan = Plan(
                    HOST,
                    server.port,
                    server.pid,
                    load.scene.table,
                    len(part),
                    [view(*one) for one in part],
                    seconds=load.seconds,
                    tick_ms=1000 / load.rate if load.rate else 0.0,
                    beside=beside if not number else {},
                )
                processes.append(await stack.enter_async_context(viewers(plan)))
            said = [await hear(process, plan.setup_seconds + 10) for process in processes]
            if failed := [one["failed"] for one in said if "failed" in one]:
                return {"failed": failed[0]}
            if load.rate:
                seconds = plan.warm_seconds + PATIENCE * load.seconds + TAIL_SECONDS
                if self.fleet:
                    await self.fleet.tick(load.scene.table, load.rate, seconds, load.rows)
                else:
                    await servers[0].tick(load.scene.table, load.rate, seconds)
            for process in processes:
                assert process.stdin is not None
                process.stdin.write(b"go\n")
            found = [await hear(process, plan.warm_seconds + PATIENCE * load.seconds + 20) for process in processes]
        if failed := [one["failed"] for one in found if "failed" in one]:
            return {"failed": failed[0]}
        return joined(found, slices)

    @asynccontextmanager
    async def _subscribers(self, load: Load) -> AsyncIterator[int]:
        """Let clients read a table's feed; give the process id of all of them."""
        assert self.fleet is not None
        argv = [str(self.fleet.cluster.server.port), TableKeys(PREFIX, load.scene.table).feed, str(load.subscribers)]
        process = await asyncio.create_subprocess_exec(*LEASH, *python_module("loadtests.subscribers"), *argv, cwd=ROOT)
        try:
            await self.fleet.subscribed(load.scene.table, load.subscribers)
            yield process.pid
        finally:
            process.kill()
            await process.wait()


def joined(found: Sequence[Point], slices: Sequence[list[tuple[str, int]]]) -> Point:
    """Return what several processes of viewers found, one for each node, as one point."""
    first = found[0]
    nodes = [
        {
            "viewers": one["viewers"],
            "views": distinct(part),
            "refreshes": one["refreshes"] / one["seconds"],
            "cores": one["server_cores"],
            "loop": one["loop_cores"],
            "rss": one["rss"],
            "rss_idle": one["rss_idle"],
        }
        for one, part in zip(found, slices, strict=True)
    ]
    count = sum(one["viewers"] for one in found)
    refreshes = sum(node["refreshes"] for node in nodes)
    seen = merged([one["seen"] for one in found if "seen" in one])
    return {
        "nodes": nodes,
        "beside": first["beside"],
        "generator_cores": [one["client_cores"] for one in found],
        "machine_cores": first["machine_cores"],
        "refreshes": refreshes,
        "rate": refreshes / count if count else None,
        "cores": sum(node["cores"] for node in nodes),
        "latency_p50": first["latency_p50"],
        "errors": sum(one["errors"] for one in found),
        "seen": summary(seen),
        "histogram": seen.encode().decode(),
    }


def others_cores(point: Point) -> float:
    """Return what programs used that are no part of the run."""
    known = point["cores"] + sum(point["generator_cores"]) + sum(point["beside"].values())
    return float(point["machine_cores"] - known - point.get("publisher", {}).get("cores", 0.0))


def why_invalid(point: Point, others: float = OTHERS) -> str:
    """Return why a measurement does not count, or nothing."""
    if max(point["generator_cores"]) > BUSY_GENERATOR:
        return f"the load generator used {max(point['generator_cores']):.2f} of a core"
    if others_cores(point) > others:
        return f"other programs used {others_cores(point):.2f} cores"
    late = point.get("publisher", {}).get("late_p99_ms") or 0.0
    if late > LATE_MS and others == OTHERS:
        return f"the publisher was {late:.0f} ms late"
    return ""


def is_held(point: Point) -> bool:
    """Say whether each viewer got nine of ten refreshes."""
    if "failed" in point or point["errors"] or point["rate"] is None:
        return False
    return bool(point["rate"] >= ENOUGH * point["load"]["rate"])


def say(found: Point) -> None:
    """Print one measurement."""
    load = found["load"]
    head = f"  {found['who']:<6} {load['viewers']:>5} viewers, {load['scene']['share']:.0%} of them share"
    if "failed" in found:
        print(f"{head}: failed: {found['failed']}", flush=True)
        return
    rate = "" if found["rate"] is None else f"{found['rate']:.2f}/s each, "
    seen = found["seen"]
    age = f"seen after {seen['p50']:.0f}, {seen['p99']:.0f}, {seen['p999']:.0f} ms, " if seen else ""
    cores = "+".join(f"{node['cores']:.2f}" for node in found["nodes"])
    beside = "".join(f", {name} {value:.2f}" for name, value in found["beside"].items())
    generators = "+".join(f"{value:.2f}" for value in found["generator_cores"])
    print(
        f"{head}: {rate}{age}cores {cores}{beside}, generators {generators}"
        + f"  INVALID: {found['invalid']}" * bool(found["invalid"]),
        flush=True,
    )

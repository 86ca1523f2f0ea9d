"""A load test against a cluster of this machine: `make load`, or

    python -m loadtests.load [--shape steady|ladder|spike|soak|rolling] [--peak 20] [--seconds 20] [--nodes 2] [--workers 1] ...

Starts Redis, coordinators, nodes and a load balancer, a publisher that keeps its schedule whatever happens, and Locust with workers of
its own; then judges what they wrote, and says so by its exit code (`loadtests.load_verdict` lists them).

`--inject` is for testing the load test itself: it must not pass with `lag` (a node stops again and again), `loss` (an update
is never published, though all count on it), or `busy` (a generator wastes its time).
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from loadtests import load_options, shapes
from loadtests.accounting import Books
from loadtests.load_verdict import RESTARTING, Outcome, Run, read_pacer, report
from loadtests.meter import Meter
from loadtests.schedule import NOTES_SPEC, SPEC, TABLE, Schedule
from loadtests.soak import Growth
from parallax.demo.ports import choose_ports
from parallax.replication.keys import TableKeys
from tests.cluster import PREFIX, Cluster
from tests.processes import HOST, PATIENCE, ROOT, Process, python_module, until

SETTINGS = {"FRAME_MS": "50", "LEASE_TTL_SECONDS": "3", "DRAIN_SECONDS": "1", "LOG_LEVEL": "warning"}
SOAKED = {"SNAPSHOT_MIN_BYTES": str(1 << 20)}
"""The log is cut many times in a run."""
CHURNS = 10
LEAD_SECONDS = 1.5
"""From the last user's coming in to the first update."""
END_SECONDS = shapes.SETTLE_SECONDS + 30
INJECTIONS = ("lag", "loss", "busy")
STOPPED, RUNNING = 2.5, 0.7
"""Seconds that a node which lags stands still, and moves."""


class LoadTest:
    """One run, from the first process to the verdict."""

    def __init__(self, directory: Path, options: argparse.Namespace) -> None:
        self.options = options
        self._directory = directory
        self._cluster = Cluster(
            directory,
            [SPEC, NOTES_SPEC],
            coordinators=options.coordinators,
            nodes=options.nodes,
            front=True,
            settings=SETTINGS | (SOAKED if options.shape == "soak" else {}),
        )
        self._result = directory / "result.json"
        self._processes: dict[str, Process] = {}
        self._growth = Growth()

    async def run(self) -> Outcome:
        """Do all of it, in five steps."""
        async with self._running():
            say(f"a cluster of {self.options.nodes} nodes and {self.options.coordinators} coordinators")
            await self._cluster.start()
            await self._fill()
            options = self.options
            say(f"{options.shape}: at most {options.peak} users, {options.rate:g} updates/s for {options.seconds:g} s")
            plan = await self._start_load()
            async with asyncio.TaskGroup() as group:
                if self.options.inject == "lag":
                    group.create_task(self._stall("node-1", plan))
                if self.options.shape == "rolling":
                    group.create_task(self._restart_all(plan))
                if self.options.shape == "soak":
                    group.create_task(self._growth.watch(self._sizes, plan.start, plan.seconds))
                    group.create_task(self._churn(plan))
                await self._processes["master"].ended(plan.end - time.time() + END_SECONDS)
                await self._processes["pacer"].ended(5)
            run = Run(
                result=json.loads(self._result.read_text()),
                pacer=self._pacer_books(),
                expected_updates=plan.count,
                users=shapes.Plan.of_options(self.options).users_in(shapes.STEPS[self.options.shape] - 1),
                shape=self.options.shape,
                limits=self.options.limits.times(PATIENCE),
                expects_losses=self.options.shape in RESTARTING or self.options.inject == "lag",
                differences=await self._differences(),
                grown=list(self._growth.grown().values()),
            )
        decided, text = report(run, plan.seconds)
        print(*filter(None, (str(self._growth), text)), sep="\n", flush=True)
        if self.options.keep:
            self.options.keep.parent.mkdir(parents=True, exist_ok=True)
            self.options.keep.write_text(json.dumps(run.result | {"pacer": run.pacer.to_json(), "outcome": decided.name}))
        return decided

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        try:
            yield
        except BaseException:
            print(self._cluster.logs(), *(process.tail() for process in self._processes.values()), sep="\n", file=sys.stderr)
            raise
        finally:
            for process in self._processes.values():
                process.destroy()
            await self._cluster.close()

    async def _fill(self) -> None:
        self._start("fill", [*self._pacer(), "--fill", "--start=1", *load_options.size(self.options)])
        assert await self._processes["fill"].ended(30) == 0, self._processes["fill"].tail()
        await self._cluster.at_rest(60)

    def _pacer(self) -> list[str]:
        return [*python_module("loadtests.pacer"), "--redis", self._cluster.server.url, "--prefix", PREFIX]

    async def _start_load(self) -> Schedule:
        """Start the publisher and Locust; return what they agreed upon once they did."""
        options, port = self.options, choose_ports({"locust": 0})["locust"]
        announced = self._directory / "schedule.json"
        locust = [*python_module("locust"), "-f", str(ROOT / "loadtests" / "locustfile.py"), "--loglevel", "WARNING"]
        master = ["--headless", "--master", "--master-bind-host", HOST, "--master-bind-port", str(port), "--only-summary"]
        master += ["--expect-workers", str(options.workers), "--host", self._cluster.url("front", "")]
        master += load_options.passed_on(options)
        master += [f"--lead={LEAD_SECONDS * PATIENCE}", "--announce", str(announced), "--result", str(self._result)]
        lose = max(1, round(options.rate * options.seconds / 2)) if options.inject == "loss" else 0
        self._start("pacer", [*self._pacer(), "--announced", str(announced), "--lose", str(lose)])
        self._start("master", [*locust, *master, *["--busy"] * (options.inject == "busy")])
        for number in range(1, options.workers + 1):
            self._start(f"worker-{number}", [*locust, "--worker", "--master-host", HOST, "--master-port", str(port)])

        async def is_announced() -> bool:
            assert self._processes["master"].pid
            return announced.exists()

        await until(is_announced, 60, "Locust's processes know each other")
        return Schedule(**json.loads(announced.read_text()))

    def _start(self, name: str, argv: Sequence[str]) -> None:
        process = Process(name, argv, self._directory, {"PYTHONPATH": str(ROOT)})
        self._processes[name] = process
        process.start()

    def _pacer_books(self) -> Books:
        return read_pacer(self._processes["pacer"].log.read_text())

    async def _stall(self, name: str, plan: Schedule) -> None:
        """Stop a node again and again, as something that hogs its machine would."""
        node = self._cluster[name]
        await asyncio.sleep(plan.start - time.time())
        while time.time() < plan.end:
            node.pause()
            try:
                await asyncio.sleep(STOPPED * PATIENCE)
            finally:
                node.resume()
            await asyncio.sleep(RUNNING)

    async def _restart_all(self, plan: Schedule) -> None:
        """Restart one node after the other, as a rollout does: the next when the one before is ready."""
        await asyncio.sleep(plan.start + min(3.0, plan.seconds / 10) - time.time())
        for name in [name for name in self._cluster.running if name.startswith("node-")]:
            started = time.monotonic()
            await self._cluster[name].terminate()
            await self._cluster.restart(name)
            say(f"restarted {name} in {time.monotonic() - started:.1f} s")

    async def _differences(self) -> list[str]:
        """Return what differs between replicas, by their digests at one position."""
        try:
            await self._cluster.converged(20)
        except AssertionError as error:
            return str(error).splitlines()[:10]
        return []

    async def _churn(self, plan: Schedule) -> None:
        """Restart the last node again and again."""
        name = f"node-{self.options.nodes}"
        for number in range(1, CHURNS + 1):
            await asyncio.sleep(max(0.0, plan.start + number * plan.seconds / (CHURNS + 1) - time.time()))
            await self._cluster[name].terminate(20)
            await self._cluster.restart(name)
            say(f"{number} of {CHURNS} restarts; {max(0.0, plan.end - time.time()):,.0f} s to go")

    async def _sizes(self) -> dict[str, int]:
        """Return the resident memory of everything that runs all the while, and the size of the log."""
        cluster = self._cluster
        processes = {name: cluster[name].pid for name in cluster.running if name != f"node-{self.options.nodes}"}
        memory = await cluster.redis.info("memory")
        log = await cluster.redis.memory_usage(TableKeys(PREFIX, TABLE).log)
        return {name: Meter(pid).rss_bytes() for name, pid in processes.items()} | {
            "Redis": int(memory["used_memory"]),
            "the log": int(log or 0),
        }


def say(words: str) -> None:
    """Tell how far it is."""
    print(f"load: {words}", flush=True)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options; ends the process with code 2 if they make no sense."""
    parser = argparse.ArgumentParser(
        "python -m loadtests.load", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    load_options.add_options(parser)
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--coordinators", type=int, default=2)
    parser.add_argument("--workers", type=int, default=1, help="processes that generate the load")
    parser.add_argument(
        "--inject", choices=INJECTIONS, help="a fault that the run must not survive: a test of the load test"
    )
    parser.add_argument("--keep", type=Path, help="a file for all that was measured, as JSON")
    options = load_options.checked(parser, arguments)
    if min(options.nodes, options.coordinators, options.workers) < 1:
        parser.error("--nodes, --coordinators and --workers must be at least 1")
    if options.shape == "soak" and options.nodes < 2:
        parser.error("--shape soak restarts one node after the other: --nodes must be at least 2")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a load test, and return its exit code."""
    options = parsed(arguments)
    with tempfile.TemporaryDirectory(prefix="parallax-load-") as place:
        return int(asyncio.run(LoadTest(Path(place), options).run()))


if __name__ == "__main__":
    sys.exit(main())

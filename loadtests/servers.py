"""The servers of the viewers' benchmarks, started and ended here, and the processes of viewers that look at them."""

import asyncio
import json
import pickle
import resource
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tornado.httpclient import AsyncHTTPClient

from loadtests import market
from loadtests.plan import PATIENCE, Plan
from parallax.demo.ports import choose_ports
from parallax.replication.spec import TableSpec
from parallax.tasks import Tasks
from tests.cluster import Cluster
from tests.processes import HOST, LEASH, ROOT, Process, python_module, until

SPECS = [TableSpec.declare(name, {"schema": market.TYPES, "index": "id"}) for name in market.SIZES]
RATE = 10.0
"""Ticks a second."""
TAIL_SECONDS = 1.0
"""How much longer than the window the ticks go on."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server that viewers can look at."""

    name: str
    port: int
    pid: int
    tick: Callable[[str, float, float], Awaitable[None]]
    """Start ticks of a table: rate, seconds. Returns at once."""


class Fleet:
    """A real node with all that is behind it: Redis and a coordinator."""

    def __init__(self, directory: Path, specs: list[TableSpec] | None = None) -> None:
        settings = {"FRAME_MS": "50", "LOG_LEVEL": "warning", "MAX_REQUESTS_PER_SECOND": "1000000"}  # `alone` asks in a loop
        self.cluster = Cluster(directory, specs or SPECS, nodes=1, coordinators=1, settings=settings)
        self._tasks = Tasks()

    async def start(self) -> None:
        """Start it all."""
        await self.cluster.start()

    async def fill(self) -> None:
        """Load the tables."""
        for name in market.SIZES:
            await self.cluster.publish(name, op="replace", format="arrow", data=market.rows(name))
        await self.cluster.at_rest()

    async def close(self) -> None:
        """End it all."""
        await self._tasks.close()
        await self.cluster.close()

    async def fresh_node(self) -> None:
        """Start the node anew: nothing that was measured before weighs on what comes."""
        await self.stop_ticks()
        await self.cluster["node-1"].kill()
        await self.cluster.restart("node-1")
        await self.cluster.at_rest()

    async def stop_ticks(self) -> None:
        """Let no ticks go on."""
        await self._tasks.close()

    async def settle(self) -> None:
        """Wait until the node has nothing left to do for those who looked at it."""
        await self.stop_ticks()

        async def is_left() -> bool:
            return (await self.cluster.status("node-1"))["sessions"] == 0

        await until(is_left, 60, "all viewers are gone")
        await self.cluster.at_rest(60)

    @property
    def node(self) -> Server:
        """The node."""
        return Server("ours", self.cluster.ports["node-1"], self.cluster["node-1"].pid, self.tick)

    async def tick(self, table: str, rate: float, seconds: float) -> None:
        """Publish ticks to ingest, each at its instant."""
        due = market.ticks(table, rate, seconds, time.time() + 0.2)

        async def publish() -> None:
            for instant, data in due:
                await asyncio.sleep(max(0.0, instant - time.time()))
                await self.cluster.publish(table, format="arrow", data=data)

        self._tasks.start(publish(), name="ticks")


@asynccontextmanager
async def rival(
    kind: str, directory: Path, table: str = "market", threads: int = 0, module: str = "loadtests.rivals"
) -> AsyncIterator[Server]:
    """Run a server of `loadtests.rivals`, or of another module that takes the same arguments, for a while."""
    port = choose_ports({kind: 0})[kind]
    argv = [*python_module(module), kind, str(port), table, "--threads", str(threads)]
    process = Process(kind, argv, directory, {"PYTHONPATH": str(ROOT)})
    process.start()

    async def answers() -> bool:
        assert process.pid
        await asyncio.open_connection(HOST, port)
        return True

    async def tick(table: str, rate: float, seconds: float) -> None:
        await AsyncHTTPClient().fetch(f"http://{HOST}:{port}/ticks?rate={rate}&seconds={seconds}", request_timeout=30)

    try:
        await until(answers, 30, f"{kind} listens")
        yield Server(kind, port, process.pid, tick)
    finally:
        process.destroy()


@asynccontextmanager
async def viewers(plan: Plan) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a process of viewers for a while."""
    process = await asyncio.create_subprocess_exec(
        *LEASH,
        *(sys.executable, "-m", "loadtests.viewers"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
        limit=1 << 24,
    )
    assert process.stdin is not None
    try:
        process.stdin.write(pickle.dumps(plan).hex().encode() + b"\n")
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def hear(process: asyncio.subprocess.Process, seconds: float) -> dict[str, Any]:
    """Return what a process of viewers says next; that it is late counts as a failure."""
    assert process.stdout is not None
    try:
        async with asyncio.timeout(seconds):
            line = await process.stdout.readline()
    except TimeoutError:
        return {"failed": f"no figures within {seconds:g} s"}
    said: dict[str, Any] = json.loads(line) if line else {"failed": "the viewers ended early"}
    return said


async def measure(server: Server, plan: Plan, rate: float = RATE) -> dict[str, Any]:
    """Have viewers look at a server for the plan's window, with ticks (unless `rate` is 0), and return their figures."""
    async with viewers(plan) as process:
        if plan.does != "time requests":
            found = await hear(process, plan.setup_seconds + 10)
            if "failed" in found:
                return found
            if rate:
                await server.tick(plan.table, rate, plan.warm_seconds + PATIENCE * plan.seconds + TAIL_SECONDS)
            assert process.stdin is not None
            process.stdin.write(b"go\n")
        return await hear(process, plan.warm_seconds + PATIENCE * plan.seconds + 20)


def raise_limits() -> None:
    """Let this process and its children open as many files as the system allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

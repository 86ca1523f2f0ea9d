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

from prometheus_client.parser import text_string_to_metric_families
from tornado.httpclient import AsyncHTTPClient

from loadtests import market
from loadtests.plan import PATIENCE, Plan
from loadtests.ticker import Ticks
from parallax.demo.ports import choose_ports
from parallax.replication.keys import TableKeys
from parallax.replication.spec import TableSpec
from tests.cluster import PREFIX, Cluster
from tests.processes import HOST, LEASH, ROOT, Process, python_module, until

SPECS = [TableSpec.declare(name, {"schema": market.TYPES, "index": "id"}) for name in market.SIZES]
RATE = 10.0
"""Ticks a second."""
LEFT_BEHIND = {"parallax_node_sessions", "parallax_node_engine_views"}
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

    def __init__(self, directory: Path, specs: list[TableSpec] | None = None, nodes: int = 1) -> None:
        settings = {
            "FRAME_MS": "50",
            "LINGER_SECONDS": "0.5",
            "LOG_LEVEL": "warning",
            "MAX_REQUESTS_PER_SECOND": "1000000",  # `alone` asks in a loop
        }
        self.cluster = Cluster(directory, specs or SPECS, nodes=nodes, coordinators=1, settings=settings)
        self._ticker: asyncio.subprocess.Process | None = None
        self.lateness: dict[str, Any] = {}
        """What the publisher said of itself when it ended."""
        self.entry_bytes = 0
        """The size of the entries that it publishes."""

    async def start(self) -> None:
        """Start it all."""
        await self.cluster.start()

    async def fill(self) -> None:
        """Load the tables."""
        for name in [spec.name for spec in self.cluster.specs if spec.name in market.SIZES]:
            await self.cluster.publish(name, op="replace", format="arrow", data=market.rows(name))
        await self.cluster.at_rest()

    async def close(self) -> None:
        """End it all."""
        await self.stop_ticks()
        await self.cluster.close()

    async def fresh_node(self) -> None:
        """Start the node anew: nothing that was measured before weighs on what comes."""
        await self.stop_ticks()
        await self.cluster["node-1"].kill()
        await self.cluster.restart("node-1")
        await self.cluster.at_rest()

    async def stop_ticks(self) -> None:
        """Let no ticks go on."""
        ticker, self._ticker = self._ticker, None
        if ticker is not None and ticker.stdin is not None:
            ticker.stdin.close()
            self.lateness = await hear(ticker, 5)
            with suppress(ProcessLookupError):
                ticker.kill()
            await ticker.wait()

    async def settle(self) -> None:
        """Wait until the node has nothing left to do for those who looked at it."""
        await self.stop_ticks()

        async def is_left() -> bool:
            return not any([await self.views(name) for name in self.node_names])

        await until(is_left, 60, "all viewers, and the engine's views, are gone")
        await self.cluster.at_rest(60)

    async def views(self, name: str) -> float:
        """Return how many viewers a node has, and views its engine: those that linger would be charged to whoever comes next."""
        _, body = await self.cluster.fetch(self.cluster.url(name, "/metrics", internal=True))
        families = text_string_to_metric_families(body.decode())
        return sum(sample.value for family in families for sample in family.samples if family.name in LEFT_BEHIND)

    async def subscribed(self, table: str, more: int) -> None:
        """Wait until so many more read a table's feed than nodes and coordinators do."""
        channel = TableKeys(PREFIX, table).feed

        async def is_there() -> bool:
            (_, count), *_ = await self.cluster.redis.pubsub_numsub(channel)
            return bool(count >= more + len(self.cluster.running))

        await until(is_there, 20, f"{more} more subscribers")

    @property
    def node_names(self) -> list[str]:
        """The names of the nodes that run."""
        return [name for name in self.cluster.running if name.startswith("node-")]

    @property
    def nodes(self) -> list[Server]:
        """The nodes."""
        return [Server("ours", self.cluster.ports[name], self.cluster[name].pid, self.tick) for name in self.node_names]

    @property
    def node(self) -> Server:
        """The first node."""
        return self.nodes[0]

    async def tick(self, table: str, rate: float, seconds: float, rows: int = market.TICK_ROWS) -> None:
        """Publish ticks to ingest, each at its instant, from a process of its own; return at the first one."""
        await self.stop_ticks()
        ticks = Ticks(self.cluster.server.url, TableKeys(PREFIX, table).ingest, table, rate, seconds, rows)
        self._ticker = await start_generator("loadtests.ticker", ticks)
        said = await hear(self._ticker, 60)
        self.entry_bytes = said["bytes"]
        await asyncio.sleep(max(0.0, said["start"] - time.time()))


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
        _, writer = await asyncio.open_connection(HOST, port)
        writer.close()
        return True

    async def tick(table: str, rate: float, seconds: float) -> None:
        await AsyncHTTPClient().fetch(f"http://{HOST}:{port}/ticks?rate={rate}&seconds={seconds}", request_timeout=30)

    try:
        await until(answers, 30, f"{kind} listens")
        yield Server(kind, port, process.pid, tick)
    finally:
        process.destroy()


async def start_generator(module: str, plan: Any) -> asyncio.subprocess.Process:
    """Start a process of the load generator, and hand it its plan."""
    process = await asyncio.create_subprocess_exec(
        *LEASH,
        *(sys.executable, "-m", module),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
        limit=1 << 24,
    )
    assert process.stdin is not None
    process.stdin.write(pickle.dumps(plan).hex().encode() + b"\n")
    return process


@asynccontextmanager
async def viewers(plan: Plan) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a process of viewers for a while."""
    process = await start_generator("loadtests.viewers", plan)
    try:
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

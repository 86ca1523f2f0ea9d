"""What bad viewers do to good ones on the same node, and to its memory.

    python -m loadtests.bench_viewers bad [--seconds 5]

20 viewers of one sorted view are refreshed 10 times a second, first by themselves, then beside

  stalled    a viewer who asks for a whole table 200 times and never reads an answer
  idle       5,000 connections that say nothing
  export     a viewer who takes 100 MB of Arrow at 1 MB a second

and by themselves again. Their latencies are reported for each, and the node's memory twice a second.
"""

import asyncio
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa

from loadtests import market, protocol
from loadtests.meter import Meter
from loadtests.plan import Plan
from loadtests.requests import record
from loadtests.servers import SPECS, Fleet, measure
from loadtests.viewers import FIRST_ID, Wire
from parallax.replication.spec import TableSpec
from parallax.tasks import Tasks
from tests.processes import HOST

VIEWERS = 20
IDLE_SOCKETS = 5_000
CONNECTING = 64
STALLED_REQUESTS = 200
SLOW_BYTES = 100_000
"""What a slow line takes in a tenth of a second."""
LOT_ROWS, LOTS, NUMBERS = 50_000, 20, 12
BIG_SCHEMA = pa.schema({"id": pa.int64()} | {f"n{number}": pa.float64() for number in range(NUMBERS)})
BIG = TableSpec.declare(
    "big", {"schema": {"id": "int64"} | {f"n{number}": "float" for number in range(NUMBERS)}, "index": "id"}
)
"""A million rows of 104 bytes."""

Bad = Callable[[int], AbstractAsyncContextManager[dict[str, Any]]]


async def fill_big(fleet: Fleet) -> None:
    """Publish the big table."""
    for lot in range(LOTS):
        ids = range(lot * LOT_ROWS, (lot + 1) * LOT_ROWS)
        columns = [pa.array(ids, pa.int64()), *[pa.array([key * 0.5 for key in ids], pa.float64())] * NUMBERS]
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, BIG_SCHEMA) as writer:
            writer.write_batch(pa.record_batch(columns, schema=BIG_SCHEMA))
        await fleet.cluster.publish("big", format="arrow", data=bytes(sink.getvalue()))
    await fleet.cluster.at_rest(120)


@asynccontextmanager
async def line(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Open a websocket whose receiving side buffers little."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, (HOST, port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=1 << 16)
    try:
        writer.write(protocol.handshake(HOST, port))
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
        yield reader, writer
    finally:
        writer.transport.abort()


def ask_whole(writer: asyncio.StreamWriter, table: str, schema: pa.Schema, times: int) -> None:
    """Make a view of a table and ask for all of it, again and again, without waiting for anything."""
    dialogue = record(schema)
    view_id = f"bad{time.monotonic_ns()}"
    writer.write(protocol.masked(protocol.request(FIRST_ID, table, protocol.make_view(view_id, dialogue.config))))
    for number in range(1, times + 1):
        writer.write(protocol.masked(protocol.request(FIRST_ID + number, view_id, dialogue.kinds["whole"])))


@asynccontextmanager
async def nobody(port: int) -> AsyncIterator[dict[str, Any]]:
    """Nobody else."""
    yield {}


@asynccontextmanager
async def stalled(port: int) -> AsyncIterator[dict[str, Any]]:
    """Someone who asks and never reads."""
    async with line(port) as (_, writer):
        writer.transport.pause_reading()
        ask_whole(writer, "market", market.SCHEMA, STALLED_REQUESTS)
        yield {}


@asynccontextmanager
async def idle(port: int) -> AsyncIterator[dict[str, Any]]:
    """Many who say nothing."""
    loop, slots, wires = asyncio.get_running_loop(), asyncio.Semaphore(CONNECTING), []
    hello = protocol.handshake(HOST, port)

    async def connect() -> None:
        async with slots:
            _, wire = await loop.create_connection(lambda: Wire(hello), HOST, port)
            wires.append(wire)
            await wire.opened

    found = {"sockets": IDLE_SOCKETS}
    try:
        await asyncio.gather(*[connect() for _ in range(IDLE_SOCKETS)])
        yield found
        found["closed_by_the_node"] = sum(wire.closed is not None for wire in wires)
    finally:
        for wire in wires:
            wire.transport.abort()


@asynccontextmanager
async def export(port: int) -> AsyncIterator[dict[str, Any]]:
    """Someone who takes much over a slow line."""
    found = {"bytes": 0}
    async with line(port) as (reader, writer), Tasks() as tasks:
        ask_whole(writer, "big", BIG_SCHEMA, 1)

        async def read() -> None:
            while data := await reader.read(SLOW_BYTES):
                found["bytes"] += len(data)
                await asyncio.sleep(len(data) / SLOW_BYTES / 10)

        tasks.start(read(), name="slow line")
        yield found


async def run(seconds: float) -> dict[str, Any]:
    """Run it all, print and return what was found."""
    with tempfile.TemporaryDirectory(prefix="parallax-bench-") as directory:
        fleet = Fleet(Path(directory), [*SPECS, BIG])
        async with Tasks() as tasks:
            try:
                await fleet.start()
                await fleet.fill()
                await fill_big(fleet)
                return await _phases(fleet, seconds, tasks)
            finally:
                await fleet.close()


async def _phases(fleet: Fleet, seconds: float, tasks: Tasks) -> dict[str, Any]:
    node = fleet.node
    memory: list[tuple[float, int]] = []
    started = time.monotonic()

    async def sample() -> None:
        meter = Meter(node.pid)
        with suppress(FileNotFoundError):
            while True:
                memory.append((round(time.monotonic() - started, 1), meter.rss_bytes() >> 20))
                await asyncio.sleep(0.5)

    tasks.start(sample(), name="memory")
    dialogue = record(market.SCHEMA, sort=[["price", "desc"]])
    plan = Plan(HOST, node.port, node.pid, "market", VIEWERS, [dialogue], seconds=seconds)
    found: dict[str, Any] = {}
    phases: list[tuple[str, Bad]] = [("alone", nobody), ("stalled", stalled), ("idle", idle), ("export", export)]
    for name, bad in [*phases, ("alone again", nobody)]:
        first = len(memory)
        async with bad(node.port) as about:
            point = await measure(node, plan)
        await fleet.stop_ticks()
        rss = [size for _, size in memory[first:]]
        keys = ("rate", "latency_p50", "latency_p99", "errors", "failed")
        found[name] = {key: point[key] for key in keys if key in point} | about | {"rss_mib_peak": max(rss, default=None)}
        print(f"{name}: {found[name]}\n  node's memory, MiB, twice a second: {' '.join(map(str, rss))}", flush=True)
    return found | {"memory": memory}

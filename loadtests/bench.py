"""`make bench`: the first figures of the whole path, each beside the raw engine in the same run.

    python -m loadtests.bench [--rounds 3] [--nodes 1 3]

Rows a second: one publisher writes batches of 1, 100 and 10,000 rows to ingest; the clock stops when all nodes hold the last row.
Each node and coordinator applies every row to an engine of its own: with one of each, two processors are just enough. The rival is `Table.update` of a stock Perspective server with the very same Arrow bytes, in a process of its own.
Single rows: one publisher writes 5,000 entries of one row a second; what a node's processor spends on them stands beside what an
`update` for each costs a stock server.
Latency: one row is written while all is idle; the clock stops when a Perspective client on a node has fetched it.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import perspective
import pyarrow as pa

from parallax.replication.spec import TableSpec
from tests.cluster import Cluster
from tests.processes import until

SPEC = TableSpec.declare(
    "bench",
    {"schema": {"id": "int64", "symbol": "string", "price": "float", "size": "integer", "at": "datetime"}, "index": "id"},
)
KEYS = 100_000
"""Rows that the table holds; every update hits rows that are there."""
CASES = {1: 6_000, 100: 200_000, 10_000: 4_000_000}
"""Batch size: rows published in one measurement."""


def batches(size: int, rows: int) -> list[bytes]:
    """Return encoded updates of `size` rows, `rows` in all; keys go round the table."""
    made: list[bytes] = []
    for start in range(0, rows, size):
        ids = [(start + number) % KEYS for number in range(size)]
        made.append(encode(ids, start))
    return made


def encode(ids: Sequence[int], mark: int) -> bytes:
    """Return one update as an Arrow IPC stream."""
    table = pa.table(
        {
            "id": pa.array(ids, pa.int64()),
            "symbol": pa.array([f"S{key % 500}" for key in ids]),
            "price": pa.array([key * 0.25 + mark for key in ids], pa.float64()),
            "size": pa.array([(key + mark) % 1000 for key in ids], pa.int32()),
            "at": pa.array([1_700_000_000_000 + mark + key for key in ids], pa.timestamp("ms")),
        }
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def raw_engine(size: int, rows: int) -> float:
    """Return the rows a second of `Table.update` of a stock server, in this process."""
    server = perspective.Server()
    client = server.new_local_client()
    table = client.table(encode(range(KEYS), 0), name="bench", index="id")
    updates = batches(size, rows)
    started = time.perf_counter()
    for update in updates:
        table.update(update)
    table.size()
    return rows / (time.perf_counter() - started)


async def whole_path(cluster: Cluster, size: int, rows: int) -> float:
    """Return the rows a second from the first XADD until every node holds the last record."""
    updates = batches(size, rows)
    window = max(1, 2_000_000 // len(updates[0]))  # what one round trip carries: about 2 MB
    before = (await cluster.status(await cluster.leader()))["sequencing"]["bench"]["rows"]
    started = time.perf_counter()
    for first in range(0, len(updates), window):
        async with cluster.redis.pipeline(transaction=False) as pipe:
            for update in updates[first : first + window]:
                pipe.xadd("parallax:{bench}:in", {"op": "update", "format": "arrow", "data": update})
            await pipe.execute()
    leader = await cluster.leader()

    async def is_sequenced() -> bool:
        return bool((await cluster.status(leader))["sequencing"]["bench"]["rows"] - before >= rows)

    await until(is_sequenced, 120, "all rows are sequenced")
    top = await cluster.top("bench")

    async def is_everywhere() -> bool:
        nodes = [name for name in cluster.running if name.startswith("node")]
        return all([(await cluster.status(name))["tables"]["bench"]["position"] == top for name in nodes])

    await until(is_everywhere, 120, "all nodes are at the top")
    return rows / (time.perf_counter() - started)


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def single_rows(cluster: Cluster, per_second: int, seconds: int) -> float:
    """Publish one row an entry at a steady rate, and return the milliseconds of a node's processor for each 1,000 of them."""
    pid = cluster["node-1"].pid
    before, started = cpu_seconds(pid), time.perf_counter()
    for lot in range(seconds * 50):
        await asyncio.sleep(max(0.0, started + lot / 50 - time.perf_counter()))
        async with cluster.redis.pipeline(transaction=False) as pipe:
            for number in range(per_second // 50):
                row = {"id": (lot * 7 + number) % KEYS, "size": number}
                pipe.xadd("parallax:{bench}:in", {"op": "update", "format": "json", "data": json.dumps([row])})
            await pipe.execute()
    await cluster.at_rest()
    return (cpu_seconds(pid) - before) / (per_second * seconds) * 1e6


def raw_single_rows(count: int) -> float:
    """Return the milliseconds of processor that a stock server needs for 1,000 updates of one row."""
    table = perspective.Server().new_local_client().table(encode(range(KEYS), 0), name="bench", index="id")
    started = time.process_time()
    for number in range(count):
        table.update([{"id": number % KEYS, "size": number % 1000}])
    return (time.process_time() - started) / count * 1e6


async def latencies(cluster: Cluster, count: int) -> list[float]:
    """Return milliseconds from XADD until a client that was notified has read the row, one at a time, idle between."""
    found: list[float] = []
    async with cluster.viewer("node-1") as client:
        table = await client.open_table("bench")
        view = await table.view(columns=["id", "size"], filter=[["id", "==", 7]])
        arrived: asyncio.Queue[None] = asyncio.Queue()

        def on_update(*_: object) -> None:
            arrived.put_nowait(None)

        await view.on_update(on_update)
        for number in range(count):
            await asyncio.sleep(0.15)
            started = time.perf_counter()
            await cluster.publish("bench", format="arrow", data=encode([7], 100_000 + number))
            await arrived.get()
            rows = await view.to_columns()
            assert rows["size"] == [(7 + 100_000 + number) % 1000]
            found.append((time.perf_counter() - started) * 1000)
        await view.delete()
    return found


async def measure(rounds: int, nodes: int) -> dict[str, object]:
    """Run everything, the two rivals in turn, and return the medians."""
    results: dict[str, object] = {}
    with tempfile.TemporaryDirectory(prefix="parallax-bench-") as directory:
        cluster = Cluster(
            Path(directory),
            [SPEC],
            nodes=nodes,
            coordinators=min(nodes, 2),
            settings={"FRAME_MS": "50", "LOG_LEVEL": "warning"},
        )
        try:
            await cluster.start()
            await cluster.publish("bench", op="replace", format="arrow", data=encode(range(KEYS), 0))
            context = multiprocessing.get_context("spawn")
            for size, rows in CASES.items():
                path, raw = [], []
                await whole_path(cluster, size, rows // 4)  # the first touch of memory is not what is measured
                for _ in range(rounds):
                    path.append(await whole_path(cluster, size, rows))
                    with context.Pool(1) as pool:
                        raw.append(await asyncio.to_thread(pool.apply, raw_engine, (size, rows)))
                ratio = statistics.median(mine / theirs for mine, theirs in zip(path, raw, strict=True))
                results[f"batches of {size}"] = {
                    "path_rows_per_second": round(statistics.median(path)),
                    "raw_engine_rows_per_second": round(statistics.median(raw)),
                    "ratio": round(ratio, 3),
                }
                print(f"batches of {size:>6}: {json.dumps(results[f'batches of {size}'])}", flush=True)
            path, raw = [], []
            for _ in range(rounds):
                path.append(await single_rows(cluster, 5000, 3))
                with context.Pool(1) as pool:
                    raw.append(await asyncio.to_thread(pool.apply, raw_single_rows, (3000,)))
            ratio = statistics.median(theirs / mine for mine, theirs in zip(path, raw, strict=True))
            results["5,000 single rows a second"] = {
                "node_cpu_ms_per_1000": round(statistics.median(path), 1),
                "raw_engine_cpu_ms_per_1000": round(statistics.median(raw), 1),
                "times_cheaper": round(ratio, 1),
            }
            print(f"single rows, 5,000/s: {json.dumps(results['5,000 single rows a second'])}", flush=True)
            delays = sorted(await latencies(cluster, 60))
            results["idle_latency_ms"] = {"median": round(statistics.median(delays), 1), "worst": round(delays[-1], 1)}
            print(f"publish to visible, idle: {json.dumps(results['idle_latency_ms'])}", flush=True)
        finally:
            await cluster.close()
    return results


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="how often each case is measured; the median counts")
    parser.add_argument(
        "--nodes",
        type=int,
        nargs="+",
        default=[1, 3],
        help="nodes to keep equal, a run for each; with 1 there is no standby",
    )
    arguments = parser.parse_args()
    for nodes in arguments.nodes:
        print(f"{nodes} nodes, {min(nodes, 2)} coordinators", flush=True)
        asyncio.run(measure(arguments.rounds, nodes))


if __name__ == "__main__":
    main()

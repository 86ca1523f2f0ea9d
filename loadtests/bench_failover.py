"""How long what is missed when something dies: real processes, the default lease of 3 s.

    python -m loadtests.bench_failover [--rounds 5]

Sequencing: one row is published every 10 ms. The longest time between two records on the feed, around the death of the leader, is
how long nobody sequenced.
Viewers: a client on node-2 hears of a table that changes twenty times a second; its longest silence while others die.
Joining: a node starts beside a table that takes 5,000 rows a second. One clock runs from its start until its table is LIVE, another
from when it first answers: Python and its modules are loaded. The rival is a process that imports the engine and loads the same
Arrow; its clocks are the same.
"""

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from redis.asyncio import Redis

from loadtests.bench import SPEC, encode
from parallax.replication.keys import TableKeys
from parallax.replication.record import Heartbeat, decode_message
from parallax.replication.snapshot import Manifest
from parallax.store import STORE_ERRORS
from parallax.tasks import Tasks
from tests.cluster import PREFIX, Cluster
from tests.processes import HOST, until

KEYS = TableKeys(PREFIX, SPEC.name)
LEASE = {"LEASE_TTL_SECONDS": "3", "GUARD": "true", "VERIFY_SECONDS": "0"}
JOIN_SIZES = (100_000, 1_000_000)
RAW_LOAD = """
import sys, time
import perspective
started = time.perf_counter()
table = perspective.Server().new_local_client().table(open(sys.argv[1], "rb").read(), name="t", index="id")
assert table.size() == int(sys.argv[2])
print(time.perf_counter() - started)
"""


async def publish_rows(cluster: Cluster, per_second: float, rows: int) -> None:
    """Publish updates of `rows` rows each until cancelled, whatever becomes of Redis meanwhile."""
    mark = 0
    while True:
        mark += 1
        ids = [(mark * rows + number) % 100_000 for number in range(rows)]
        try:
            await cluster.publish(SPEC.name, op="update", format="arrow", data=encode(ids, mark))
        except STORE_ERRORS:
            await asyncio.sleep(0.05)
        await asyncio.sleep(1 / per_second)


class Gaps:
    """When something was heard, and the longest silence since `begin`."""

    def __init__(self) -> None:
        self._heard: list[float] = []

    def hear(self) -> None:
        """Take note of now."""
        self._heard.append(time.perf_counter())

    def begin(self) -> None:
        """Forget what was before, but for the last."""
        self._heard = self._heard[-1:]

    @property
    def longest_ms(self) -> float:
        """The longest silence."""
        return max(1000 * (later - earlier) for earlier, later in zip(self._heard, self._heard[1:], strict=False))


@asynccontextmanager
async def records(cluster: Cluster) -> AsyncIterator[Gaps]:
    """Hear of each record on the feed."""
    gaps = Gaps()
    redis = Redis(host=HOST, port=cluster.server.port)

    async def listen() -> None:
        while True:
            try:
                async with redis.pubsub() as pubsub:
                    await pubsub.subscribe(KEYS.feed)
                    async for message in pubsub.listen():
                        if message["type"] == "message" and not isinstance(decode_message(message["data"]), Heartbeat):
                            gaps.hear()
            except STORE_ERRORS:
                await asyncio.sleep(0.02)

    async with Tasks() as tasks:
        tasks.start(listen(), name="feed")
        yield gaps
    await redis.aclose()


@asynccontextmanager
async def notifications(cluster: Cluster, node: str) -> AsyncIterator[Gaps]:
    """Hear of each notification of a view on a node."""
    gaps = Gaps()
    async with cluster.viewer(node) as client:
        view = await (await client.open_table(SPEC.name)).view(filter=[["id", "<", 50]])
        await view.on_update(lambda *_: gaps.hear())
        yield gaps


Ending = Callable[[Cluster], Awaitable[str]]


async def kill_leader(cluster: Cluster) -> str:
    """Kill -9 the leader."""
    name = await cluster.leader()
    await cluster[name].kill()
    return name


async def end_leader(cluster: Cluster) -> str:
    """End the leader by SIGTERM."""
    name = await cluster.leader()
    await cluster[name].terminate()
    return name


async def kill_node(cluster: Cluster) -> str:
    """Kill -9 another node than the viewer's."""
    await cluster["node-1"].kill()
    return "node-1"


async def restart_redis(cluster: Cluster) -> str:
    """Kill -9 Redis, and start it again with its append-only file."""
    await cluster.server.kill()
    cluster.server.start()
    await cluster.server.ready()
    return "redis"


SCENARIOS: dict[str, Ending] = {
    "leader, kill -9": kill_leader,
    "leader, SIGTERM": end_leader,
    "another node, kill -9": kill_node,
    "Redis, kill -9, and its restart": restart_redis,
}


async def suffer(cluster: Cluster, ending: Ending, rounds: int) -> dict[str, list[float]]:
    """Let something end again and again; return the longest silences (ms) of feed and viewer for each time."""
    found: dict[str, list[float]] = {"feed": [], "viewer": []}
    async with Tasks() as tasks:
        tasks.start(publish_rows(cluster, 100, 1), name="publisher")
        for _ in range(rounds):
            async with records(cluster) as feed, notifications(cluster, "node-2") as viewer:
                await asyncio.sleep(1)
                feed.begin()
                viewer.begin()
                name = await ending(cluster)
                await asyncio.sleep(6)
                found["feed"].append(feed.longest_ms)
                found["viewer"].append(viewer.longest_ms)
            if name != "redis":
                await cluster.restart(name)
            await cluster.leader()
    return found


async def join(cluster: Cluster) -> tuple[float, float]:
    """Return the seconds from a node's start, and from its first answer, until its table is LIVE and takes 5,000 rows a second."""

    async def answers() -> bool:
        return (await cluster.fetch(cluster.url("node-1", "/healthz", internal=True)))[0] == 200

    async def is_live() -> bool:
        return (await cluster.status("node-1"))["tables"].get(SPEC.name, {}).get("state") == "live"

    async with Tasks() as tasks:
        tasks.start(publish_rows(cluster, 50, 100), name="publisher")
        await asyncio.sleep(1)
        await cluster["node-1"].kill()
        started = time.perf_counter()
        cluster["node-1"].start()
        await until(answers, 60, "the node answers")
        answered = time.perf_counter()
        await until(is_live, 120, "the node is live")
        live = time.perf_counter()
        return live - started, live - answered


def raw_load(path: Path, rows: int) -> tuple[float, float]:
    """Return the seconds that a process needs to start and load the same Arrow, and for the loading alone."""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", RAW_LOAD, str(path), str(rows)], check=True, capture_output=True)
    return time.perf_counter() - started, float(done.stdout.split()[-1])


def said(values: Sequence[float], unit: str) -> str:
    """Return median and worst."""
    return f"median {statistics.median(values):8,.2f} {unit}, worst {max(values):8,.2f} {unit}"


async def main(rounds: int, directory: Path, only: str) -> None:
    """Measure everything and print it."""
    place = directory / "faults"
    place.mkdir()
    cluster = Cluster(place, [SPEC], coordinators=2, nodes=2, settings=LEASE)
    try:
        await cluster.start()
        await cluster.publish(SPEC.name, op="update", format="arrow", data=encode(range(100), 0))
        await cluster.at_rest()
        for name, ending in SCENARIOS.items():
            if only not in name:
                continue
            found = await suffer(cluster, ending, rounds)
            print(f"{name}: longest silence of the feed {said(found['feed'], 'ms')}", flush=True)
            print(f"{name}: longest silence of a viewer on node-2 {said(found['viewer'], 'ms')}", flush=True)
    finally:
        await cluster.close()
    for rows in JOIN_SIZES:
        place = directory / f"join-{rows}"
        place.mkdir()
        cluster = Cluster(place, [SPEC], coordinators=1, nodes=1, settings=LEASE)
        try:
            await cluster.start()
            for first in range(0, rows, 100_000):
                await cluster.publish(SPEC.name, op="update", format="arrow", data=encode(range(first, first + 100_000), 0))
            await cluster.at_rest(120)

            async def has_snapshot() -> bool:
                body = await cluster.redis.hget(KEYS.manifest, "body")  # noqa: B023
                return bool(body) and Manifest.decode(body).rows >= rows  # noqa: B023

            await cluster.redis.set(KEYS.want, "1", ex=60)
            await until(has_snapshot, 60, "there is a snapshot of all rows")
            arrow = place / "rows.arrow"
            arrow.write_bytes(encode(range(rows), 0))
            ours, raw = [], []
            for _ in range(rounds):
                ours.append(await join(cluster))
                raw.append(raw_load(arrow, rows))
            for clock, name in enumerate(("from its start", "from its first answer")):
                mine, others = [pair[clock] for pair in ours], [pair[clock] for pair in raw]
                ratio = statistics.median([one / other for one, other in zip(mine, others, strict=True)])
                print(f"join, {rows:,} rows, {name}: {said(mine, 's')}; raw engine {said(others, 's')}; ratio {ratio:.2f}")
        finally:
            await cluster.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="of the scenarios, those whose names have this in them")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="parallax-bench-") as made:
        asyncio.run(main(arguments.rounds, Path(made), arguments.only))

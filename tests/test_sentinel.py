"""Failover: the primary of a Sentinel group dies while 500 updates a second are published. What its replicas had is never lost,
nothing comes twice, and everybody finds the new primary."""

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from parallax import AsyncPublisher
from parallax.errors import PublishError
from parallax.store import STORE_ERRORS, connect
from tests.cluster import PREFIX, Cluster
from tests.processes import HOST, PATIENCE, RedisKind, until
from tests.stores import SentinelStore
from tests.test_redis_urls import KEYED, NUMBERS, assert_no_secret, run_through
from tests.test_running_path import NUMBERS as ALL
from tests.test_running_path import numbers_on

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240 * PATIENCE)]

MakeCluster = Callable[..., Awaitable[Cluster]]

RATE = 500
SECRETS = (SentinelStore.PASSWORD, SentinelStore.SENTINEL_PASSWORD)


class Stream:
    """Publishes the numbers from 0 on, each in an entry of its own with its number as seq, at RATE a second."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.sent = 0
        self.is_stopped = False

    async def run(self) -> None:
        """Publish until stopped, then wait until all is in the table."""
        async with AsyncPublisher(self.url, PREFIX, producer="numbers", timeout_seconds=60 * PATIENCE) as publisher:
            began = time.monotonic()
            while not self.is_stopped:
                await publisher.update("numbers", [{"n": self.sent, "s": f"row {self.sent}"}], seq=self.sent + 1)
                self.sent += 1
                await asyncio.sleep(max(0.0, began + self.sent / RATE - time.monotonic()))
            await publisher.flush()
            while True:
                try:
                    assert await publisher.confirm() == []
                    return
                except PublishError as error:
                    print(f"not confirmed: {error}")


@asynccontextmanager
async def streaming(url: str) -> AsyncIterator[Stream]:
    """Publish while the body runs; at its end everything is confirmed."""
    stream = Stream(url)
    async with asyncio.TaskGroup() as group:
        group.create_task(stream.run())
        yield stream
        stream.is_stopped = True


async def new_primary(store: SentinelStore, old: str) -> str:
    """Wait until another server is the primary, and return its name."""

    async def is_there() -> str | None:
        for name in ("redis-1", "redis-2", "redis-3"):
            if name != old:
                with store.server(name) as server:
                    if server.role()[0] == b"master":
                        return name
        return None

    return str(await until(is_there, 30, "another primary"))


async def moved(store: SentinelStore, cluster: Cluster, name: str) -> None:
    """Wait until all of the fleet's connections, subscriptions included, are to this server."""

    async def are_there() -> bool:
        for other in ("redis-1", "redis-2", "redis-3"):
            if other != name and store.processes[other].is_running:
                with store.server(other) as server:
                    left = [one for one in server.client_list() if one["name"] == "parallax"]
                    assert not left, (other, left[:2])
        with store.server(name) as server:
            clients = [one for one in server.client_list() if one["name"] == "parallax"]
        feeds = [one for one in clients if one["flags"] == "P" or int(one["sub"]) > 0]
        assert len(feeds) >= len(cluster.running), feeds
        return True

    await until(are_there, 30, f"all are with {name}")


def duplicates(found: list[int]) -> list[int]:
    return [number for number, count in Counter(found).items() if count > 1]


async def all_there(cluster: Cluster, stream: Stream, lost_from: int = 0, lost_to: int = 0) -> set[int]:
    """See that every number is in every replica, once and in order; return those that Redis lost, all in the range given."""
    await cluster.converged(60)
    seen = {}
    for node in [name for name in cluster.running if name.startswith("node")]:
        seen[node] = found = [int(str(number)) for number in await numbers_on(cluster, node)]
        assert duplicates(found) == []
        assert found == sorted(found)
    (first, *others) = seen.values()
    assert all(other == first for other in others)
    lost = set(range(stream.sent)) - set(first)
    assert lost <= set(range(lost_from, lost_to)), f"lost {sorted(lost)}, allowed {lost_from} to {lost_to}"
    return lost


@pytest.mark.parametrize("kind", ["valkey", pytest.param("redis", marks=pytest.mark.deep)])
async def test_a_primary_dies_under_load(make_cluster: MakeCluster, tmp_path: Path, kind: RedisKind) -> None:
    store = SentinelStore(tmp_path, kind)
    cluster = await make_cluster([ALL], coordinators=2, nodes=1, store=store)
    async with streaming(store.url) as stream:
        await asyncio.sleep(2)
        before = stream.sent
        await store.processes["redis-1"].kill()
        during = stream.sent
        primary = await new_primary(store, "redis-1")
        assert stream.sent > RATE
        await moved(store, cluster, primary)
        await asyncio.sleep(1)
        store.processes["redis-1"].start()  # it comes back as a replica
    # What was published in the last moment may have been acknowledged by the one who died, and by nobody else.
    await all_there(cluster, stream, before - RATE // 10, during + RATE // 10)
    await moved(store, cluster, primary)
    assert_no_secret(cluster, *SECRETS)


def cut_off(store: SentinelStore, password: str) -> None:
    """Give the replicas another password for their primary, and break their connections to it."""
    for name in ("redis-2", "redis-3"):
        with store.server(name) as server:
            server.config_set("masterauth", password)
    if store.processes["redis-1"].is_running:
        with store.server("redis-1") as server:
            server.execute_command("CLIENT", "KILL", "TYPE", "replica")


@pytest.mark.parametrize("is_leader_killed", [pytest.param(False, marks=pytest.mark.deep), True])
async def test_a_primary_dies_with_its_last_writes(
    make_cluster: MakeCluster, tmp_path: Path, is_leader_killed: bool
) -> None:
    """What the replicas never got is gone, from one number to the last of the old primary; all else is there, once."""
    store = SentinelStore(tmp_path, "redis")
    cluster = await make_cluster([ALL], coordinators=2, nodes=2, store=store)
    async with streaming(store.url) as stream:
        await asyncio.sleep(1)
        before = stream.sent - RATE // 10
        cut_off(store, store.PASSWORD + " no more")

        async def has_gone_on() -> bool:
            return stream.sent > before + 200

        await until(has_gone_on, 10, "200 more are written")
        if is_leader_killed:
            await cluster[await cluster.leader()].kill()
        await store.processes["redis-1"].kill()
        during = stream.sent
        cut_off(store, store.PASSWORD)  # so that one can follow the other
        primary = await new_primary(store, "redis-1")
        await moved(store, cluster, primary)
    lost = sorted(await all_there(cluster, stream, before, during + RATE // 10))
    assert lost, "nothing was lost: the test did not test it"
    assert lost == list(range(lost[0], lost[-1] + 1)), "a hole in what was lost"
    (line,) = [
        line
        for process in cluster.processes.values()
        for line in process.log.read_text().splitlines()
        if "its log ends at" in line
    ]
    match = re.search(r"Redis lost (\d+) records", line)
    assert match is not None
    assert int(match[1]) > 0


@pytest.mark.deep
async def test_an_old_primary_that_serves_on_is_left(make_cluster: MakeCluster, tmp_path: Path) -> None:
    """It was frozen for as long as it takes to be replaced. Then it answers again, and refuses writes as a replica."""
    store = SentinelStore(tmp_path, "valkey")
    cluster = await make_cluster([ALL], coordinators=2, nodes=1, store=store)
    async with streaming(store.url) as stream:
        await asyncio.sleep(1)
        before = stream.sent
        store.processes["redis-1"].pause()
        primary = await new_primary(store, "redis-1")
        store.processes["redis-1"].resume()
        during = stream.sent
        await moved(store, cluster, primary)
    # What the old one took before all had left it is lost with it.
    await all_there(cluster, stream, before - RATE // 10, during + 2 * RATE)


@pytest.mark.deep
async def test_a_write_that_a_replica_refuses_leads_to_the_primary(tmp_path: Path) -> None:
    store = SentinelStore(tmp_path, "redis")
    store.start()
    try:
        await store.ready()
        client, watching = connect(store.url), connect(store.url)
        await client.set("a", "1")
        async with watching.pubsub() as pubsub:
            await pubsub.subscribe("c")
            assert await client.get("a") == b"1"
            with store.server("redis-2") as new:
                new.execute_command("REPLICAOF", "NO", "ONE")  # by hand: no sentinel cuts anything
            with store.server("redis-1") as old:
                old.execute_command("REPLICAOF", HOST, store.ports["redis-2"])
            found = []
            for _ in range(100):
                try:
                    await client.set("a", "2")
                    break
                except STORE_ERRORS as error:
                    found.append(str(error))
                    await asyncio.sleep(0.1)
            assert found
            assert any("READONLY" in text or "read only" in text.lower() or "not the primary" in text for text in found)
        await client.aclose()
        await watching.aclose()
    finally:
        store.destroy()


@pytest.mark.deep
async def test_the_running_path_through_sentinel(make_cluster: MakeCluster, tmp_path: Path) -> None:
    store = SentinelStore(tmp_path, "valkey")
    cluster = await make_cluster([KEYED, NUMBERS], coordinators=1, nodes=1, store=store)
    await run_through(cluster)
    assert_no_secret(cluster, *SECRETS)

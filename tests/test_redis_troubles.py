"""Small troubles of Redis at any time: scripts forgotten, connections cut, a feed that stands but is silent, no memory left."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
from redis.exceptions import OutOfMemoryError

from parallax import AsyncPublisher
from parallax.demo.ports import choose_ports
from parallax.errors import PublishError
from parallax.replication.keys import TableKeys
from parallax.status import fleet
from parallax.tasks import Tasks
from tests.cluster import PREFIX, Cluster
from tests.processes import HOST, PATIENCE, until
from tests.test_running_path import NUMBERS
from tests.test_sentinel import all_there, streaming

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180 * PATIENCE)]

Make = Callable[..., Awaitable[Cluster]]


async def test_scripts_forgotten_and_connections_cut_under_load(make_cluster: Make) -> None:
    cluster = await make_cluster([NUMBERS], coordinators=2, nodes=2)
    async with streaming(cluster.server.url) as stream:
        for number in range(12):
            await asyncio.sleep(0.25)
            await cluster.redis.script_flush()
            await asyncio.sleep(0.25)
            await cluster.redis.execute_command("CLIENT", "KILL", "TYPE", ("normal", "pubsub")[number % 2], "SKIPME", "yes")
    assert stream.sent > 1000
    assert await all_there(cluster, stream) == set(), "nothing is lost"
    assert (await cluster.status(await cluster.leader()))["sequencing"]["numbers"]["lost"] == 0


class Silencer:
    """A way to Redis that can swallow what is published, while everything else goes on: connected, but silent."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.is_silent = False
        self.subscriptions = 0
        self.serving = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on one connection."""
        there = await asyncio.open_connection(HOST, self.port)
        is_feed = asyncio.Event()

        async def forth() -> None:
            while data := await reader.read(1 << 16):
                if b"\r\nSUBSCRIBE\r\n" in data:
                    if not is_feed.is_set():
                        self.subscriptions += 1
                    is_feed.set()
                there[1].write(data)
            there[1].close()

        async def back() -> None:
            was_silent = self.is_silent
            while data := await there[0].read(1 << 16):
                if is_feed.is_set() and self.is_silent and not was_silent:
                    continue  # a subscription that was made before stays silent
                writer.write(data)
            writer.close()

        self.serving += 1
        try:
            async with Tasks() as tasks:
                both = {tasks.start(forth(), name="forth"), tasks.start(back(), name="back")}
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)  # one that is killed may leave by an error
        finally:
            for one in (writer, there[1]):
                one.close()
                with suppress(OSError):
                    await one.wait_closed()
            self.serving -= 1


@asynccontextmanager
async def silencer(port: int) -> AsyncIterator[tuple[Silencer, int]]:
    """Stand between a program and a Redis; gives the port to use instead."""
    own = choose_ports({"silencer": 0})["silencer"]
    found = Silencer(port)
    async with await asyncio.start_server(found.serve, HOST, own):
        yield found, own

        async def are_closed() -> bool:
            return found.serving == 0

        await until(are_closed, 10, "all connections are closed")


async def test_a_feed_that_stands_but_is_silent_is_made_anew(make_cluster: Make) -> None:
    cluster = await make_cluster([NUMBERS], coordinators=1, nodes=1)
    async with silencer(cluster.server.port) as (between, port):
        env = cluster["node-1"]._env
        env["PARALLAX_REDIS_URL"] = f"redis://{HOST}:{port}/0"
        await cluster["node-1"].kill()
        await cluster.restart("node-1")
        await cluster.at_rest()
        before = between.subscriptions
        between.is_silent = True
        await cluster.publish("numbers", data='[{"n": 1}]')
        await cluster.at_rest(20)

        async def has_subscribed() -> bool:
            return between.subscriptions > before

        await until(has_subscribed, 10, "the node subscribed afresh")
        await cluster["node-1"].kill()


async def test_a_publisher_to_a_full_redis_is_told_and_goes_on_later(make_cluster: Make) -> None:
    cluster = await make_cluster([NUMBERS], coordinators=1, nodes=1)
    await cluster["coordinator-1"].kill()  # so that nothing drains it
    used = (await cluster.redis.info("memory"))["used_memory"]
    await cluster.redis.config_set("maxmemory", used + (4 << 20))
    publisher = AsyncPublisher(cluster.server.url, PREFIX, timeout_seconds=2 * PATIENCE, max_buffer_bytes=6 << 20)
    try:
        sent, refusal = 0, ""
        while "is full (OOM" not in refusal:
            try:
                await publisher.update("numbers", [{"n": sent * 100 + row, "s": "x" * 500} for row in range(100)])
                sent += 1
            except PublishError as error:
                refusal = str(error)
        assert f"Redis at {cluster.server.url} is full" in refusal
        cluster["coordinator-1"].start()  # it drains a Redis that is full

        async def is_taken() -> bool:
            try:
                return await publisher.confirm(2) == []
            except PublishError:
                return False

        await until(is_taken, 60, "everything is taken")
    finally:
        with suppress(PublishError):
            await publisher.close()
    await cluster.redis.config_set("maxmemory", 0)
    await cluster.ready("coordinator-1")
    await cluster.at_rest()
    assert (await cluster.status("node-1"))["tables"]["numbers"]["rows"] == 100 * sent


async def test_a_full_redis_is_led_and_served(make_cluster: Make) -> None:
    """What the fleet itself writes is written even then: so it can drain ingest, trim the log and be seen."""
    cluster = await make_cluster([NUMBERS], coordinators=1, nodes=1, settings={"SNAPSHOT_MIN_BYTES": "2000"})
    for lot in range(5):
        rows = [{"n": number, "s": "y" * 50} for number in range(500 * lot, 500 * lot + 500)]
        await cluster.redis.xadd(TableKeys(PREFIX, "numbers").ingest, {"data": json.dumps(rows)})
    await cluster.redis.config_set("maxmemory", 1)
    await cluster["coordinator-1"].kill()
    await cluster.restart("coordinator-1")  # it leads, and takes snapshots
    await cluster.at_rest()
    with pytest.raises(OutOfMemoryError):
        await cluster.publish("numbers", data="[]")
    assert {member["id"] for member in await fleet(cluster.server.url)} == set(cluster.running), "all announce themselves"
    await cluster.add_node()
    await cluster.at_rest()
    await cluster.redis.config_set("maxmemory", 0)
    await cluster.converged()
    assert (await cluster.status("node-2"))["tables"]["numbers"]["rows"] == 2500

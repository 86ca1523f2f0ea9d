"""Publishers: everything arrives once and in order, whatever happens on the way; and they say what is wrong."""

import asyncio
import datetime
import json
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import perspective
import pyarrow as pa
import pytest
from redis.asyncio import Redis

from parallax import AsyncPublisher, ParallaxError, Publisher, PublishError
from parallax.demo.ports import choose_ports
from parallax.errors import ConfigurationError, TableRequestRefused
from parallax.replication.spec import TableSpec
from tests.cluster import PREFIX, Cluster
from tests.oracle import comparable_rows
from tests.processes import HOST, ROOT, RedisServer, until

SPEC = TableSpec.declare("t", {"schema": {"id": "string", "n": "int64", "x": "float", "at": "datetime"}, "index": "id"})
EVENTS = TableSpec.declare("events", {"schema": {"n": "int64"}, "limit": 1_000_000})
INGEST = "parallax:{t}:in"

MakeCluster = Callable[..., Awaitable[Cluster]]


# Against a real Redis ------------------------------------------------------------------------------------------------


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RedisServer]:
    """A Redis without any coordinator."""
    started = RedisServer(tmp_path, choose_ports({"redis": 0})["redis"])
    started.start()
    try:
        await started.ready()
        yield started
    finally:
        started.destroy()


async def ingest(server: RedisServer, key: str = INGEST) -> list[dict[str, str]]:
    async with Redis(port=server.port) as redis:
        entries = await redis.xrange(key)
    return [{name.decode(): value.decode() for name, value in fields.items()} for _, fields in entries]


async def test_operations_keep_their_order_and_are_numbered(server: RedisServer) -> None:
    async with AsyncPublisher(server.url) as publisher:
        await publisher.update("t", {"id": "a"})
        await publisher.remove("t", [{"id": "a"}])
        await publisher.replace("t", [{"id": "b"}])
        await publisher.clear("t")
        await publisher.update("t", {"id": ["c", "d"]})
    found = await ingest(server)
    assert [(entry["op"], entry.get("data")) for entry in found] == [
        ("update", '[{"id":"a"}]'),
        ("remove", '[{"id":"a"}]'),
        ("replace", '[{"id":"b"}]'),
        ("clear", None),
        ("update", '{"id":["c","d"]}'),
    ]
    assert [entry["seq"] for entry in found] == ["1", "2", "3", "4", "5"]
    assert {entry["producer"] for entry in found} == {publisher.producer}


async def test_calls_share_entries_only_if_told_to(server: RedisServer) -> None:
    async with AsyncPublisher(server.url, batch_ms=10_000, batch_rows=3) as publisher:
        for number in range(7):
            await publisher.update("t", {"id": "a", "n": number})
    found = [json.loads(entry["data"]) for entry in await ingest(server)]
    assert [[row["n"] for row in rows] for rows in found] == [[0, 1, 2], [3, 4, 5], [6]]


@asynccontextmanager
async def cutting_proxy(server: RedisServer, cuts: list[int]) -> AsyncIterator[str]:
    """Forward to Redis, but lose the answer and the connection whenever a write's number (from 1) is in `cuts`."""
    seen = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        upstream_reader, upstream_writer = await asyncio.open_connection(HOST, server.port)
        is_cut = False

        async def answers() -> None:
            while (answer := await upstream_reader.read(1 << 16)) and not is_cut:
                writer.write(answer)

        answering = asyncio.get_running_loop().create_task(answers())
        try:
            while request := await reader.read(1 << 20):
                if b"EVALSHA" in request:
                    seen += 1
                    is_cut = seen in cuts
                upstream_writer.write(request)
                if is_cut:
                    await asyncio.sleep(0.05)  # Redis has it by now, mostly; if not, that is a case, too
                    break
        except OSError:
            pass
        finally:
            answering.cancel()
            writer.close()
            upstream_writer.close()

    listener = await asyncio.start_server(serve, HOST, 0)
    try:
        yield f"redis://{HOST}:{listener.sockets[0].getsockname()[1]}/0"
    finally:
        listener.close()


def as_taken(entries: list[dict[str, str]]) -> list[int]:
    """Return the numbers that a coordinator would carry: what is not above the highest is a duplicate."""
    taken: list[int] = []
    for entry in entries:
        if int(entry["seq"]) > (taken[-1] if taken else 0):
            taken.append(int(entry["seq"]))
    return taken


async def test_lost_answers_double_nothing_and_lose_nothing(server: RedisServer) -> None:
    async with cutting_proxy(server, cuts=[1, 3, 4, 8]) as url, AsyncPublisher(url) as publisher:
        for number in range(40):
            await publisher.update("t", {"id": "a", "n": number})
            if number % 4 == 0:
                await publisher.flush()
        await publisher.flush()
        counts = publisher.counts["t"]
    assert (counts.accepted, counts.retried, counts.refused) == (40, 4, 0)
    assert 0 < counts.sends <= 40
    assert counts.send_seconds > 0
    found = await ingest(server)
    assert len(found) > 40, "some were sent twice"
    assert as_taken(found) == list(range(1, 41))


async def test_what_is_published_while_redis_is_away_arrives_later(server: RedisServer) -> None:
    async with AsyncPublisher(server.url) as publisher:
        await publisher.update("t", {"id": "a"})
        await publisher.flush()
        await server.kill()
        for _ in range(5):
            await publisher.update("t", {"id": "b"})
        server.start()
        await publisher.flush()
    assert as_taken(await ingest(server)) == [1, 2, 3, 4, 5, 6]


async def test_a_redis_that_stays_away_is_an_error_in_time(server: RedisServer) -> None:
    await server.kill()
    publisher = AsyncPublisher(server.url, timeout_seconds=0.4)
    await publisher.update("t", {"id": "a"})
    with pytest.raises(
        PublishError, match=r"table 't': nothing went out for 0.4 s: Redis at redis://127.0.0.1.* cannot be reached"
    ):
        await publisher.flush()
    with pytest.raises(PublishError, match="1 entries wait"):
        await publisher.update("t", {"id": "b"})
    with pytest.raises(PublishError, match="1 entries wait"):
        await publisher.close()


async def test_a_full_redis_is_said_and_waited_out(server: RedisServer) -> None:
    async with Redis(port=server.port) as redis, AsyncPublisher(server.url, timeout_seconds=0.5) as publisher:
        await redis.config_set("maxmemory", "1")
        await publisher.update("t", {"id": "a"})
        with pytest.raises(
            PublishError,
            match=r"redis://127.0.0.1:\d+/0 is full \(OOM: \W*command .*used memory > .maxmemory.*: give it more memory, or let the coordinator",
        ):
            await publisher.flush()
        await redis.config_set("maxmemory", "0")
        await until(lambda: redis.xlen(INGEST), 5, "the entry arrived after all")
        await publisher.flush()
    assert as_taken(await ingest(server)) == [1]


async def test_a_wrong_password_is_said_at_once(server: RedisServer) -> None:
    async with Redis(port=server.port) as redis:
        await redis.config_set("requirepass", "secret")
    publisher = AsyncPublisher(server.url, timeout_seconds=30)
    await publisher.update("t", {"id": "a"})
    with pytest.raises(PublishError, match=r"refuses us: .*[Aa]uthentication"):
        await asyncio.wait_for(publisher.flush(), 10)
    with pytest.raises(PublishError):
        await publisher.close()
    wrong = AsyncPublisher(server.url.replace("redis://", "redis://:geheim@"))
    await wrong.update("t", {"id": "a"})
    with pytest.raises(PublishError, match="refuses us") as caught:
        await asyncio.wait_for(wrong.flush(), 10)
    assert "geheim" not in str(caught.value)
    with pytest.raises(PublishError):
        await wrong.close()


async def test_it_waits_while_ingest_is_far_behind(server: RedisServer) -> None:
    publisher = AsyncPublisher(server.url, max_backlog=10, timeout_seconds=0.6, max_buffer_bytes=2000)

    async def flood() -> None:
        for number in range(2000):
            await publisher.update("t", {"id": "a", "n": number})

    async with Redis(port=server.port) as redis:
        with pytest.raises(PublishError, match=r"\d+ entries wait in ingest, more than max_backlog \(10\)"):
            await flood()
        published = next(publisher._numbers) - 1
        assert 10 < await redis.xlen(INGEST) < published < 2000
        with pytest.raises(PublishError, match=r"\d+ entries wait in ingest"):
            await publisher.flush()
        found = await ingest(server)
        await redis.delete(INGEST)  # as the coordinator does
        await publisher.close()
    assert as_taken(found + await ingest(server)) == list(range(1, published + 1))


async def test_a_backlog_that_shrinks_is_progress(server: RedisServer) -> None:
    publisher = AsyncPublisher(server.url, max_backlog=1, timeout_seconds=0.5)
    async with Redis(port=server.port) as redis:
        others = [await redis.xadd(INGEST, {"data": "[]"}) for _ in range(8)]
        for _ in range(2):
            await publisher.update("t", {"id": "a"})  # the first goes out, and shows the backlog
            if not await redis.xrange(INGEST, b"(" + others[-1]):
                await until(lambda: redis.xrange(INGEST, b"(" + others[-1]), 5, "the first is out")

        async def coordinator() -> None:
            for entry in others:
                await asyncio.sleep(0.2)  # not to wait for anything: this is how slow it is
                await redis.xdel(INGEST, entry)

        await asyncio.gather(publisher.flush(), coordinator())
        assert await redis.xlen(INGEST) == 2
    await publisher.close()


async def test_a_source_that_counts_its_own_writes(server: RedisServer) -> None:
    rows = [{"id": str(number)} for number in range(20_000)]
    async with AsyncPublisher(server.url, producer="loader") as publisher:
        await publisher.update("t", rows, seq=7)
        with pytest.raises(ValueError, match="seq"):
            await publisher.update("t", rows)
        with pytest.raises(PublishError, match="must fit into one entry"):
            await publisher.update("t", pa.table({"id": ["x" * 1_000_000] * 40}), seq=8)
    ((entry,)) = (await ingest(server),)
    assert [(one["producer"], one["seq"], len(json.loads(one["data"]))) for one in entry] == [("loader", "7", 20_000)]
    async with AsyncPublisher(server.url) as publisher:
        with pytest.raises(ValueError, match="seq"):
            await publisher.update("t", rows, seq=1)


async def test_threads_share_a_publisher(server: RedisServer) -> None:
    def work(publisher: Publisher, name: str) -> None:
        for number in range(200):
            publisher.update("t", {"id": name, "n": number})

    def publish() -> None:
        with Publisher(server.url) as publisher:
            threads = [threading.Thread(target=work, args=(publisher, name)) for name in "abc"]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        with pytest.raises(PublishError, match="closed"):
            publisher.update("t", {"id": "a"})
        publisher.close()

    await asyncio.to_thread(publish)
    found = await ingest(server)
    assert as_taken(found) == list(range(1, 601))
    rows = [json.loads(entry["data"])[0] for entry in found]
    for name in "abc":
        assert [row["n"] for row in rows if row["id"] == name] == list(range(200))
    assert [thread for thread in threading.enumerate() if thread.name == "parallax-publisher"] == []


def test_the_package_loads_nothing_by_itself() -> None:
    code = "import sys, parallax; print(sorted(set(sys.modules) & {'pyarrow', 'redis', 'perspective', 'asyncio'}), parallax.Publisher)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] <class 'parallax.publisher.Publisher'>"


def test_a_wrong_url_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError):
        Publisher("http://example.org")


# Against a fleet -----------------------------------------------------------------------------------------------------


def rows_of(spec: TableSpec, rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Return rows in the form in which a cluster's are read."""
    return comparable_rows([dict(zip(spec.columns, row, strict=True)) for row in rows], spec.columns)


async def read_new(cluster: Cluster, spec: TableSpec) -> list[tuple[Any, ...]]:
    """Read a table that was declared a moment ago; an AssertionError means that it is not served yet."""
    try:
        return await cluster.read("node-1", spec)
    except perspective.PerspectiveError as error:
        raise AssertionError(str(error)) from None


@pytest.mark.cluster
async def test_what_is_published_is_in_the_tables(make_cluster: MakeCluster) -> None:
    cluster = await make_cluster([SPEC, EVENTS], coordinators=1, nodes=1)
    url = cluster.server.url
    at = datetime.datetime(2013, 1, 1, 10, tzinfo=datetime.UTC)
    async with AsyncPublisher(url, PREFIX) as publisher:
        await publisher.update("t", [{"id": "a", "n": 1, "x": 0.5, "at": at}, {"id": "b", "n": 2}])
        await publisher.update("t", pa.table({"id": ["c"], "n": [3], "at": pa.array([at], pa.timestamp("us", "UTC"))}))
        await publisher.update("t", {"id": ["d", "e"], "x": [float("inf"), None]})
        await publisher.remove("t", ["b", "no such key"])
        await publisher.remove("t", pa.array(["e"]))
        await publisher.update("t", {"id": "a", "n": None})
        assert await publisher.confirm() == []
        await publisher.update("t", {"id": "z", "n": "text"})
        (entry,) = await publisher.confirm()
        assert (entry.table, "row 0, column 'n': \"text\" is not a whole number" in entry.reason) == ("t", True)
        assert await publisher.confirm() == [], "told once"
        assert (publisher.counts["t"].accepted, publisher.counts["t"].refused) == (7, 1)
        with pytest.raises(PublishError, match="there is no table 'nope'; there are events, t"):
            await publisher.update("nope", {"id": "a"})
        with pytest.raises(PublishError, match="'events' has no index"):
            await publisher.remove("events", [1])
    await cluster.at_rest()
    moment = at.replace(tzinfo=None)
    expected = [("a", None, 0.5, moment), ("c", 3, None, moment), ("d", None, float("inf"), None)]
    assert await cluster.read("node-1", SPEC) == rows_of(SPEC, expected)


@pytest.mark.cluster
async def test_nothing_is_lost_or_doubled_through_kills_and_lost_answers(make_cluster: MakeCluster) -> None:
    cluster = await make_cluster([EVENTS], coordinators=2, nodes=1)
    published = 3_000
    cuts = list(range(2, 400, 3))
    async with cutting_proxy(cluster.server, cuts) as url, AsyncPublisher(url, PREFIX) as publisher:
        for number in range(published):
            await publisher.update("events", {"n": number})
            if number % 50 == 0:
                await asyncio.sleep(0.01)  # so that there are many writes, not to wait for anything
            if number == published // 3:
                leader = await cluster.leader()
                await cluster[leader].kill()
            if number == published // 2:
                await cluster.server.kill()
                cluster.server.start()
        assert await publisher.confirm(60) == []
    await cluster.restart(leader)
    await cluster.converged()
    assert [row[0] for row in await cluster.read("node-1", EVENTS)] == list(range(published))


@pytest.mark.cluster
async def test_hosting_creates_and_fills_a_table(make_cluster: MakeCluster) -> None:
    cluster = await make_cluster([SPEC], coordinators=1, nodes=1)
    data = pa.table(
        {
            "key": pa.array([1, 2, 3]),
            "name": pa.array(["a", "b", None]).dictionary_encode(),
            "at": pa.array([0, 1000, None], pa.timestamp("us")),
            "small": pa.array([1, 2, 3], pa.int8()),
        }
    )

    def host() -> TableSpec:
        with Publisher(cluster.server.url, PREFIX) as publisher:
            publisher.host([{"key": 9, "name": "old", "small": 1}], name="other", limit=10)
            publisher.host(data.slice(1), name="made", index="key")
            spec = publisher.host(data.to_reader(), name="made", index="key")
            publisher.update("made", {"key": 4, "name": "d"})
            assert publisher.confirm() == []
            with pytest.raises(TableRequestRefused, match="made"):
                publisher.host(data, name="made", limit=5)
            with pytest.raises(PublishError, match=r"refused; the first: .*row 1, column 'at'"):
                publisher.host(
                    data.set_column(2, "at", pa.array([0, 1, None], pa.timestamp("us"))), name="fine", index="key"
                )
            bad = pa.table({"id": [1], "l": [[1]], "d": pa.array([None], pa.decimal128(9, 2))})
            with pytest.raises(ConfigurationError) as caught:
                publisher.host(bad, name="bad")
            assert [line for line in caught.value.problems if "cannot hold" in line] == [
                "column 'l' is list<item: int64>, which a Perspective table cannot hold: cast it, or leave it out",
                "column 'd' is decimal128(9, 2), which a Perspective table cannot hold: cast it, or leave it out",
            ]
            assert any("no index and no limit" in line for line in caught.value.problems)
            return spec

    spec = await asyncio.to_thread(host)
    assert dict(spec.schema) == {"key": "int64", "name": "string", "at": "datetime", "small": "int8"}
    at = datetime.datetime(1970, 1, 1)  # noqa: DTZ001 - as the engine gives it
    found: list[Any] = []

    async def is_there() -> bool:
        found[:] = await read_new(cluster, spec)
        return len(found) == 4

    await until(is_there, 10, "the node serves the new table")
    expected = [
        (1, "a", at, 1),
        (2, "b", at + datetime.timedelta(milliseconds=1), 2),
        (3, None, None, 3),
        (4, "d", None, None),
    ]
    assert found == rows_of(spec, expected)


@pytest.mark.cluster
async def test_confirming_says_when_no_coordinator_runs(server: RedisServer) -> None:
    async with AsyncPublisher(server.url) as publisher:
        await publisher.update("t", {"id": "a"})
        with pytest.raises(PublishError, match=r"not taken within 0.3 s: is a coordinator running\?"):
            await publisher.confirm(0.3)
    assert issubclass(PublishError, ParallaxError)

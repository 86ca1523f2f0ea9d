"""The demo's verdict: it must not say that all is well when it is not."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from parallax.demo.ports import choose_ports
from parallax.demo.replay import Published
from parallax.demo.verdict import Verdict, judge
from parallax.replication.keys import FleetKeys, TableKeys
from parallax.tasks import Tasks
from tests.processes import RedisServer, until

PREFIX = "p"
pytestmark = pytest.mark.cluster

KEYS = FleetKeys(PREFIX)
KEYS_OF_TABLE = TableKeys(PREFIX, "flights")
PUBLISHED = Published(entries=5, rows=50, operations={"update": 5})


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[Any]:
    server = RedisServer(tmp_path, choose_ports({"redis": 0})["redis"])
    try:
        server.start()
        await server.ready()
        async with Redis(port=server.port) as client:
            yield client
    finally:
        server.destroy()


async def announce(redis: Any, name: str, position: str, digest: str | None) -> None:
    table = {"state": "live", "position": position, "lag_records": 0, "lag_seconds": 0.0, "rows": 3}
    table["digest"] = None if digest is None else {"position": position, "value": digest}
    member = {"kind": name.partition("-")[0], "id": name, "leader": False, "sessions": 0, "tables": {"flights": table}}
    await redis.set(KEYS.member(name), json.dumps(member))
    await redis.sadd(KEYS.members, name)


async def verdict(redis: Any, published: Published = PUBLISHED, expected: tuple[str, ...] = ("node-1", "node-2")) -> Verdict:
    port = redis.connection_pool.connection_kwargs["port"]
    async with Tasks() as tasks:
        tasks.start(verify_once(redis), name="a leader, and the replicas")
        return await judge(f"redis://127.0.0.1:{port}/0", PREFIX, ["flights"], expected, published, 2.0, settle_seconds=1.0)


async def verify_once(redis: Any) -> None:
    """Wait until a verify is asked for; then all who had a digest have it one record later."""
    await until(lambda: redis.delete(KEYS_OF_TABLE.verify), 10, "a verify is asked for")
    for name in await redis.smembers(KEYS.members):
        member = json.loads(await redis.get(KEYS.member(name.decode())))
        if member["tables"]["flights"]["digest"] is not None:
            member["tables"]["flights"]["digest"]["position"] = "7-10"
        await redis.set(KEYS.member(name.decode()), json.dumps(member))


async def test_digests_of_before_are_no_answer(redis):
    await announce(redis, "node-1", "7-9", "abc")
    port = redis.connection_pool.connection_kwargs["port"]
    url = f"redis://127.0.0.1:{port}/0"
    found = await judge(url, PREFIX, ["flights"], ["node-1"], PUBLISHED, 2.0, settle_seconds=0.1)
    assert ["none on node-1" in problem for problem in found.problems] == [True]


async def test_equal_replicas_are_well(redis):
    for name in ("node-1", "node-2"):
        await announce(redis, name, "7-9", "abc")
    found = await verdict(redis)
    assert found.problems == []
    assert "5 entries (5 update), 50 rows" in found.summary
    assert "9 records in flights" in found.summary
    assert "All 2 replicas of flights are equal" in found.summary


async def test_a_different_digest_is_a_problem(redis):
    await announce(redis, "node-1", "7-9", "abc")
    await announce(redis, "node-2", "7-9", "abd")
    found = await verdict(redis)
    assert len(found.problems) == 1
    assert "abc at 7-10 on node-1" in found.problems[0]
    assert "abd at 7-10 on node-2" in found.problems[0]
    assert "are equal" not in found.summary


async def test_no_digest_is_a_problem(redis):
    await announce(redis, "node-1", "7-9", "abc")
    await announce(redis, "node-2", "7-9", None)
    assert ["none on node-2" in problem for problem in (await verdict(redis)).problems] == [True]


async def test_a_missing_member_is_a_problem(redis):
    await announce(redis, "node-1", "7-9", "abc")
    assert (await verdict(redis)).problems == ["not in the registry: node-2"]


async def test_nothing_published_is_a_problem(redis):
    await announce(redis, "node-1", "7-9", "abc")
    assert (await verdict(redis, Published(), ("node-1",))).problems == ["nothing was published"]


async def test_a_log_without_records_is_a_problem(redis):
    await announce(redis, "node-1", "7-1", "abc")
    assert (await verdict(redis, expected=("node-1",))).problems == ["table 'flights': no records reached its log"]


async def test_what_nobody_put_in_order_is_a_problem(redis):
    await announce(redis, "node-1", "7-9", "abc")
    await redis.xadd(TableKeys(PREFIX, "flights").ingest, {"op": "clear"})
    await redis.xadd(TableKeys(PREFIX, "flights").rejected, {"reason": "r"})
    found = await verdict(redis, expected=("node-1",))
    assert found.problems == ["1 entries still wait in ingest: nobody puts them in order"]
    assert "1 refused" in found.summary

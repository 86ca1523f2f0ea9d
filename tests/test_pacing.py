"""Of many that join at once, a few read large snapshots at a time."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from parallax.demo.ports import choose_ports
from parallax.replica import pacing
from parallax.replica.pacing import LARGE_BYTES, PLACES, Pacing
from parallax.replication.keys import FleetKeys
from parallax.store import connect
from tests.processes import RedisServer

KEYS = FleetKeys("test")


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[Any]:
    server = RedisServer(tmp_path, choose_ports({"redis": 0})["redis"])
    server.start()
    client = Redis(port=server.port)
    try:
        await server.ready()
        yield client
    finally:
        await client.aclose()
        server.destroy()


class Readers:
    """Members that read when they may."""

    def __init__(self, redis: Any) -> None:
        self.now = self.most = self.done = 0
        self._pacing = Pacing(redis, KEYS)

    async def read(self, size: int = LARGE_BYTES) -> None:
        async with self._pacing.place(size):
            self.now += 1
            self.most = max(self.most, self.now)
            await asyncio.sleep(0.05)
            self.now -= 1
            self.done += 1


async def test_a_few_read_at_a_time_and_all_come_to_it(redis: Any) -> None:
    readers = Readers(redis)
    await asyncio.gather(*(readers.read() for _ in range(3 * PLACES)))
    assert (readers.done, readers.most) == (3 * PLACES, PLACES)
    assert await redis.keys("*place*") == []


async def test_small_snapshots_are_read_at_once(redis: Any) -> None:
    readers = Readers(redis)
    await asyncio.gather(*(readers.read(LARGE_BYTES - 1) for _ in range(20)))
    assert readers.most == 20


async def test_a_place_of_the_dead_is_free_again(redis: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "PLACE_SECONDS", 1)
    for number in range(PLACES):
        await redis.set(KEYS.place(number), "of one who died", ex=1)
    readers = Readers(redis)
    async with asyncio.timeout(10):
        await readers.read()


async def test_who_waited_long_enough_reads_all_the_same(redis: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "LONGEST_SECONDS", 0.5)
    for number in range(PLACES):
        await redis.set(KEYS.place(number), "of others")
    readers = Readers(redis)
    await readers.read()
    assert readers.done == 1
    assert await redis.get(KEYS.place(0)) == b"of others", "nobody's place is taken from him"


async def test_without_redis_nobody_waits() -> None:
    readers = Readers(connect(f"redis://127.0.0.1:{choose_ports({'redis': 0})['redis']}/0"))
    async with asyncio.timeout(5):
        await readers.read()

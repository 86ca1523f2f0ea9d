"""What we rely on in the Redis client, and what we mend in it."""

import asyncio
import random
from pathlib import Path

import pytest

from parallax.demo.ports import choose_ports
from parallax.redis_url import place
from parallax.store import connect
from parallax.tasks import Tasks
from tests.processes import RedisServer


async def test_a_cancelled_call_is_always_cancelled(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, choose_ports({"redis": 0})["redis"])
    server.start()
    try:
        await server.ready()
        client = connect(server.url)

        async def call_for_ever() -> None:
            while True:
                await client.get("nothing")

        rng = random.Random(1)
        for _ in range(150):
            task = asyncio.get_running_loop().create_task(call_for_ever())
            await asyncio.sleep(0.002 * rng.random())  # the moment is what is tested
            task.cancel()
            done, _ = await asyncio.wait({task}, timeout=0.5)
            if not done:
                while not task.done():
                    task.cancel()
                    await asyncio.wait({task}, timeout=0.01)
                pytest.fail("a cancellation was swallowed")
        await client.aclose()
    finally:
        server.destroy()


async def test_tasks_that_swallow_a_cancellation_are_told_again() -> None:
    swallowed = 0

    async def stubborn() -> None:
        nonlocal swallowed
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                swallowed += 1
                if swallowed > 2:
                    raise

    async with asyncio.timeout(5), Tasks() as tasks:
        tasks.start(stubborn(), name="stubborn")
        await asyncio.sleep(0)
    assert swallowed == 3


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://user:secret@host:1/0", "redis://host:1/0"),
        ("redis://host:1/0?password=secret", "redis://host:1/0"),
        ("unix:///run/redis.sock?db=1", "unix:/run/redis.sock"),
    ],
)
def test_secrets_are_not_shown(url: str, shown: str) -> None:
    assert place(url) == shown

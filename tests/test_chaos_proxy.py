"""The network of the chaos runs does what it says, with a real server behind it."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from parallax.demo.ports import choose_ports
from parallax.store import STORE_ERRORS, connect
from tests.chaos_proxy import ANSWERS, Frames, Garble, Proxy, is_message
from tests.processes import HOST, PATIENCE, RedisServer, until

pytestmark = pytest.mark.cluster


@asynccontextmanager
async def network(directory: Path) -> AsyncIterator[tuple[Proxy, "Redis", "Redis"]]:
    """A proxy, a client beyond it, and one that is with the server."""
    server = RedisServer(directory, choose_ports({"redis": 0})["redis"])
    server.start()
    proxy = Proxy(lambda: server.port, "network")
    try:
        await server.ready()
        await proxy.start()
        far, near = connect(f"redis://{HOST}:{proxy.port}/0", timeout_seconds=0.5 * PATIENCE), Redis(port=server.port)
        yield proxy, far, near
        await far.aclose()
        await near.aclose()
    finally:
        await proxy.close()
        server.destroy()


async def test_it_passes_on_and_delays(tmp_path: Path) -> None:
    async with network(tmp_path) as (proxy, far, _):
        await far.set("a", b"x" * 1_000_000)
        assert await far.get("a") == b"x" * 1_000_000
        proxy.delay_seconds = 0.1
        began = time.monotonic()
        await far.ping()
        assert time.monotonic() - began >= 0.2, "there and back"


async def test_what_was_held_arrives_after_its_sender_is_gone(tmp_path: Path) -> None:
    async with network(tmp_path) as (proxy, far, near):
        await far.ping()
        proxy.hold()
        with pytest.raises(STORE_ERRORS):
            await far.set("late", "1")
        assert await near.get("late") is None
        proxy.release()

        async def is_there() -> bool:
            return bool(await near.get("late") == b"1")

        await until(is_there, 5, "it arrived")
        assert await far.ping(), "as before"


async def test_swallowed_answers_belong_to_what_was_done(tmp_path: Path) -> None:
    async with network(tmp_path) as (proxy, far, near):
        await far.ping()
        proxy.swallow(ANSWERS)
        with pytest.raises(STORE_ERRORS):
            await far.incr("done")
        assert await near.get("done") == b"1"
        proxy.swallow()
        with pytest.raises(STORE_ERRORS):
            await far.incr("done")
        proxy.release()
        assert await far.incr("done") == 2


async def test_cut_connections_are_made_again(tmp_path: Path) -> None:
    async with network(tmp_path) as (proxy, far, near):

        async def cut() -> None:
            while not [one for one in await near.client_list() if one["cmd"] == "blpop"]:
                pass
            proxy.cut()

        found, _ = await asyncio.gather(far.blpop(["nothing"], timeout=5), cut(), return_exceptions=True)
        assert isinstance(found, STORE_ERRORS)
        assert "closed" in str(found)
        assert await far.ping()


@pytest.mark.parametrize("kind", ["lost", "twice", "late"])
async def test_messages_are_lost_doubled_and_late(tmp_path: Path, kind: str) -> None:
    async with network(tmp_path) as (proxy, far, near), far.pubsub() as feed:
        await feed.subscribe("feed")
        proxy.garble = Garble(**{kind: 0.3})
        for number in range(200):
            await near.publish("feed", f"{number}\r\n$3\r\n")
        proxy.garble = None
        for _ in range(5):
            await near.publish("feed", "end\r\n$3\r\n")
        found = []
        while found.count(-1) < 5:
            message = await feed.get_message(ignore_subscribe_messages=True, timeout=1)
            if message is not None:
                text = message["data"].split(b"\r\n")[0]
                found.append(-1 if text == b"end" else int(text))
        numbers = [number for number in found if number >= 0]
        assert proxy.garbled > 20
        if kind == "lost":
            assert len(numbers) == 200 - proxy.garbled
            assert numbers == sorted(set(numbers))
        elif kind == "twice":
            assert len(numbers) == 200 + proxy.garbled
            assert numbers == sorted(numbers)
        else:
            assert numbers != sorted(numbers)
        assert (set(numbers) == set(range(200))) == (kind != "lost")


VALUES = st.recursive(
    st.one_of(
        st.binary(max_size=20).map(lambda data: b"$%d\r\n%s\r\n" % (len(data), data)),
        st.sampled_from([b"$-1\r\n", b"*-1\r\n", b":17\r\n", b"+OK\r\n", b"-ERR no\r\n", b"*0\r\n"]),
    ),
    lambda inner: st.lists(inner, max_size=4).map(lambda parts: b"*%d\r\n%s" % (len(parts), b"".join(parts))),
    max_leaves=8,
)


@given(st.lists(VALUES), st.integers(1, 30))
def test_a_stream_is_cut_into_its_values(values: list[bytes], piece: int) -> None:
    stream, frames = b"".join(values), Frames()
    found = [frame for at in range(0, len(stream), piece) for frame in frames.feed(stream[at : at + piece])]
    assert found == values


def test_only_messages_are_messages() -> None:
    assert is_message(b"*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nb\r\n")
    assert not is_message(b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n")

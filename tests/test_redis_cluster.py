"""A Redis Cluster in motion: a member dies, a table's slot moves to another, while rows stream in."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from parallax.replication.keys import TableKeys
from tests.cluster import PREFIX, Cluster
from tests.processes import HOST, PATIENCE, until
from tests.stores import ClusterStore
from tests.test_redis_urls import KEYED
from tests.test_running_path import NUMBERS
from tests.test_sentinel import RATE, all_there, streaming

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240 * PATIENCE)]

MakeCluster = Callable[..., Awaitable[Cluster]]

LOG = TableKeys(PREFIX, NUMBERS.name).log


def owner(store: ClusterStore, key: str) -> str:
    """Return the name of the primary that has a key's slot."""
    for name, process in store.processes.items():
        if process.is_running:
            with store.server(name) as server:
                slot: Any = server.execute_command("CLUSTER KEYSLOT", key)
                for first, last, (_, port, *_), *_ in server.execute_command("CLUSTER SLOTS"):
                    if first <= slot <= last:
                        return next(name for name, own in store.ports.items() if own == port)
    raise AssertionError(f"nobody has the slot of {key}")


async def test_a_member_dies_under_load(make_cluster: MakeCluster, tmp_path: Path) -> None:
    store = ClusterStore(tmp_path, "valkey")
    cluster = await make_cluster([NUMBERS, KEYED], coordinators=2, nodes=1, store=store)
    old = owner(store, LOG)
    assert owner(store, TableKeys(PREFIX, KEYED.name).log) != old, "the tables are on two members"
    async with streaming(store.url) as stream:
        await asyncio.sleep(1)
        before = stream.sent
        await store.processes[old].kill()
        during = stream.sent

        async def has_failed_over() -> bool:
            return owner(store, LOG) != old

        await until(has_failed_over, 30, "a replica took over")
        await asyncio.sleep(1)
        store.processes[old].start()
    await all_there(cluster, stream, before - RATE // 10, during + RATE // 10)


@pytest.mark.deep
async def test_a_slot_moves_under_load(make_cluster: MakeCluster, tmp_path: Path) -> None:
    store = ClusterStore(tmp_path, "redis")
    cluster = await make_cluster([NUMBERS], coordinators=2, nodes=1, store=store)
    old = owner(store, LOG)
    new = next(name for name in ("redis-1", "redis-2", "redis-3") if name != old)
    async with streaming(store.url) as stream:
        await asyncio.sleep(1)
        await asyncio.to_thread(move_slot, store, LOG, old, new)
        at_move = stream.sent
        assert owner(store, LOG) == new

        async def goes_on() -> bool:
            return stream.sent > at_move + RATE

        await until(goes_on, 20, "more is published")
    assert await all_there(cluster, stream) == set()


def move_slot(store: ClusterStore, key: str, old: str, new: str) -> None:
    """Move a slot with all that is in it, as `redis-cli --cluster reshard` does."""
    with store.server(old) as source, store.server(new) as target:
        slot = source.execute_command("CLUSTER KEYSLOT", key)
        ids = {name: server.execute_command("CLUSTER MYID") for name, server in ((old, source), (new, target))}
        target.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", ids[old])
        source.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", ids[new])
        while keys := source.execute_command("CLUSTER GETKEYSINSLOT", slot, 10):
            source.execute_command("MIGRATE", HOST, store.ports[new], "", 0, 5000, "KEYS", *keys)
        for server in (target, source):
            server.execute_command("CLUSTER SETSLOT", slot, "NODE", ids[new])

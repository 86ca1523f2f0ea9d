"""An upgrade of the fleet, member by member, to a version that writes other bytes."""

import struct
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from parallax.errors import BadRecord
from parallax.replication import events as e
from parallax.replication import versions
from parallax.replication.keys import TableKeys
from parallax.replication.position import Position
from parallax.replication.record import FIELD, Op, Record
from tests.cluster import PREFIX, Cluster
from tests.processes import PATIENCE, python_module, until
from tests.test_follower_stranded import at, manifest
from tests.test_running_path import NUMBERS, numbers_on, publish_numbers

KEYS = TableKeys(PREFIX, NUMBERS.name)


def announced(*reads: Any) -> list[dict[str, Any]]:
    return [{"id": f"m{number}", **({} if read is None else {"reads": read})} for number, read in enumerate(reads)]


@pytest.mark.parametrize(
    ("reads", "version", "strangers"),
    [
        ([], 3, []),
        ([[2, 3], [3, 4]], 3, []),
        ([[2, 3], [1, 2]], 2, []),
        ([[2, 3], None], 2, ["m1"]),  # says nothing: it knows version 1 alone
        ([[2, 3], [4, 5]], 3, ["m1"]),
        ([[2, 3], "nonsense"], 2, ["m1"]),
    ],
)
def test_what_a_leader_of_version_3_writes(
    monkeypatch: pytest.MonkeyPatch, reads: list[Any], version: int, strangers: list[str]
) -> None:
    monkeypatch.setattr(versions, "OLDEST", 2)
    monkeypatch.setattr(versions, "NEWEST", 3)
    assert versions.common(announced(*reads)) == (version, strangers)


def test_bytes_of_another_version_are_refused_with_a_word() -> None:
    data = Record(Op.CLEAR, Position(1, 2), Position(1, 1)).encode(versions.NEWEST + 1)
    with pytest.raises(BadRecord, match=rf"record of version {versions.NEWEST + 1}; this program reads .*: upgrade it"):
        Record.decode(data)


def test_who_cannot_read_the_log_looks_for_a_snapshot_behind_it_and_gives_nothing_up() -> None:
    """And does not say that nothing leads to the log's top: a coordinator would give its older state then."""
    found = at(9)
    top = Position(7, 12)
    assert found.handle(e.BeatArrived(top), now=1) == [e.ReadLog(found.position)]
    assert found.handle(e.Unreadable(), now=1) == [e.SetWant()]
    assert found.handle(e.Ticked(), now=2) == [e.ReadManifest()]
    assert found.handle(e.ManifestRead(manifest(9), is_held=True), now=2) == [e.SetWant()], "that is where it stands"
    assert found.handle(e.Ticked(), now=3) == [e.ReadLog(found.position)]
    assert found.handle(e.Unreadable(), now=3) == [e.SetWant()]
    assert (found.position, found.is_stranded) == (Position(7, 9), False)
    assert found.handle(e.BeatArrived(top), now=4) == []
    assert found.handle(e.Ticked(), now=5) == [e.ReadManifest()]
    newer = manifest(12)
    assert found.handle(e.ManifestRead(newer, is_held=True), now=5) == [e.LoadSnapshot(newer)]
    found.validate()


@pytest.mark.cluster
@pytest.mark.timeout(180 * PATIENCE)
async def test_a_fleet_is_upgraded_and_back_member_by_member(make_cluster: Callable[..., Awaitable[Cluster]]) -> None:
    """While rows are published. The leader writes what all can read; who comes back old is understood again."""
    cluster = await make_cluster([NUMBERS], coordinators=2, nodes=2)
    members = ("node-1", "coordinator-1", "node-2", "coordinator-2")
    commands = {name: cluster[name].argv for name in members}
    published = 0

    async def publish() -> None:
        nonlocal published
        await publish_numbers(cluster, range(published, published + 50))
        published += 50

    async def newest() -> int:
        ((_, fields),) = await cluster.redis.xrevrange(KEYS.log, count=1)
        version: int = struct.unpack_from("<2sB", fields[FIELD])[1]
        return version

    async def change(name: str, *, is_next: bool) -> None:
        kind = name.partition("-")[0]
        await cluster[name].terminate(20)
        await publish()
        cluster[name].argv = [*python_module("tests.next_version"), kind] if is_next else list(commands[name])
        await cluster.restart(name)
        await publish()
        await cluster.at_rest()

    async def writes(version: int) -> bool:
        await publish()
        await cluster.at_rest()
        return await newest() == version

    await publish()
    for name in members[:-1]:
        await change(name, is_next=True)
        assert await newest() == versions.NEWEST, f"{name} is new, others are not"
    await change(members[-1], is_next=True)
    await until(lambda: writes(versions.NEWEST + 1), 20, "the new version is written once all read it")
    await change("node-1", is_next=False)
    await until(lambda: writes(versions.NEWEST), 20, "the old version is written while one reads no other")
    await cluster.converged()
    for name in ("node-1", "node-2"):
        assert sorted(await numbers_on(cluster, name)) == list(range(published))

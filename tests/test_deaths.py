"""A leader dies between any two of its commands to Redis, and Redis forgets any number of its newest writes: see `tests/model.py`."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from unittest.mock import patch

import pytest

from parallax.replica import chunks
from tests.model import Fleet, Plan, run
from tests.model_fleet import WIDER
from tests.model_redis import Store, running_store
from tests.model_truth import State, Truth
from tests.model_world import Member, Odds

MOST_CALLS = 100


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with running_store() as store:
        yield store


def present(truth: Truth) -> State:
    """What the log's top stands for."""
    return truth.states[truth.top()]


async def alter(fleet: Fleet, leader: Member) -> Callable[[], object]:
    await fleet.ask("alter", WIDER)
    return lambda: present(fleet.world.truth).spec == WIDER


async def drop(fleet: Fleet, leader: Member) -> Callable[[], object]:
    await fleet.ask("drop", None)
    store, keys = fleet.world.store, fleet.world.keys
    return lambda: present(fleet.world.truth).spec is None and store.ask("XLEN", keys.log) == 1


async def snapshot(fleet: Fleet, leader: Member) -> Callable[[], object]:
    store, keys = fleet.world.store, fleet.world.keys
    before = store.ask("HGET", keys.manifest, "position")
    store.run([("SET", keys.want, "1")])
    return lambda: store.ask("HGET", keys.manifest, "position") != before


async def takeover(fleet: Fleet, leader: Member) -> Callable[[], object]:
    """The leader dies; it is the standby whose commands are counted."""
    (old,) = (member for name, member in fleet.members.items() if name.startswith("coordinator") and member is not leader)
    term = fleet.world.truth.top().term
    fleet.kill(old)
    return lambda: fleet.world.truth.top().term != term


@pytest.mark.parametrize("deed", [takeover, alter, drop, snapshot])
def test_a_leader_dies_behind_any_of_its_commands(
    store: Store, deed: Callable[..., Awaitable[Callable[[], object]]]
) -> None:
    is_over = False
    number = 0
    while not is_over:
        number += 1
        assert number < MOST_CALLS, "it never gets done"
        is_over = dies_behind(store, deed, number)
    assert number > 3, "nothing was tried"


def dies_behind(store: Store, deed: Callable[..., Awaitable[Callable[[], object]]], number: int) -> bool:
    """Let the leader die behind so many of its commands; True if it was done with its deed by then."""
    was_done: list[bool] = []

    async def script(fleet: Fleet) -> None:
        world = fleet.world
        await fleet.until(lambda: len(present(world.truth).rows) > 5 and store.ask("EXISTS", world.keys.manifest))
        leader = fleet.leader()
        assert leader is not None
        if deed is takeover:
            (leader,) = (
                member for name, member in fleet.members.items() if name.startswith("coordinator") and member is not leader
            )
        is_done = await deed(fleet, leader)
        leader.dies_at = leader.calls + number
        await fleet.until(lambda: leader.is_dead or is_done())
        was_done.append(not leader.is_dead)
        await asyncio.sleep(1)

    with patch.object(chunks, "CHUNK_BYTES", 200):  # so that a snapshot has several
        run(store, f"{deed.__name__} {number}", Plan(Odds(), 60, {}, pause_seconds=1.0, script=script))
    return was_done[0]


@pytest.mark.parametrize("deed", ["snapshots", "by hand", "with all that was before"])
def test_the_log_is_trimmed_between_any_two_questions_of_a_node_that_joins(store: Store, deed: str) -> None:
    for number in range(1, 8):
        node_joins(store, deed, number)


def node_joins(store: Store, deed: str, number: int) -> None:
    """Trim the log before a joining node's question of that number."""
    trimmed: list[int] = []

    async def script(fleet: Fleet) -> None:
        world = fleet.world
        keys, truth = world.keys, world.truth

        async def trim() -> None:
            trimmed.append(number)
            if deed == "snapshots":
                for _ in range(2):
                    await fleet.until(await snapshot(fleet, fleet.members["coordinator-1"]))
            if deed == "with all that was before":
                store.run([("DEL", keys.manifest)])
            if deed != "snapshots":
                store.run([("XTRIM", keys.log, "MAXLEN", "0")])

        await fleet.until(lambda: len(present(truth).rows) > 5 and store.ask("EXISTS", keys.manifest))
        truth.is_damaged = deed != "snapshots"
        fleet.kill(fleet.members["node-1"])
        await fleet.until(lambda: not fleet.members["node-1"].is_dead)
        node = fleet.members["node-1"]
        node.before_call[node.calls + number] = trim
        await fleet.until(fleet.replicas["node-1"].is_at_the_top)

    run(store, f"{deed} {number}", Plan(Odds(), 60, {}, pause_seconds=0.3, script=script))
    assert trimmed or number > 2, "the node asked nothing"


@pytest.mark.parametrize("step", [20, pytest.param(1, marks=[pytest.mark.deep, pytest.mark.timeout(900)])])
def test_redis_forgets_any_number_of_its_newest_writes(store: Store, step: int) -> None:
    """As if its append-only file were cut behind every command of a table's making, filling, altering and dropping."""

    async def script(fleet: Fleet) -> None:
        truth = fleet.world.truth
        await fleet.until(lambda: len(present(truth).rows) > 3)
        await fleet.until(await alter(fleet, fleet.members["coordinator-1"]))
        await fleet.until(lambda: len(present(truth).rows) > 5)
        await fleet.until(await snapshot(fleet, fleet.members["coordinator-1"]))
        await fleet.until(await drop(fleet, fleet.members["coordinator-1"]))
        await fleet.ask("create", WIDER)
        await fleet.until(lambda: present(truth).rows)
        written.append(len(store.journal))

    written: list[int] = []
    run(store, "cut", Plan(Odds(), 60, {}, script=script))
    for count in range(0, written[0] + step, step):
        run(store, "cut", Plan(Odds(), 60, {}, script=script, cut_back=count))

"""A leader dies between any two of its commands to Redis, and Redis forgets any number of its newest writes: see `tests/model.py`."""

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from tests.model import Fleet, Plan, run
from tests.model_fleet import WIDER
from tests.model_redis import Store
from tests.model_truth import State, Truth
from tests.model_world import Member, Odds

MOST_CALLS = 100


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with tempfile.TemporaryDirectory(prefix="model") as directory:  # a short path: it is a socket's
        store = Store(Path(directory))
        yield store
        store.close()


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

    run(store, f"{deed.__name__} {number}", Plan(Odds(), 60, {}, pause_seconds=1.0, script=script))
    return was_done[0]


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

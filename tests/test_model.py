"""The log under random faults, and under scripted ones: see `tests/model.py`.

A seed that fails is played again by `python -m pytest tests/test_model.py -k slice` with PARALLAX_TEST_SEED set to it, and PARALLAX_TEST_RUNS=1.
"""

import asyncio
import os
import time
from collections.abc import Iterator

import pytest

from parallax.replication.spec import TableSpec
from tests.model import Fleet, Plan, run
from tests.model_fleet import SPEC, WIDER
from tests.model_redis import Store, running_store
from tests.model_world import Odds

FIRST = int(os.environ.get("PARALLAX_TEST_SEED", "1"))
RUNS = int(os.environ.get("PARALLAX_TEST_RUNS", "0"))
SLICE_SECONDS = 10.0
PARTS = 20
"""The long run goes in so many parts of 1,000 schedules."""


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with running_store() as store:
        yield store


def test_a_slice_of_random_schedules(store: Store) -> None:
    until = time.monotonic() + SLICE_SECONDS
    seed = FIRST
    while seed < FIRST + RUNS if RUNS else time.monotonic() < until:
        run(store, seed)
        seed += 1
    assert seed > FIRST


@pytest.mark.deep
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(PARTS))
def test_many_random_schedules(store: Store, part: int) -> None:
    for seed in range(1000 * part, 1000 * (part + 1)):
        run(store, seed)


def test_a_dropped_table_still_knows_its_producers(store: Store) -> None:
    """Who never saw the table but for the record that ended it, and who held it, agree when it is made again."""

    async def script(fleet: Fleet) -> None:
        truth = fleet.world.truth
        await fleet.until(lambda: len(truth.states[truth.top()].rows) > 5)
        await fleet.ask("drop", None)
        await fleet.until(lambda: truth.states[truth.top()].spec is None)
        for name in ("coordinator-1", "coordinator-2"):
            fleet.kill(fleet.members[name])
        await asyncio.sleep(4)
        await fleet.ask("create", SPEC)
        await fleet.until(lambda: truth.states[truth.top()].rows)

    run(store, "dropped", Plan(Odds(), 60, {}, script=script))


def test_a_leader_whose_own_replica_cannot_reach_the_top_starts_over(store: Store) -> None:
    async def script(fleet: Fleet) -> None:
        world = fleet.world
        await fleet.until(lambda: len(world.truth.states[world.truth.top()].rows) > 5)
        leader = fleet.leader()
        assert leader is not None
        world.deaf.add(leader.name)
        top = world.truth.top()
        await fleet.until(lambda: world.truth.top().offset > top.offset + 3)
        await fleet.happen("delete manifest")
        world.store.run([("XTRIM", world.keys.log, "MAXLEN", 1)])
        await asyncio.sleep(5)
        world.deaf.clear()

    run(store, "stranded", Plan(Odds(), 60, {}, script=script))


@pytest.mark.parametrize("declared", [(), (SPEC,)], ids=["made by command", "in the tables file"])
def test_on_a_wiped_redis_the_coordinator_that_knows_most_gives_the_state_back(
    store: Store, declared: tuple[TableSpec, ...]
) -> None:
    """The other one knows nothing, and would be the first to lead."""
    numbers: list[int] = []

    async def script(fleet: Fleet) -> None:
        world = fleet.world
        await fleet.until(lambda: len(world.truth.states[world.truth.top()].rows) > 5)
        warm = fleet.leader()
        assert warm is not None
        cold = next(name for name in fleet.members if name.startswith("coordinator") and name != warm.name)
        fleet.kill(fleet.members[cold])
        await fleet.until(lambda: not fleet.members[cold].is_dead)
        numbers.extend(fleet.replicas[warm.name].ensure("t").table.held)  # type: ignore[attr-defined]
        world.freeze(warm, 1.0)
        await fleet.forget(len(store.journal))
        await fleet.until(lambda: world.truth.top().offset > 0)
        rows = world.truth.states[world.truth.top()].rows
        assert rows[: len(numbers)] == tuple(numbers)

    run(store, "wiped", Plan(Odds(), 60, {}, script=script, declared=declared))
    assert len(numbers) > 5


def test_a_changed_schema_whose_snapshot_is_deleted_before_anybody_loaded_it(store: Store) -> None:
    async def script(fleet: Fleet) -> None:
        world = fleet.world
        await fleet.until(lambda: len(world.truth.states[world.truth.top()].rows) > 5)
        world.deaf.update(fleet.members)
        await fleet.ask("alter", WIDER)
        await fleet.until(lambda: world.truth.states[world.truth.top()].spec == WIDER)
        await fleet.happen("delete manifest")
        world.deaf.clear()

    run(store, "altered", Plan(Odds(), 60, {}, script=script))

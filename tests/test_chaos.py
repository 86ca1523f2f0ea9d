"""A slice of `make chaos`, seeds that failed once, and that a plan is its seed's alone."""

from pathlib import Path

import pytest

from tests.chaos import run_seed
from tests.chaos_plan import AGAINST_DATA, AGAINST_MEMBERS, BEHIND_SENTINEL, WITHOUT_ITS_TAIL, plan
from tests.processes import PATIENCE

FAILED_ONCE = {
    4: "views of a table that was made anew twice in a row were gone",
    15: "the same",
    36: "a coordinator did not heed SIGTERM; seen once, not understood",
    88: "a position that was told went back, at a record that changes no rows",
}
"""Seeds that showed a defect, and which. Each that is understood has a small test of its own, too."""


@pytest.mark.cluster
@pytest.mark.timeout(180 * PATIENCE)
@pytest.mark.parametrize("seed", [1, 7, 10])
async def test_faults_from_a_seed(tmp_path: Path, seed: int) -> None:
    print(await run_seed(seed, tmp_path))


@pytest.mark.cluster
@pytest.mark.deep
@pytest.mark.timeout(180 * PATIENCE)
@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_faults_and_a_failover(tmp_path: Path, seed: int) -> None:
    print(await run_seed(seed, tmp_path, has_sentinel=True))


@pytest.mark.cluster
@pytest.mark.deep
@pytest.mark.timeout(180 * PATIENCE)
@pytest.mark.parametrize("seed", FAILED_ONCE)
async def test_seeds_that_failed_once(tmp_path: Path, seed: int) -> None:
    print(await run_seed(seed, tmp_path))


def test_a_seed_is_always_the_same_plan() -> None:
    plans = [plan(seed) for seed in range(300)]
    assert plans == [plan(seed) for seed in range(300)]
    assert {fault.kind for one in plans for fault in one.faults} == {
        *(*AGAINST_MEMBERS, *AGAINST_DATA, *WITHOUT_ITS_TAIL),
        "lose the tail",
    }
    behind = [plan(seed, has_sentinel=True) for seed in range(300)]
    assert {fault.kind for one in behind for fault in one.faults} == BEHIND_SENTINEL.keys() | {"kill primary"}


def test_nobody_disturbs_a_coordinator_while_redis_loses_what_only_coordinators_have() -> None:
    for one in map(plan, range(300)):
        if {fault.kind for fault in one.faults} & (AGAINST_DATA.keys() - AGAINST_MEMBERS.keys()):
            assert all(fault.whom in ("redis", "node", "publishers") for fault in one.faults)
            assert not {"kill redis", "pause redis", "cut all", "steal the lease"} & {fault.kind for fault in one.faults}

"""What viewers are answered through the gateway is what Perspective itself answers, whoever else is looking."""

from pathlib import Path

import pytest

from tests.differential import STATE
from tests.differential_requests import WRITES
from tests.differential_runs import Run, run
from tests.processes import PATIENCE

pytestmark = pytest.mark.timeout(3600 * PATIENCE)

KINDS = {3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 20, 21, 22, 24, 25, 26, 29, 30, 34, 35, 36, 37, 39, 40, 41}
KINDS |= STATE | set(WRITES)
"""All that viewers may ask, and what is refused."""

FEATURES = {
    "expressions", "windows", "group_by", "split_by", "two levels", "group_by_depth", "flat roll-up", "total roll-up",
    "aggregates", "filter", "OR", "sort", "sort by a column not shown", "sort of columns", "viewport",
    "viewport beyond the rows", "viewport beyond the columns", "row deltas", "notifications", "closed while asking",
    "closed while making a view", "reads at the same time", "reads while data change", "configuration of before",
    "data: update", "data: remove", "data: replace", "data: clear", "data: some columns",
}  # fmt: skip

HAPPENED = {"refused", "not made", "private", "notified", "changed rows", "removed rows", "heard of the end"}


async def compare(seeds: range, requests: int, directory: Path) -> None:
    whole = Run()
    for seed in seeds:
        whole.add(await run(seed, requests, directory / f"seed-{seed}"))
    assert whole.asked.total() >= len(seeds) * requests
    assert not [kind for kind in KINDS if not whole.asked[kind]]
    assert not [name for name in FEATURES if not whole.features[name]]
    assert not [name for name in HAPPENED if not whole.happened[name]]


async def test_answers_are_those_of_perspective(tmp_path: Path) -> None:
    await compare(range(8), 300, tmp_path)


@pytest.mark.deep
async def test_answers_are_those_of_perspective_however_long_it_goes_on(tmp_path: Path) -> None:
    await compare(range(100, 160), 450, tmp_path)

"""`python -m loadtests.load` passes, and fails when it should: each time a whole cluster, a publisher, and Locust with a worker.

Thresholds are wide: how fast this machine is at the moment is not what these tests are about, but whether each fault is found
and told from the others.
"""

import asyncio
import json
import re
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from loadtests.accounting import Books
from loadtests.load_verdict import Outcome
from parallax.replication.spec import TableSpec
from tests.cluster import Cluster
from tests.processes import PATIENCE, ROOT

SMALL = [
    "--seconds=4",
    "--nodes=1",
    "--coordinators=1",
    "--peak=10",
    "--table-rows=2000",
    "--sharing=0.5",
    "--herd-seconds=1",
]
WIDE = {
    **{"end_to_end_p50": 1_000, "end_to_end_p99": 1_700, "stale_p99": 1_700, "first_row_p99": 9_000},
    **{"fresh_p99": 9_000, "edit_p99": 9_000, "generator_lag_p99": 600, "publisher_late_p99": 600},
}


async def load(*arguments: str) -> tuple[Outcome, str]:
    limits = [part for name, value in WIDE.items() for part in ("--limit", f"{name}={value / PATIENCE}")]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "loadtests.load", *SMALL, *limits, *arguments),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    text = output.decode()
    assert process.returncode is not None
    assert process.returncode in list(Outcome), text
    return Outcome(process.returncode), text


@pytest.mark.cluster
async def test_a_load_test_passes_and_measures_all_that_it_promises(tmp_path: Path) -> None:
    outcome, text = await load("--keep", str(tmp_path / "kept.json"))
    assert outcome is Outcome.PASSED, text
    kept: dict[str, Any] = json.loads((tmp_path / "kept.json").read_text())
    books = Books.from_json(kept["books"])
    for entry in (
        "connect",
        "first row",
        "end to end",
        "end to end, rows",
        "staleness",
        "reconnect to fresh",
        "edit",
        "refresh",
    ):
        assert books.count(entry), f"{entry}\n{text}"
    assert books.counts["proofs"] == 10
    assert books.counts["messages"] > 0
    assert 0 < books.count("end to end") <= 6 * 40, "at most each of 40 updates for each of 6 viewers"
    assert books.count("end to end, rows") == 40
    assert Books.from_json(kept["pacer"]).counts["published"] == 40


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("fault", "expected", "said"),
    [
        pytest.param("lag", Outcome.SLOW, r"FAIL end to end, p99", marks=pytest.mark.deep),
        ("loss", Outcome.WRONG, r"FAIL rows lost +100 "),
        ("busy", Outcome.INVALID, r"FAIL generator"),
    ],
)
async def test_a_load_test_fails_when_it_should(fault: str, expected: Outcome, said: str) -> None:
    outcome, text = await load("--inject", fault)
    assert outcome is expected, text
    assert re.search(said, text), text


@pytest.mark.cluster
async def test_the_user_of_the_readme_follows_a_table_of_his_own(
    make_cluster: Callable[..., Awaitable[Cluster]], tmp_path: Path
) -> None:
    example = (ROOT / "loadtests" / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    (tmp_path / "desk.py").write_text(example)
    spec = TableSpec.declare("trades", {"schema": {"id": "int64", "desk": "string", "price": "float64"}, "index": "id"})
    cluster = await make_cluster([spec], nodes=1, coordinators=1)
    await cluster.publish("trades", op="update", format="json", data='[{"id": 1, "desk": "north", "price": 2.5}]')
    await cluster.at_rest()
    options = ["-f", "desk.py", "--headless", "-u2", "-r2", f"-t{3 * PATIENCE:.0f}", "--json-file", "found"]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "locust", *options, "--host", cluster.url("node-1", "")),
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    entries = {entry["name"]: entry for entry in json.loads((tmp_path / "found.json").read_text())}
    assert entries.keys() >= {"connect", "make view", "dimensions", "schema", "rows", "refresh"}
    assert {entry["num_failures"] for entry in entries.values()} == {0}
    assert entries["refresh"]["num_requests"] >= 2


@pytest.mark.cluster
@pytest.mark.deep
@pytest.mark.timeout(3600)
async def test_half_an_hour_at_2000_rows_a_second() -> None:
    outcome, text = await load(
        "--shape=soak", "--seconds=1800", "--rate=20", "--nodes=2", "--coordinators=2", "--peak=30", "--herd-seconds=20"
    )
    print(text)
    assert outcome is Outcome.PASSED, text

"""What docs/operations.md says of settings and metrics is what there is."""

import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from coordinator.settings import CoordinatorSettings
from node.gateway import Gateway
from node.metrics import Metrics
from node.settings import NodeSettings
from parallax.replica.engine import Engine
from parallax.replication.spec import TableSpec
from parallax.settings import CommonSettings, table_of

OPERATIONS = (Path(__file__).resolve().parents[1] / "docs" / "operations.md").read_text()


@pytest.mark.parametrize(("heading", "kind"), [("a node", NodeSettings), ("a coordinator", CoordinatorSettings)])
def test_all_settings_are_there(heading: str, kind: type[CommonSettings]) -> None:
    """To mend it, put the output of `table_of(kind)` there."""
    section = OPERATIONS.partition(f"### Settings of {heading}\n")[2].partition("\n### ")[0]
    written = [line for line in section.splitlines() if line.startswith("| `PARALLAX_")]
    assert written == table_of(kind).splitlines()[2:]


async def test_the_metrics_of_a_node_are_all_there_and_no_others() -> None:
    written = re.findall(r"^\| `(parallax_node_\w+)` \| (\w+) \| [^|]+ \| [^|]*\|$", OPERATIONS, re.MULTILINE)
    spec = TableSpec.declare("t", {"schema": {"n": "integer"}, "limit": 1})
    engine = Engine(frame_seconds=1.0)
    metrics = Metrics()
    gateway = Gateway(NodeSettings(), metrics.observe)
    try:
        table = engine.table("t")
        await table.load(spec, spec.arrow_schema.empty_table())
        gateway.add_table("t", table)
        metrics.watch(gateway, engine)
        families = text_string_to_metric_families(metrics.text().decode())
        exposed = [(family.name, family.type) for family in families if not family.name.endswith("_created")]
    finally:
        await gateway.close()
        await engine.close()
    assert sorted(written) == sorted(exposed)


def test_every_guarantee_names_tests_that_exist() -> None:
    root = Path(__file__).resolve().parents[1]
    text = (root / "docs" / "guarantees.md").read_text()
    known = {
        name
        for path in (root / "tests").glob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)|^\s+(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE)
        for name in name
        if name
    }
    rows = [
        line for line in text.splitlines() if line.startswith("| ") and not line.startswith(("| promise", "| not promised"))
    ]
    assert len(rows) > 30
    for row in rows:
        named = re.findall(r"`(test_\w+)`", row.rpartition(" | ")[2])
        assert named, row
        assert set(named) <= known, row

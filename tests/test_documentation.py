"""What docs/operations.md says of settings and metrics is what there is."""

import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

import coordinator.metrics
from coordinator.backlog import Backlogs
from coordinator.leadership import Leadership
from coordinator.lease import Lease
from coordinator.settings import CoordinatorSettings
from node.gateway import Gateway
from node.metrics import Metrics
from node.settings import NodeSettings
from parallax.replica.engine import Engine
from parallax.replica.replicas import Replicas
from parallax.replication.keys import FleetKeys
from parallax.replication.spec import TableSpec
from parallax.settings import CommonSettings, table_of
from parallax.store import connect

OPERATIONS = (Path(__file__).resolve().parents[1] / "docs" / "operations.md").read_text()


@pytest.mark.parametrize(("heading", "kind"), [("a node", NodeSettings), ("a coordinator", CoordinatorSettings)])
def test_all_settings_are_there(heading: str, kind: type[CommonSettings]) -> None:
    """To mend it, put the output of `table_of(kind)` there."""
    section = OPERATIONS.partition(f"### Settings of {heading}\n")[2].partition("\n### ")[0]
    written = [line for line in section.splitlines() if line.startswith("| `PARALLAX_")]
    assert written == table_of(kind).splitlines()[2:]


async def test_the_metrics_of_a_node_are_all_there_and_no_others() -> None:
    spec = TableSpec.declare("t", {"schema": {"n": "integer"}, "limit": 1})
    engine = Engine(frame_seconds=1.0)
    metrics = Metrics()
    gateway = Gateway(NodeSettings(), metrics.observe)
    try:
        table = engine.table("t")
        await table.load(spec, spec.arrow_schema.empty_table())
        gateway.add_table("t", table)
        metrics.watch(gateway, engine)
        exposed = _exposed(metrics.text())
    finally:
        await gateway.close()
        await engine.close()
    assert sorted(_written("node")) == exposed


def _written(service: str) -> list[tuple[str, str]]:
    return re.findall(rf"^\| `(parallax_{service}_\w+)` \| (\w+) \| [^|]+ \| [^|]*\|$", OPERATIONS, re.MULTILINE)


def _exposed(text: bytes) -> list[tuple[str, str]]:
    families = text_string_to_metric_families(text.decode())
    return sorted((family.name, family.type) for family in families if not family.name.endswith("_created"))


async def test_the_metrics_of_a_coordinator_are_all_there_and_no_others() -> None:
    redis = connect("redis://127.0.0.1:1")
    settings, keys, engine = CoordinatorSettings(), FleetKeys("parallax"), Engine(frame_seconds=1.0)
    try:
        replicas = Replicas(redis, settings.prefix, engine, "me")
        metrics = coordinator.metrics.Metrics()
        leadership = Leadership(redis, Lease(redis, keys.lease, "me", 3.0), replicas, settings)
        metrics.watch(leadership, Backlogs(redis, replicas), replicas)
        exposed = _exposed(metrics.text())
    finally:
        await engine.close()
        await redis.aclose()
    assert sorted(_written("coordinator")) == exposed


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

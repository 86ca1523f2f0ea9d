"""The fleet as tables of its own: who is there is in them, who is gone is not, and without the setting there are none."""

import base64
import json
import zlib
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from node.fleet_page import FLEET_LAYOUT, fleet_address
from parallax.fleet_tables import FLEET, MOST_TABLES, MOST_WAITING, NODES, TABLES, ids_of, publish, rows_of, with_fleet
from parallax.replication.spec import TableSpec
from tests.browser import Browser
from tests.cluster import PREFIX, Cluster
from tests.processes import PATIENCE, until

NUMBERS = TableSpec("numbers", (("n", "int64"),), limit=100)
MakeCluster = Callable[..., Awaitable[Cluster]]


def member(tables: int = 1) -> dict[str, Any]:
    """Return what a node announces."""
    table = {
        "state": "live",
        "position": "7-42",
        "lag_records": 0,
        "lag_seconds": 0.25,
        "silence_seconds": 0.5,
        "rows": 3,
    }
    return {
        "kind": "node",
        "id": "node-1",
        "version": "1",
        "leader": False,
        "ready": True,
        "draining": False,
        "sessions": 2,
        "views": 4,
        "memory_bytes": 3 << 20,
        "loop_busy": 0.5,
        "tables": {f"t{number:03}": table for number in range(tables)} | {NODES.name: table},
    }


def test_rows_fit_their_tables_and_are_bounded() -> None:
    rows = rows_of(member(MOST_TABLES + 50), 1000)
    for spec in FLEET:
        assert all(row.keys() == set(spec.columns) for row in rows[spec.name])
        assert {row["id"] for row in rows[spec.name]} == ids_of([member(MOST_TABLES + 50)])[spec.name]
    assert [len(rows[spec.name]) for spec in FLEET] == [1, MOST_TABLES], "and the fleet's own tables are not in them"
    assert rows[NODES.name][0]["state"] == "ready"
    assert rows_of(member() | {"draining": True}, 0)[NODES.name][0]["state"] == "draining"


def test_a_table_that_somebody_declared_is_his() -> None:
    own = TableSpec(NODES.name, (("n", "int64"),), limit=1)
    assert with_fleet([NUMBERS]) == [NUMBERS, NODES, TABLES]
    assert with_fleet([own]) == [own, TABLES]


def test_the_layout_is_one_that_the_page_unpacks() -> None:
    letters = fleet_address().partition("&layout=")[2]
    raw = base64.urlsafe_b64decode(letters + "=" * (-len(letters) % 4))
    assert json.loads(zlib.decompress(raw, -15)) == FLEET_LAYOUT
    for panel in FLEET_LAYOUT["panels"].values():
        (spec,) = [spec for spec in FLEET if spec.name == panel["table"]]
        assert set(panel["columns"]) <= set(spec.columns)


async def rows(cluster: Cluster, node: str, spec: TableSpec) -> list[dict[str, Any]]:
    """Return the rows that a node shows."""
    found = await cluster.read(node, spec)
    return [dict(zip(spec.columns, row, strict=True)) for row in found]


@pytest.mark.cluster
@pytest.mark.browser
@pytest.mark.timeout(180 * PATIENCE)
async def test_who_is_there_is_shown_and_who_is_gone_is_not(make_cluster: MakeCluster, browser: Browser) -> None:
    cluster = await make_cluster([NUMBERS], nodes=2, coordinators=1, settings={"FLEET": "true"})
    for spec in FLEET:
        await until(lambda spec=spec: _has(cluster, spec), 30, f"{spec.name} is there")
    await cluster.publish(NUMBERS.name, data='[{"n": 1}, {"n": 2}]')

    async def shows(*names: str) -> bool:
        found = {row["id"]: row for row in await rows(cluster, "node-1", NODES)}
        assert found.keys() == set(names)
        replicas = {row["id"]: row for row in await rows(cluster, "node-1", TABLES)}
        assert replicas.keys() == {f"{name}/numbers" for name in names}
        assert (found["coordinator-1"]["state"], found["node-1"]["state"]) == ("leader", "ready")
        assert float(str(found["node-1"]["memory_mib"]).removeprefix("float ")) > 10
        assert {row["rows"] for row in replicas.values()} == {2}
        assert replicas["coordinator-1/numbers"]["backlog_entries"] == 0
        return True

    await until(lambda: shows("coordinator-1", "node-1", "node-2"), 40, "all are there")
    tab = await browser.open(cluster.url("node-1", "/fleet#token=mine"))

    async def panels() -> bool:
        text: str = await tab.page.evaluate(
            "document.querySelector('perspective-viewer').saveWorkspace().then(saved => JSON.stringify(saved.panels))"
        )
        assert sorted(panel["title"] for panel in json.loads(text).values()) == sorted(
            panel["title"] for panel in FLEET_LAYOUT["panels"].values()
        )
        return True

    async def of_the_page() -> bool:
        try:
            return await panels()
        except Exception as error:  # noqa: BLE001 - the viewer is not there yet
            raise AssertionError(str(error)) from None

    await until(of_the_page, 60, "the page shows the layout")
    address = urlsplit(tab.page.url)
    assert address.query == f"table={NODES.name}"
    assert parse_qs(address.fragment).keys() == {"token", "layout"}, "the token did not get lost on the way"
    assert tab.complaints == []

    await cluster["node-2"].kill()
    await until(lambda: shows("coordinator-1", "node-1"), 40, "the rows of a node that is gone are gone")
    assert await cluster.rejected(NODES.name) == await cluster.rejected(TABLES.name) == []


async def _has(cluster: Cluster, spec: TableSpec) -> bool:
    for name in cluster.running:
        assert (await cluster.status(name))["tables"][spec.name]["state"] == "live"
    return True


@pytest.mark.cluster
@pytest.mark.timeout(120 * PATIENCE)
async def test_without_the_setting_there_is_nothing_and_without_a_leader_nothing_piles_up(make_cluster: MakeCluster) -> None:
    cluster = await make_cluster([NUMBERS], nodes=1, coordinators=1)
    assert (await cluster.fetch(cluster.url("node-1", "/fleet")))[0] == 404
    assert (await cluster.status("node-1"))["tables"].keys() == {NUMBERS.name}
    key = f"{PREFIX}:{{{NODES.name}}}:in"
    for _ in range(MOST_WAITING + 5):
        await publish(cluster.redis, PREFIX, NODES.name, "update", [{"id": "a"}])
    assert await cluster.redis.xlen(key) == MOST_WAITING

"""What running nodes and coordinators measure, and that alerts and dashboard ask for nothing else."""

import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from parallax.replication.spec import TableSpec
from tests.cluster import Cluster
from tests.processes import PATIENCE, until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120 * PATIENCE)]

MakeCluster = Callable[..., Awaitable[Cluster]]
NUMBERS = TableSpec("numbers", (("n", "int64"),), limit=100)
FILES = Path(__file__).resolve().parents[1] / "helm" / "files"
ENDINGS = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}


async def scrape(cluster: Cluster, name: str) -> tuple[set[str], dict[str, float]]:
    """Return what a member's samples can be called, and their values by what they are called after the service, of our table."""
    code, body = await cluster.fetch(cluster.url(name, "/metrics", internal=True))
    assert code == 200
    families = list(text_string_to_metric_families(body.decode()))
    names = {family.name + ending for family in families for ending in ENDINGS[family.type]}
    values = {
        re.sub(r"^parallax_(node|coordinator)_", "", sample.name): sample.value
        for family in families
        for sample in family.samples
        if sample.labels.keys() <= {"table"} and sample.labels.get("table", NUMBERS.name) == NUMBERS.name
    }
    return names, values


async def test_alerts_and_dashboard_ask_for_what_running_members_expose(make_cluster: MakeCluster) -> None:
    cluster = await make_cluster([NUMBERS], nodes=1, coordinators=1)
    exposed = (await scrape(cluster, "node-1"))[0] | (await scrape(cluster, "coordinator-1"))[0]
    for path in ("dashboard.json", "alerts.yaml"):
        asked = set(re.findall(r"parallax_(?:node|coordinator)_\w+", (FILES / path).read_text()))
        assert len(asked) > 10
        assert asked <= exposed, path


async def test_what_is_published_is_counted_and_what_waits_is_seen_by_the_standby(make_cluster: MakeCluster) -> None:
    cluster = await make_cluster([NUMBERS], nodes=1, settings={"LEASE_TTL_SECONDS": "60"})
    leader = await cluster.leader()
    (standby,) = {"coordinator-1", "coordinator-2"} - {leader}
    for n in range(5):
        await cluster.publish(NUMBERS.name, data=json.dumps([{"n": n}, {"n": -n}]))
    await cluster.publish(NUMBERS.name, data='[{"n": "none"}]')
    await cluster.at_rest()
    _, led = await scrape(cluster, leader)
    assert (led["leader"], led["entries_total"], led["refused_total"], led["rows_total"], led["lost_total"]) == (
        1,
        6,
        1,
        10,
        0,
    )
    assert 1 <= led["records_total"] - led["begins_total"] + 1 <= 6
    assert led["append_seconds_count"] > led["sequence_seconds_count"] >= 1
    assert led["term"] > 1.7e12
    assert led["memory_bytes"] > 1 << 20
    _, stands_by = await scrape(cluster, standby)
    assert (stands_by["leader"], stands_by["backlog_entries"]) == (0, 0)
    assert stands_by["entries_total"] == stands_by["lost_total"] == 0, "so that the first ones are an increase"
    log = stands_by["log_entries"]

    # While the leader stands still, the standby and the node tell of it.
    cluster[leader].pause()
    for n in range(5):
        await cluster.publish(NUMBERS.name, data=json.dumps([{"n": n}]))

    async def it_is_seen() -> bool:
        _, other = await scrape(cluster, standby)
        _, node = await scrape(cluster, "node-1")
        assert (other["backlog_entries"], node["lag_seconds"]) == (5, 0)
        assert min(other["backlog_seconds"], other["silence_seconds"], node["silence_seconds"]) > 2.5
        return True

    await until(it_is_seen, 20, "backlog and silence grow")
    cluster[leader].resume()

    async def it_is_over() -> bool:
        _, other = await scrape(cluster, standby)
        _, node = await scrape(cluster, "node-1")
        assert (other["backlog_entries"], other["backlog_seconds"]) == (0, 0)
        assert max(other["silence_seconds"], node["silence_seconds"]) < 2
        assert other["log_entries"] > log
        return True

    await until(it_is_over, 20, "all is level again")


async def test_who_leads_no_more_keeps_what_it_counted(make_cluster: MakeCluster) -> None:
    cluster = await make_cluster([NUMBERS], nodes=0)
    first = await cluster.leader()
    (second,) = {"coordinator-1", "coordinator-2"} - {first}
    await cluster.publish(NUMBERS.name, data='[{"n": 1}, {"n": 2}]')
    await cluster.at_rest()
    cluster[first].pause()

    async def leads_on() -> bool:
        return (await scrape(cluster, second))[1]["leader"] == 1

    await until(leads_on, 20, "the other one leads")
    cluster[first].resume()

    async def stands_by() -> bool:
        _, values = await scrape(cluster, first)
        assert (values["leader"], "term" in values) == (0, False)
        assert (values["entries_total"], values["rows_total"]) == (1, 2)
        return True

    await until(stands_by, 20, "it stands by")
    await cluster.publish(NUMBERS.name, data='[{"n": 3}]')
    await cluster.at_rest()
    counted = [(await scrape(cluster, name))[1]["rows_total"] for name in (first, second)]
    assert counted == [2, 1]
    assert (await scrape(cluster, second))[1]["begins_total"] >= 1

"""`parallax size`: more load never needs fewer nodes, what is full first is named, and wrong numbers are refused in words."""

import json
import random
from dataclasses import replace
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from parallax.cli import main
from parallax.commands.size import values
from parallax.errors import ConfigurationError
from parallax.sizing import MIB, Demand, cost, load_costs, node_work, plan, views_of_a_node
from tests.processes import ROOT

COSTS: dict[str, Any] = {
    "loop": {"second": 0.01, "refresh": 2e-4, "entry": 1e-4},
    "engine": {"second": 0.01, "row": 1e-6, "sorted view, poll": 1e-4, "grouped view, poll": 2e-4, "sorted view, row": 1e-6},
    "coordinator": {"second": 0.02, "entry": 3e-4, "row": 1e-6},
    "redis": {"second": 0.01, "entry": 5e-5, "entry sent": 5e-6, "byte sent": 1e-9},
    "memory": {"node": 1e8, "row": 100, "viewer": 2e4, "sorted view, row": 20, "grouped view, row": 10},
}
USUAL = Demand(viewers=5000, views=40, rows=20_000)

demands = st.builds(
    Demand,
    viewers=st.integers(0, 200_000),
    views=st.integers(1, 20_000),
    rows=st.floats(0, 1e6),
    refreshes=st.floats(0.1, 20),
    tables=st.integers(1, 20),
    table_rows=st.integers(0, 1_000_000),
    grouped=st.floats(0, 1),
    headroom=st.floats(0.1, 1),
    memory_per_node=st.just(1e6),
)


def needed(demand: Demand) -> float:
    """Return the nodes, infinitely many where no number is enough."""
    return plan(demand, COSTS).nodes or float("inf")


@given(
    demands,
    st.sampled_from(
        ["viewers", "views", "rows", "refreshes", "table_rows", "cores_per_node", "memory_per_node", "headroom"]
    ),
    st.floats(1.01, 10),
)
def test_more_load_never_needs_fewer_nodes_and_more_room_never_more(demand: Demand, name: str, times: float):
    demand = replace(demand, memory_per_node=2.0)
    before = getattr(demand, name)
    if name in ("cores_per_node", "memory_per_node", "headroom"):
        assert needed(
            replace(demand, **{name: min(1.0, before * times) if name == "headroom" else before * times})
        ) <= needed(demand)
    else:
        assert needed(replace(demand, **{name: type(before)(before * times)})) >= needed(demand)


def busiest(demand: Demand, refreshes: float, nodes: int) -> float:
    """Return what share of its limit the busiest part of a node uses, calculated without the plan."""
    viewers = -(-demand.viewers // nodes)
    count = views_of_a_node(demand.viewers, demand.views, nodes)
    views = {"sorted": count * (1 - demand.grouped), "grouped": count * demand.grouped}
    entries, rows = demand.rows / 100, demand.rows
    work = node_work(viewers * refreshes, entries, rows, refreshes, views, demand.table_rows)
    loop, engine = cost(COSTS["loop"], work), cost(COSTS["engine"], work)
    lane = (engine - COSTS["engine"]["second"]) / demand.tables / min(1.8, demand.cores_per_node)
    return max(loop, (loop + engine) / demand.cores_per_node, lane)


@given(demands)
@example(Demand(viewers=2000, views=1, rows=2000))
def test_the_nodes_are_enough_and_one_fewer_would_not_do(demand: Demand):
    found = plan(demand, COSTS)
    if found.nodes:
        assert busiest(demand, found.refreshes, found.nodes) <= demand.headroom * (1 + 1e-9)
    if found.nodes > 1:
        assert busiest(demand, found.refreshes, found.nodes - 1) > demand.headroom * (1 - 1e-9)


@given(demands, st.sampled_from(["views", "rows", "table_rows"]), st.floats(1.01, 10))
def test_without_a_wish_viewers_are_refreshed_as_often_as_the_engine_can(demand: Demand, name: str, times: float):
    free = replace(demand, refreshes=0.0, entries=1000.0)
    found = plan(free, COSTS)
    lane = next(limit for limit in found.limits if limit.name == "the engine's turn at one table")
    if found.nodes:
        assert lane.share <= free.headroom
        if found.nodes == 1 and free.viewers >= free.views:
            engine_share = lane.share * lane.most / free.cores_per_node
            assert found.refreshes == free.most_refreshes or max(lane.share, engine_share / 0.6) > 0.98 * free.headroom
    before = getattr(free, name)
    assert plan(replace(free, **{name: type(before)(before * times)}), COSTS).refreshes <= found.refreshes + 1e-12


def test_all_views_that_the_engine_can_refresh_are_refreshed():
    found = plan(Demand(viewers=200, views=200, rows=1000, entries=1000, grouped=1.0), COSTS)
    loop, engine = COSTS["loop"], COSTS["engine"]
    others = loop["second"] + 1000 * (loop["entry"] + loop.get("row", 0.0)) + engine["second"]
    rows_cost = 1000 * (engine["row"] + engine.get("entry", 0.0))
    most = (min(0.9, 0.75 * (1.0 - others)) - rows_cost) / (200 * engine["grouped view, poll"])
    assert 0.98 * most < found.refreshes <= most < 20


def test_what_rows_cost_grouped_views_leaves_time_for_fewer_refreshes():
    engine = COSTS["engine"] | {"grouped view, row": 1e-5}
    demand = Demand(viewers=50, views=50, rows=20_000, entries=200, grouped=1.0)
    found = plan(demand, COSTS | {"engine": engine})
    work = node_work(0.0, 200, 20_000, found.refreshes, {"grouped": 50}, demand.table_rows) | {"second": 0.0}
    assert 0 < found.refreshes < plan(demand, COSTS).refreshes
    assert cost(engine, work) <= 0.5 * 1.8, "one node, or each of them, has all of the views"


@pytest.mark.parametrize(("viewers", "views", "nodes"), [(10, 10, 10), (100, 10, 5), (60, 30, 3), (5000, 40, 3)])
def test_views_are_spread_as_chance_spreads_viewers(viewers: int, views: int, nodes: int):
    draw, rounds = random.Random(1), 300
    counts = [len({viewer % views for viewer in range(viewers) if draw.randrange(nodes) == 0}) for _ in range(rounds)]
    assert views_of_a_node(viewers, views, nodes) == pytest.approx(sum(counts) / rounds, rel=0.1)


@given(st.integers(0, 10_000), st.integers(0, 1000), st.integers(1, 100))
def test_a_node_has_as_many_views_as_it_can_have(viewers: int, views: int, nodes: int):
    found = views_of_a_node(viewers, views, nodes)
    assert 0 <= found <= min(views, viewers) + 1e-9
    assert views_of_a_node(viewers, views, 1) == pytest.approx(min(views, viewers))
    if viewers >= 50 * views * nodes:
        assert found == pytest.approx(views)


@pytest.mark.parametrize(
    ("demand", "first"),
    [
        (Demand(viewers=20_000, views=1, rows=2000), "a node's event loop"),
        (
            Demand(viewers=10, views=10, rows=40_000, entries=20, cores_per_node=8, grouped=0.0),
            "the engine's turn at one table",
        ),
        (Demand(viewers=1200, views=40, rows=1000, cores_per_node=0.5, tables=20, entries=200), "a node's processors"),
        (Demand(viewers=1200, views=1, rows=100, table_rows=10_000_000), "a node's memory"),
        (Demand(viewers=10, views=1, rows=100, tables=60, table_rows=100_000), "Redis's memory"),
        (Demand(viewers=10, views=1, rows=1500, entries=1500), "the coordinator"),
        (Demand(viewers=10, views=1, rows=20_000, row_bytes=2000, tables=10, network_mbit=100), "what Redis sends"),
        (
            Demand(viewers=10, views=1, rows=100_000, row_bytes=5000, tables=10, network_mbit=100_000, redis_memory=100),
            "Redis's processor",
        ),
    ],
)
def test_what_is_full_first_is_named(demand: Demand, first: str):
    assert plan(demand, COSTS).limits[0].name == first


def test_rows_that_no_number_of_nodes_applies_are_said_to_be_too_many():
    found = plan(Demand(viewers=10, rows=900_000, entries=100), COSTS)
    assert found.nodes == 0
    assert not found.fits
    assert found.limits[0].share > 0.5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"viewers": -1}, "--viewers -1: expected at least 0"),
        ({"views": 0}, "--views 0"),
        ({"rows": float("nan")}, "--rows nan"),
        ({"refreshes": -1.0}, "--refreshes -1"),
        ({"rows": float("inf")}, "10^12"),
        ({"tables": 0}, "--tables 0"),
        ({"row_bytes": 0.0}, "--row-bytes 0"),
        ({"headroom": 0.0}, "--headroom 0"),
        ({"headroom": 1.5}, "--headroom 1.5"),
        ({"grouped": 2.0}, "--grouped 2"),
        ({"cores_per_node": -2.0}, "--cores-per-node -2"),
        ({"network_mbit": float("inf")}, "--network-mbit inf"),
    ],
)
def test_numbers_that_cannot_be_are_refused_in_one_line_each(change: dict[str, Any], words: str):
    with pytest.raises(ConfigurationError) as caught:
        replace(USUAL, **change)
    assert len([line for line in caught.value.problems if words in line]) == 1


def test_the_command_prints_the_plan(capsys: pytest.CaptureFixture[str]):
    code = main(["size", "--viewers", "5000", "--views", "40", "--rows", "20000"])
    text = capsys.readouterr().out
    expected = plan(USUAL, load_costs())
    assert code == (0 if expected.fits else 1)
    assert f"nodes             {expected.nodes}" in text
    assert all(limit.name in text for limit in expected.limits)
    assert main(["size", "--viewers", "5000", "--views", "40", "--rows", "20000", "--json"]) == code
    assert json.loads(capsys.readouterr().out)["nodes"] == expected.nodes


def test_a_wrong_number_is_one_readable_line(capsys: pytest.CaptureFixture[str]):
    assert main(["size", "--viewers", "-5", "--views", "40", "--rows", "20000"]) == 2
    assert capsys.readouterr().err == "parallax: --viewers -5: expected at least 0\n"
    with pytest.raises(SystemExit, match="2"):
        main(["size", "--viewers", "many", "--views", "40", "--rows", "20000"])
    assert "--viewers: invalid int value: 'many'" in capsys.readouterr().err


def test_the_values_are_those_of_the_chart():
    made = yaml.safe_load(values(plan(USUAL, COSTS)))
    chart = yaml.safe_load((ROOT / "helm" / "values.yaml").read_text())
    assert made["node"]["replicas"] == plan(USUAL, COSTS).nodes
    for service, body in made.items():
        assert set(body) <= set(chart[service])
        assert set(body["resources"]) <= {"requests", "limits"}


def test_the_costs_that_are_shipped_have_all_that_the_plan_takes():
    costs = load_costs()
    assert set(costs["memory"]) >= {"node", "row", "viewer", "sorted view, row", "grouped view, row"}
    known = set(node_work(1, 1, 1, 1, {}, 1))
    assert set(costs["loop"]) | set(costs["engine"]) <= known
    assert {"when", "cores", "processor"} <= set(costs["measured"])
    assert all(value >= 0 for what in ("loop", "engine", "coordinator", "redis", "memory") for value in costs[what].values())


def test_redis_may_hold_more_than_is_planned():
    """A Redis that is full refuses publishers."""
    for rows in (100, 20_000):
        demand = Demand(viewers=10, rows=rows, entries=100, table_rows=5_000_000, headroom=0.5)
        found = plan(demand, COSTS)
        most = yaml.safe_load(values(found))["valkey"]["maxmemory"]
        assert int(most.removesuffix("mb")) * MIB >= max(256 * MIB, found.redis_bytes / demand.headroom)

"""`make report`: updates are counted once, the fit finds the costs, the page says what was measured, and a slice of it really runs."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from loadtests import market, model, report, report_page
from loadtests.lab import Lab, Load, Point, is_held, why_invalid
from loadtests.report_figures import goals, half, knee, left_out
from loadtests.report_parts import PARTS, Options, climb, fill_a_core, next_count, parallax, stock, viewers_of_a_core
from loadtests.scenes import Scene, distinct
from loadtests.seen import Seen, histogram, merged, summary
from parallax.sizing import coordinator_work, cost, node_work, redis_work

COSTS = {
    "loop": {"second": 0.01, "refresh": 2e-4, "entry": 3e-4},
    "engine": {"second": 0.005, "row": 1e-6, "sorted view, poll": 1e-3, "grouped view, row": 2e-6},
    "coordinator": {"second": 0.02, "entry": 5e-4, "row": 2e-6},
    "redis": {"second": 0.004, "entry": 1e-4, "byte sent": 2e-9},
}

# Each update is counted once ---------------------------------------------------------------------------------------------


@given(
    st.lists(st.floats(0.0, 400.0), min_size=1, max_size=40),
    st.integers(1, 200),
    st.floats(0, 3000),
    st.floats(1, 3000),
    st.floats(0, 99),
)
def test_each_update_of_the_window_is_counted_once(
    pauses: list[float], period: int, before: float, window: float, phase: float
):
    """Against the plain definition: of each update due in the window, the first answer that is not older."""
    assume(all(0.01 < edge / period % 1 < 0.99 for edge in (before, before + window)))  # none is due just at an edge
    origin = 1e12 + phase
    answers, now = [], origin
    for pause in pauses:
        now += pause
        answers.append((now, origin + ((now - origin) // period) * period))
    began, ended = origin + before, origin + before + window
    seen, has_begun = Seen(period), False
    for instant, newest in answers:
        if instant >= began and not has_begun:
            seen.begin(began)
            has_begun = True
        if instant > ended:
            seen.end(ended)
        seen.answer(newest, instant)
    if not has_begun:
        seen.begin(began)
    seen.end(ended)
    last = max(ended, answers[-1][0])
    expected = []
    for number in range(int((ended - origin) // period) + 1):
        due = origin + number * period
        if began <= due <= ended:
            when = next((instant for instant, newest in answers if newest >= due - 1e-6), last)
            expected.append(when - due)
    found = seen.latencies(last)
    assert sorted(found) == pytest.approx(sorted(expected), abs=period * 1e-2), (found, expected)


def test_one_late_answer_weighs_by_what_it_held_up():
    seen = Seen(100)
    seen.answer(1000, 1010)
    seen.begin(1050)
    seen.answer(1500, 1510)
    assert seen.latencies(1510) == [10, 110, 210, 310, 410]


def test_who_never_saw_an_update_waits_for_all_of_them():
    seen = Seen(100)
    seen.begin(1000)
    seen.end(1500)
    assert len(seen.latencies(2000)) == 5
    assert min(seen.latencies(2000)) == 500


@given(st.lists(st.lists(st.floats(0.01, 50_000), max_size=30), max_size=5))
def test_merged_histograms_are_that_of_the_union(parts: list[list[float]]):
    whole = histogram(value for one in parts for value in one)
    assert summary(merged([histogram(one).encode().decode() for one in parts])) == summary(whole)


# Scenes, and the search ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "different"), [(1.0, 2), (0.5, 52), (0.1, 92), (0.0, 100)])
def test_a_share_of_the_viewers_looks_at_the_same(share: float, different: int):
    views = Scene(share=share).views(100)
    assert len(views) == 100
    assert len(set(views)) == sum(distinct(views).values()) == different
    assert sum(number == 0 for _, number in views) == round(100 * share)
    assert {kind for kind, _ in views} == {"sorted", "grouped"}


def made_point(load: Load, nodes: int = 1, who: str = "ours", slower: float = 1.0) -> Point:
    """Return what a machine would measure whose costs are those above; too many viewers for an event loop get less."""
    entries, rows = load.rate, load.rate * load.rows
    views = load.scene.views(load.viewers)
    found = []
    for number in range(nodes):
        part = views[number::nodes]
        asked = len(part) * load.rate
        idle = cost(COSTS["loop"], node_work(0, entries, rows, 0, {}, 0))
        refreshes = min(asked, max(0.0, (1 - idle)) / (COSTS["loop"]["refresh"] * slower))
        work = node_work(refreshes, entries, rows, min(entries, 20), distinct(part), market.SIZES[load.scene.table])
        loop = cost(COSTS["loop"] | {"refresh": COSTS["loop"]["refresh"] * slower}, work)
        one = {"viewers": len(part), "views": distinct(part), "refreshes": refreshes, "loop": loop}
        found.append(one | {"cores": loop + cost(COSTS["engine"], work), "rss": 3e8 + 1e5 * len(part), "rss_idle": 3e8})
    refreshes = sum(node["refreshes"] for node in found)
    readers = nodes + 1 + load.subscribers
    beside = {
        "coordinator": cost(COSTS["coordinator"], coordinator_work(entries, rows)),
        "redis": cost(COSTS["redis"], redis_work(entries, entries * 5000, readers)),
    }
    latencies = [30.0 * slower] * 99 + [80.0 * slower]
    point: Point = {
        "who": who,
        "load": asdict(load),
        "nodes": found,
        "beside": beside if who == "ours" else {},
        "entry_bytes": 5000,
        "publisher": {"late_p99_ms": 1.0, "cores": 0.01},
        "generator_cores": [0.1],
        "refreshes": refreshes,
        "rate": refreshes / load.viewers if load.viewers else None,
        "cores": sum(node["cores"] for node in found),
        "errors": 0,
        "seen": summary(histogram(latencies)) if load.viewers else {},
    }
    point["machine_cores"] = point["cores"] + sum(point["beside"].values()) + 0.11
    point["invalid"] = why_invalid(point)
    return point


class Made(Lab):
    """A lab without servers."""

    nodes = 1

    async def point(self, load: Load) -> Point:
        return made_point(load, self.nodes, self.who, 1.0 if self.who == "ours" else 10.0)


def made(who: str = "ours", nodes: int = 1) -> Made:
    lab = Made(who, None, Path())
    lab.nodes = nodes
    return lab


@pytest.mark.parametrize("nodes", [1, 3])
async def test_the_ladder_closes_in_on_the_knee(nodes: int):
    found = await climb(made(nodes=nodes), Options(Path()))
    most = nodes * (1 - 0.01 - 10 * 3e-4) / (10 * 2e-4) / 0.9
    assert 0.85 * most <= found["knee"] <= most
    assert found["half"]["load"]["viewers"] == found["knee"] // 2


@pytest.mark.parametrize("share", [1.0, 0.5, 0.0])
async def test_a_core_is_filled(share: float):
    points = await fill_a_core(made(), Load(4, Scene(("sorted",), share)), 4)
    a_viewer = 10 * 2e-4 + (1 - share) * 10 * 1e-3
    fixed = 0.01 + 10 * 3e-4 + 0.005 + 1000 * 1e-6 + 10 * 1e-3 * (share > 0)
    assert viewers_of_a_core(points) == pytest.approx((1 - fixed) / a_viewer, rel=0.1)


def test_after_too_many_viewers_come_fewer():
    held = made_point(Load(100))
    assert 100 < next_count([held], 300) <= 200
    assert next_count([], 8) == 4


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"generator_cores": [0.2, 0.9]}, "load generator"),
        ({"machine_cores": 2.0}, "other programs"),
        ({"publisher": {"late_p99_ms": 40.0}}, "publisher"),
    ],
)
def test_a_disturbed_run_does_not_count(change: Point, why: str):
    point = made_point(Load(10))
    assert why_invalid(point) == ""
    assert why in why_invalid(point | change)


# The fit ---------------------------------------------------------------------------------------------------------------------


async def made_figures() -> dict[str, Any]:
    """Return figures of all parts that take a lab, as if measured."""
    options = Options(Path())
    about = {"when": "2026-01-01", "machine": report.machine(), "load_before": 0.1, "seconds": 4.0, "took": 60}
    loads = [
        Load(0, rate=rate, rows=rows)
        for rate, rows in ((10, 100), (10, 4000), (100, 10), (50, 200), (20, 50), (200, 5), (30, 1))
    ]
    loads += [Load(count, Scene((kind,), 0.0)) for kind in ("sorted", "grouped") for count in (2, 6, 12)]
    loads += [Load(4, Scene((kind,), 0.0), rows=1000) for kind in ("sorted", "grouped")]
    subscribed = [Load(0, rate=50, rows=200, subscribers=count - 1) for count in (1, 2, 4, 8)]
    parts: dict[str, Any] = {
        "costs": {"points": [made_point(load) for load in loads]},
        "fleet": {"points": [made_point(load) for load in subscribed]},
        "memory": {
            "points": [],
            "rows": 50_000,
            "bytes": {"node": 1e8, "row": 90.0, "viewer": 2e4, "view sorted": 5e6, "view grouped": 1e6},
        },
    }
    for name, lab in (
        ("ladder-1", made()),
        ("ladder-2", made(nodes=2)),
        ("ladder-3", made(nodes=3)),
        ("ladder-stock", made("stock")),
    ):
        parts[name] = await climb(lab, options)
    viewers = {"ours": {"100%": 400.0, "50%": 41.0}, "stock": {"100%": 20.0, "50%": 20.0}}
    parts["sharing-sorted"] = {"points": [], "viewers": viewers}
    known = {name: about | {"part": name, "found": found} for name, found in parts.items()}
    return json.loads(json.dumps(known))


async def test_the_fit_finds_the_costs_and_predicts_what_it_has_not_seen():
    fitted = model.fit(await made_figures())
    for what, costs in COSTS.items():
        for name, value in costs.items():
            if what != "redis":  # whose entries and bytes go together in these runs
                assert fitted["costs"][what][name] == pytest.approx(value, rel=0.02), (what, name)
        assert fitted["errors"][what]["worst"] < 0.01
        assert fitted["errors"][what]["runs"] >= 3


async def test_runs_that_do_not_count_are_not_fitted():
    known = await made_figures()
    before = sum(1 for _ in model.equations(known))
    known["costs"]["found"]["points"][0]["invalid"] = "disturbed"
    assert before - sum(1 for _ in model.equations(known)) == 4
    assert any("disturbed" in line for line in left_out(known))


# The page -----------------------------------------------------------------------------------------------------------------------


def told(known: dict[str, Any], beginning: str) -> list[bool]:
    return [goal.is_met for goal in goals(known) if goal.what.startswith(beginning)]


async def test_goals_are_met_or_not_by_what_was_measured():
    known = await made_figures()
    assert told(known, "1 node, half") == [True, True]
    assert told(known, "2 nodes serve") == [True]
    assert told(known, "Viewers of sorted") == [True, False]
    assert told(known, "The coordinator's") == [True]
    known["ladder-1"]["found"]["half"]["seen"] |= {"p50": 61.0, "p99": 149.0}
    assert told(known, "1 node, half") == [False, True]
    known["fleet"]["found"]["points"][-1]["beside"]["coordinator"] *= 2
    assert told(known, "The coordinator's") == [False]
    known["ladder-2"]["found"]["points"] = known["ladder-1"]["found"]["points"]
    assert told(known, "2 nodes serve") == [False]


async def test_a_knee_is_a_run_that_counts():
    known = await made_figures()
    best = knee(known, "ladder-1")
    assert is_held(best)
    next(point for point in known["ladder-1"]["found"]["points"] if point == best)["invalid"] = "disturbed"
    assert knee(known, "ladder-1")["load"]["viewers"] < best["load"]["viewers"]
    known["ladder-1"]["found"]["half"]["invalid"] = "disturbed"
    assert half(known, "ladder-1") == {}


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


async def test_the_page_and_the_plots_are_the_same_for_the_same_figures(tmp_path: Path):
    known = await made_figures()
    page = tmp_path / "page.md"
    page.write_text(f"before\n{report_page.BEGIN}\nof yore\n{report_page.END}\nafter\n")
    report.write(known, page, tmp_path, tmp_path / "sizing.yaml")
    first = contents(tmp_path)
    report.write(known, page, tmp_path, tmp_path / "sizing.yaml")
    assert contents(tmp_path) == first
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "of yore" not in text
    assert "**not met**" in text
    plots = {name for name in first if name.endswith(".svg")}
    assert {name for name in plots if f"({name})" not in text} == set()
    assert len(plots) == 7
    for name in plots:
        ElementTree.fromstring(first[name])


def test_a_page_without_figures_is_written(tmp_path: Path):
    report.write({}, tmp_path / "page.md", tmp_path, tmp_path / "sizing.yaml")
    assert [path.name for path in tmp_path.iterdir()] == ["page.md"]


# A slice of it, for real -----------------------------------------------------------------------------------------------------------


@pytest.mark.cluster
@pytest.mark.parametrize("make", [parallax, stock])
async def test_a_run_is_measured(make: Callable[..., Any], tmp_path: Path):
    options = Options(tmp_path, 1.0, True)
    async with make(options, 1, ("tiny",)) if make is parallax else make(options) as lab:
        point = await lab.point(Load(4, Scene(share=0.5, table="tiny"), seconds=1.0))
        if lab.fleet is not None:
            assert not await lab.fleet.views("node-1"), "what is left of it would weigh on what is measured next"
    assert point["refreshes"] > 0
    assert point["errors"] == 0
    node = point["nodes"][0]
    assert node["views"] == {"sorted": 2, "grouped": 2}
    assert 0 < node["loop"] <= node["cores"]
    assert node["rss"] > 1 << 20
    assert point["seen"]["count"] >= 4 * 9
    assert 0 < point["seen"]["p50"] <= point["seen"]["p99"] <= point["seen"]["worst"]
    if make is parallax:
        assert point["beside"]["coordinator"] > 0
        assert point["entry_bytes"] > 3000
        assert point["publisher"]["sent"] >= 10


def test_parts_are_named_as_the_page_looks_for_them():
    assert {"ladder-1", "ladder-2", "ladder-3", "ladder-stock", "sharing-sorted", "sharing-grouped"} <= set(PARTS)

"""The plots of the report: one SVG for each question, the same bytes for the same figures."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loadtests.lab import Point
from loadtests.report_figures import LADDERS, counted, fleet_rows, knee, memory_per_viewer, sharing_times

STYLE = {
    "svg.hashsalt": "parallax",
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
}
STYLE |= {"axes.spines.top": False, "axes.spines.right": False}
COLOURS = {"ladder-1": "#1f77b4", "ladder-2": "#2ca02c", "ladder-3": "#9467bd", "ladder-stock": "#d62728"}
KINDS = {"sorted": "#1f77b4", "grouped": "#ff7f0e"}


@contextmanager
def figure(file: Path, panels: int) -> Iterator[list[Axes]]:
    """Give panels beside each other, and write them to a file if anything was drawn."""
    with mpl.rc_context(STYLE):
        made = Figure(figsize=(4.4 * panels, 3.1), layout="constrained")
        axes = list(made.subplots(1, panels, squeeze=False)[0])
        yield axes
        if any(one.has_data() for one in axes):
            made.savefig(file, format="svg", metadata={"Date": None, "Creator": None})


def draw(known: dict[str, Any], fitted: dict[str, Any], directory: Path) -> None:
    """Draw what there are figures for."""
    with figure(directory / "benchmarks.svg", 2) as axes:
        _ladders(axes[0], known, "refreshes a second, all viewers", lambda point: point["refreshes"])
        _ladders(axes[1], known, "cores of the servers", lambda point: point["cores"])
    with figure(directory / "benchmarks-latency.svg", 3) as axes:
        for one, (name, title) in zip(axes, {"p50": "p50", "p99": "p99", "p999": "p99.9"}.items(), strict=True):
            _ladders(one, known, f"{title} from due to seen, ms", lambda point, name=name: point["seen"].get(name))
            _logarithmic(one)
    with figure(directory / "benchmarks-viewer.svg", 2) as axes:
        _ladders(
            axes[0],
            known,
            "processor of a viewer, ms a second",
            lambda point: 1000 * point["cores"] / point["load"]["viewers"],
        )
        _ladders(axes[1], known, "memory of a viewer, MiB", memory_per_viewer)
        for one in axes:
            _logarithmic(one)
    with figure(directory / "benchmarks-nodes.svg", 2) as axes:
        _nodes(axes, known)
    with figure(directory / "benchmarks-sharing.svg", 1) as axes:
        _sharing(axes[0], known)
    with figure(directory / "benchmarks-fleet.svg", 1) as axes:
        _fleet(axes[0], known)
    with figure(directory / "benchmarks-model.svg", 1) as axes:
        _model(axes[0], fitted)


def _logarithmic(axes: Axes) -> None:
    """Make a panel's height logarithmic, its numbers as people write them."""
    if axes.has_data():
        axes.set_yscale("log")
        for one in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            one(lambda value, _: f"{value:,.3g}" if f"{value:e}"[0] in "125" else "")


def _ladders(axes: Axes, known: dict[str, Any], title: str, value: Callable[[Point], float | None]) -> None:
    for part, name in LADDERS.items():
        dots = [(point["load"]["viewers"], value(point)) for point in counted(known, part)]
        dots = [(count, found) for count, found in dots if found is not None]
        if dots:
            axes.plot(*zip(*dots, strict=True), marker=".", color=COLOURS[part], label=name)
    if axes.has_data():
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.set(xlabel="viewers", title=title)
        axes.legend(fontsize=7, frameon=False)


def _nodes(axes: list[Axes], known: dict[str, Any]) -> None:
    parts = {int(part[-1]): part for part in LADDERS if part[-1].isdigit() and knee(known, part)}
    if not parts:
        return
    axes[0].bar(list(parts), [knee(known, part)["load"]["viewers"] for part in parts.values()], color="#1f77b4", width=0.6)
    axes[0].set(xlabel="nodes", title="viewers who are served", xticks=list(parts))
    bottom = {count: 0.0 for count in parts}
    for number in range(max(parts)):
        shown = {count: knee(known, part)["nodes"][number]["cores"] for count, part in parts.items() if number < count}
        axes[1].bar(
            list(shown),
            list(shown.values()),
            bottom=[bottom[count] for count in shown],
            width=0.6,
            label=f"node {number + 1}",
        )
        bottom = {count: bottom[count] + shown.get(count, 0.0) for count in bottom}
    rest = {count: knee(known, part)["machine_cores"] - bottom[count] for count, part in parts.items()}
    axes[1].bar(list(rest), list(rest.values()), bottom=list(bottom.values()), width=0.6, color="#cccccc", label="all else")
    axes[1].set(xlabel="nodes", title="cores in use there", xticks=list(parts))
    axes[1].legend(fontsize=7, frameon=False)


def _sharing(axes: Axes, known: dict[str, Any]) -> None:
    for kind, colour in KINDS.items():
        times = sharing_times(known, kind)
        if times:
            axes.plot(list(times), list(times.values()), marker="o", color=colour, label=f"{kind} views")
    if axes.has_data():
        axes.axhline(1, color="#888888", linewidth=0.8)
        _logarithmic(axes)
        axes.set(xlabel="viewers who look at the same", title="times the viewers of the stock handler, at a core")
        axes.legend(fontsize=7, frameon=False)


def _fleet(axes: Axes, known: dict[str, Any]) -> None:
    rows = fleet_rows(known)
    for load in dict.fromkeys(row["load"] for row in rows):
        mine = [row for row in rows if row["load"] == load]
        for who, style in (("coordinator", "-"), ("redis", "--")):
            axes.plot([row["nodes"] for row in mine], [row[who] for row in mine], style, marker=".", label=f"{who}, {load}")
    if rows:
        axes.set_ylim(bottom=0)
        axes.set(xlabel="nodes", title="cores", xticks=sorted({row["nodes"] for row in rows}))
        axes.legend(fontsize=7, frameon=False)


def _model(axes: Axes, fitted: dict[str, Any]) -> None:
    for what, dots in fitted.get("checked", {}).items():
        if dots:
            axes.plot([cores for _, cores in dots], [guess for guess, _ in dots], "o", markersize=3, label=what)
    if axes.has_data():
        most = max(axes.get_xlim()[1], axes.get_ylim()[1])
        axes.plot([0, most], [0, most], color="#888888", linewidth=0.8)
        axes.set(xlabel="cores, measured", title="cores, predicted: runs that were held out")
        axes.legend(fontsize=7, frameon=False)

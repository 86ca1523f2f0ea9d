"""The report's part of docs/benchmarks.md."""

from collections.abc import Iterator, Sequence
from typing import Any

from loadtests.lab import OTHERS, Point
from loadtests.report_figures import (
    LADDERS,
    fleet_rows,
    goals,
    half,
    knee,
    left_out,
    memory_per_viewer,
    part,
    sharing_times,
)

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
ALONE = {
    "dimensions": "dimensions",
    "schema": "schema",
    "rows": "50 rows as text",
    "config": "configuration",
    "arrow": "50 rows as Arrow",
}
BAD = {
    "alone": "nobody",
    "stalled": "one who asks for a whole table 200 times and never reads",
    "idle": "5,000 connections that say nothing",
    "export": "one who takes 100 MB at 1 MB a second",
    "alone again": "nobody again",
}


def put(page: str, text: str) -> str:
    """Return the page with this text between its marks."""
    head, _, rest = page.partition(BEGIN)
    return head + f"{BEGIN}\n{text}\n{END}" + (rest.partition(END)[2] or "\n")


def text(known: dict[str, Any], fitted: dict[str, Any]) -> str:
    """Return all figures as Markdown."""
    sections = [_where, _goals, _ladder, _viewer, _nodes, _sharing, _fleet, _alone, _bad, _profile]
    lines = [line for section in sections for line in section(known)]
    return "\n".join([*lines, *_model(fitted), *_left_out(known)]).strip()


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Return a table, and an empty line after it."""
    return [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *[f"| {' | '.join(map(str, row))} |" for row in rows], ""]


def figure(value: float | None) -> str:
    """Return a number as people write it."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _where(known: dict[str, Any]) -> Iterator[str]:
    if not known:
        return
    parts = list(known.values())
    dates = sorted({one["when"] for one in parts})
    about = parts[0]["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in about["packages"].items())
    yield f"Measured {' and '.join(dates)} on {about['cores']} cores ({about['processor']}, {about['memory_gib']} GiB), Python"
    yield f"{about['python']}, Parallax {about['parallax']}, {packages}. Windows of {parts[0]['seconds']:g} s or more; load average before"
    yield f"the parts {min(one['load_before'] for one in parts):.1f} to {max(one['load_before'] for one in parts):.1f};"
    yield f"{sum(one['took'] for one in parts) / 60:.0f} minutes in all."
    others = max(
        [point.get("others_cores", 0.0) for name in known for point in part(known, name).get("points", [])], default=0.0
    )
    if others > OTHERS:
        yield f"**Other programs used up to {others:.1f} cores meanwhile: these figures say little.**"
    yield ""


def _goals(known: dict[str, Any]) -> Iterator[str]:
    rows = [(goal.what, goal.found, goal.goal, "met" if goal.is_met else "**not met**") for goal in goals(known)]
    if rows:
        yield from ["### Goals", "", *table(["", "found", "goal", ""], rows)]


def _ladder(known: dict[str, Any]) -> Iterator[str]:
    parts = [name for name in LADDERS if knee(known, name)]
    if not parts:
        return
    yield from ["### How many viewers are served, and how soon they see an update", ""]
    yield "The knee is the largest number of viewers each of whom got nine of ten refreshes. Latencies are from the instant at"
    yield "which an update was due to the first answer that had it, each update of each viewer counted once."
    yield ""
    rows = []
    for name in parts:
        for where, point in (("the knee", knee(known, name)), ("half of it", half(known, name))):
            if point:
                seen = point["seen"]
                figures = [point["load"]["viewers"], figure(point["refreshes"]), f"{point['rate']:.2f}"]
                figures += [figure(seen.get(key)) for key in ("p50", "p99", "p999", "worst")]
                rows.append([LADDERS[name], where, *figures, f"{point['cores']:.2f}"])
    head = ["", "at", "viewers", "refreshes/s", "each", "p50, ms", "p99", "p99.9", "worst", "servers' cores"]
    yield from table(head, rows)
    yield "![Refreshes a second and cores, by viewers](benchmarks.svg)"
    yield "![From due to seen: p50, p99 and p99.9, by viewers](benchmarks-latency.svg)"
    yield ""


def _viewer(known: dict[str, Any]) -> Iterator[str]:
    rows = []
    for name in LADDERS:
        point = knee(known, name)
        if point:
            cpu = 1000 * point["cores"] / point["load"]["viewers"]
            rows.append([LADDERS[name], point["load"]["viewers"], f"{cpu:.2f}", figure(memory_per_viewer(point))])
    held = part(known, "basics").get("cases", {}).get("memory", {})
    if rows:
        yield from ["### What a viewer costs", ""]
        yield "A viewer who is refreshed ten times a second, at the knee; his memory is what the servers grew by, views included:"
        yield ""
        yield from table(["", "viewers", "ms of processor a second", "MiB"], rows)
        yield "![Processor and memory of a viewer, by viewers](benchmarks-viewer.svg)"
        yield ""
    if held:
        rows = [[name, figure(found["ours"]), figure(found["stock"])] for name, found in held.items() if name != "unit"]
        yield "Memory of one more viewer in a server that saw nobody before, of a table of 100,000 rows:"
        yield ""
        yield from table(["one more viewer of", "ours, KiB", "stock, KiB"], rows)


def _nodes(known: dict[str, Any]) -> Iterator[str]:
    rows = []
    for name in LADDERS:
        point = knee(known, name)
        if point and name != "ladder-stock":
            per_node = " + ".join(f"{node['cores']:.2f}" for node in point["nodes"])
            loops = " + ".join(f"{node['loop']:.2f}" for node in point["nodes"])
            beside = [f"{point['beside'][who]:.2f}" for who in ("coordinator", "redis")]
            generators = f"{sum(point['generator_cores']):.2f}"
            rows.append(
                [
                    LADDERS[name],
                    point["load"]["viewers"],
                    per_node,
                    loops,
                    *beside,
                    generators,
                    f"{point['machine_cores']:.2f}",
                ]
            )
    if rows:
        yield from ["### What more nodes add", ""]
        yield "Cores in use at the knee. A node whose event loop is full (1.00) needs another node; where nodes wait though the machine"
        yield "has cores left, something else would hold them up."
        yield ""
        head = ["", "viewers", "each node", "their event loops", "coordinator", "Redis", "load generator", "whole machine"]
        yield from table(head, rows)
        yield "![Viewers who are served by 1, 2 and 3 nodes, and the cores in use](benchmarks-nodes.svg)"
        yield ""


def _sharing(known: dict[str, Any]) -> Iterator[str]:
    rows = []
    for kind in ("sorted", "grouped"):
        viewers = part(known, f"sharing-{kind}").get("viewers", {"ours": {}})
        times = sharing_times(known, kind)
        for share, count in viewers["ours"].items():
            theirs = viewers["stock"].get(share)
            rows.append([kind, share, figure(count), figure(theirs), figure(times.get(share))])
    if rows:
        yield from ["### What sharing is worth", ""]
        yield "Viewers of views of a table of 50,000 rows whom one core of the server's processor refreshes ten times a second, between two"
        yield "numbers that were measured. So many in a hundred look at the same view, each of the others at one that nobody else has."
        yield ""
        yield from table(["views", "share", "ours", "stock", "times"], rows)
        yield "Views of one's own cost the engine the same here and there. Where half of the viewers have one, half of that is all that there is"
        yield "to save: more than two times can only come from what it takes to answer."
        yield ""
        yield "![Times the viewers of the stock handler, by how many share](benchmarks-sharing.svg)"
        yield ""


def _fleet(known: dict[str, Any]) -> Iterator[str]:
    rows = [
        [row["load"], row["nodes"], *(f"{row[who]:.3f}" for who in ("coordinator", "redis"))] for row in fleet_rows(known)
    ]
    if rows:
        yield from ["### The coordinator and Redis, by nodes", ""]
        yield "One node is real; the others are programs that read the feed, as nodes do, and throw it away."
        yield ""
        yield from table(["load", "nodes", "coordinator, cores", "Redis, cores"], rows)
        yield "![Cores of the coordinator and Redis, by nodes](benchmarks-fleet.svg)"
        yield ""


def _alone(known: dict[str, Any]) -> Iterator[str]:
    cases = part(known, "basics").get("cases", {})
    alone, fanout = cases.get("alone", {}), cases.get("fanout", {})
    if "ratios" in alone:
        yield from ["### One viewer, idle server", ""]
        rows = [
            [ALONE[kind], *(f"{alone[who][kind]:.0f}" for who in ("ours", "stock")), f"{times:.2f}"]
            for kind, times in alone["ratios"].items()
        ]
        yield from table(["request for", "ours, µs", "stock, µs", "times"], rows)
    if fanout.get("times"):
        found = [figure(fanout[who]["deliveries_per_cpu_second"]) for who in ("ours", "bare")]
        yield f"500 subscribers who only listen get {found[0]} notifications for a second of a node's processor, {found[1]} of a bare"
        yield "Tornado websocket."
        yield ""


def _bad(known: dict[str, Any]) -> Iterator[str]:
    found: dict[str, Point] = part(known, "bad")
    rows = []
    for name, one in found.items():
        if name in BAD:
            keys = ("rate", "latency_p50", "latency_p99", "rss_mib_peak")
            rows.append([BAD[name], *(figure(one.get(key)) for key in keys)])
    if rows:
        yield from ["### Bad viewers", "", "20 viewers of one sorted view of 100,000 rows, beside:", ""]
        yield from table(["", "refreshes/s each", "p50 of a refresh, ms", "p99, ms", "node's memory, MiB, at most"], rows)


def _profile(known: dict[str, Any]) -> Iterator[str]:
    found = part(known, "profile")
    if found:
        threads = found["threads"]
        yield from ["### Where a node's processor time goes", ""]
        yield f"At saturation its event loop used {threads['event loop']:.2f} of a core, its other threads {threads['engine']:.2f}. At half of it, under"
        yield "cProfile, by module, own time of the thread's processor:"
        yield ""
        for who, title in (("event loop", "the event loop"), ("lanes", "the tables' lanes")):
            yield from table(
                [title, "share"], [[f"`{name}`", f"{share:.0%}"] for name, share in list(found[who].items())[:12]]
            )


def _model(fitted: dict[str, Any]) -> Iterator[str]:
    if not fitted:
        return
    yield from ["### The model", ""]
    yield "What `parallax size` calculates with ([sizing.md](sizing.md)) is fitted to these runs; some were held out, to check it. Errors are"
    yield "by what was measured (of runs below 0.05 cores: by 0.05)."
    yield ""
    rows = [
        [what, off["fitted"], off["runs"], f"{off['median']:.0%}", f"{off['worst']:.0%}"]
        for what, off in fitted["errors"].items()
        if "median" in off
    ]
    yield from table(["processor of", "runs fitted", "held out", "median error", "worst"], rows)
    yield "![Predicted and measured cores of the runs that were held out](benchmarks-model.svg)"
    yield ""
    costs = [
        [what, name, f"{1e6 * value:,.3g}"] for what in fitted["errors"] for name, value in fitted["costs"][what].items()
    ]
    yield from table(["of", "each", "µs"], costs)
    kept = [[name, figure(value)] for name, value in fitted["costs"]["memory"].items()]
    yield from table(["memory of each", "bytes"], kept)


def _left_out(known: dict[str, Any]) -> Iterator[str]:
    lines = left_out(known)
    total = sum(len(part(known, name).get("points", [])) + ("half" in part(known, name)) for name in known)
    if lines:
        yield from [f"### Left out: {len(lines)} of {total} runs", "", *[f"* {line}" for line in lines], ""]

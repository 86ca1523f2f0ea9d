"""The figures of a run as a part of docs/benchmarks.md, and as a plot beside it."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from tests.processes import ROOT

PAGE = ROOT / "docs" / "benchmarks.md"
PLOT = ROOT / "docs" / "benchmarks.svg"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"

Point = dict[str, Any]
COLOURS = {"ours": "#1f77b4", "stock": "#d62728"}
NAMES = {"ours": "a Parallax node", "stock": "Perspective's Tornado handler", "bare": "bare Tornado websocket"}
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 420, 280, 60, 40, 24, 48

CASES = {
    "sorted": "50 viewers of one sorted view of 100,000 rows: refreshes a CPU second",
    "growth": "Viewers of that view who get 9 of 10 refreshes a second",
    "grouped": "300 viewers of one grouped view of 10,000 rows: refreshes a CPU second",
    "distinct": "100 viewers of 100 different filtered views: refreshes a CPU second",
    "fanout": "500 subscribers who only listen: notifications a CPU second",
}


def report(known: dict[str, Any]) -> None:
    """Write the page's figures and the plot."""
    lines = [BEGIN, *_tables(known), END]
    page = PAGE.read_text()
    head, _, rest = page.partition(BEGIN)
    PAGE.write_text(head + "\n".join(lines) + rest.partition(END)[2])
    if growth := known["cases"].get("growth"):
        PLOT.write_text(plot(growth["curves"]))
    print(f"wrote {PAGE} and {PLOT}")


def _tables(known: dict[str, Any]) -> list[str]:
    machine, options, cases = known["machine"], known["options"], known["cases"]
    lines = [
        f"Measured {known['when']} on {machine['cpus']} cores ({machine['machine']}, Python {machine['python']}), load average"
        f" {known['load_average']:.1f}; {options['rounds']} rounds, windows of {options['seconds']:g} s or more.",
        "",
        "| | ours | rival | times | goal |",
        "|---|---|---|---|---|",
    ]
    lines += [_row(name, cases[name]) for name in CASES if name in cases]
    if "sorted" in cases:
        lines += ["", *_points("50 viewers of one sorted view", cases["sorted"])]
    if (alone := cases.get("alone")) and "ratios" in alone:
        lines += ["", "| One viewer, idle server | ours, µs | stock, µs | times (goal: at most 1.3) |", "|---|---|---|---|"]
        for kind, ratio in alone["ratios"].items():
            lines.append(f"| {kind} | {alone['ours'][kind]:.0f} | {alone['stock'][kind]:.0f} | {ratio:.2f} |")
    if memory := cases.get("memory"):
        lines += ["", "| One more viewer of | ours, KiB | stock, KiB |", "|---|---|---|"]
        for name, found in memory.items():
            if name != "unit":
                lines.append(f"| {name} | {_figure(found['ours'])} | {_figure(found['stock'])} |")
    if bad := known.get("bad"):
        lines += [
            "",
            "| 20 viewers of one sorted view, beside | refreshes/s each | p50, ms | p99, ms | node's memory, MiB, at most |",
        ]
        lines += ["|---|---|---|---|---|"]
        for name, found in bad.items():
            if name != "memory":
                keys = ("rate", "latency_p50", "latency_p99", "rss_mib_peak")
                lines.append(f"| {name} | " + " | ".join(_figure(found.get(key)) for key in keys) + " |")
    if profile := known.get("profile"):
        threads = profile["threads"]
        lines += ["", f"At saturation the node's event loop used {threads['event loop']:.2f} of a core, its other threads"]
        lines[-1] += f" {threads['engine']:.2f}. The event loop's own time, under cProfile:"
        lines += ["", "| part | share |", "|---|---|"]
        lines += [f"| `{name}` | {share:.0%} |" for name, share in profile["event loop"].items()]
    return lines


def _row(name: str, found: dict[str, Any]) -> str:
    if name == "growth":
        values = [str(found["held"][who]) for who in ("ours", "stock")]
    else:
        other = "bare" if name == "fanout" else "stock"
        figure = "deliveries_per_cpu_second" if name == "fanout" else "per_cpu_second"
        values = [_figure(found[who].get(figure)) for who in ("ours", other)]
    return f"| {CASES[name]} | {' | '.join(values)} | {_figure(found['times'])} | {found['goal']} |"


def _points(title: str, found: dict[str, Any]) -> list[str]:
    columns = {
        "rate": "refreshes/s each",
        "latency_p50": "p50, ms",
        "latency_p99": "p99, ms",
        "age_p50": "age of what is shown, ms",
        "server_cores": "cores",
        "client_cores": "load generator, cores",
    }
    lines = [f"| {title} | {' | '.join(columns.values())} |", "|---" * (len(columns) + 1) + "|"]
    for who in ("ours", "stock"):
        lines.append(f"| {NAMES[who]} | {' | '.join(_figure(found[who].get(name)) for name in columns)} |")
    return lines


def _figure(value: float | None) -> str:
    if value is None:
        return "failed"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


# The plot ------------------------------------------------------------------------------------------------------------


def plot(curves: dict[str, list[Point]]) -> str:
    """Return an SVG: refreshes a second of each viewer and how old what they see is, as the viewers grow in number."""
    panels = [
        _panel(0, curves, "rate", "refreshes/s of each viewer", lambda value: value / 11, ["0", "5", "10"], [0, 5, 10]),
        _panel(WIDTH, curves, "age_p50", "age of what is shown, ms (median)", _log(10, 10_000), *_decades(1, 4)),
    ]
    legend = [
        f'<rect x="{LEFT + 230 * number}" y="8" width="12" height="12" fill="{COLOURS[who]}"/>'
        f'<text x="{LEFT + 230 * number + 18}" y="18">{NAMES[who]}</text>'
        for number, who in enumerate(curves)
    ]
    style = "font: 12px sans-serif; fill: #444"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * WIDTH} {HEIGHT}" style="{style}">'
    return "\n".join([head, f'<rect width="{2 * WIDTH}" height="{HEIGHT}" fill="white"/>', *legend, *panels, "</svg>", ""])


def _log(low: float, high: float) -> Callable[[float], float]:
    return lambda value: (math.log10(min(max(value, low), high)) - math.log10(low)) / math.log10(high / low)


def _decades(first: int, last: int) -> tuple[list[str], list[float]]:
    values = [10.0**power for power in range(first, last + 1)]
    return [f"{value:,.0f}" for value in values], values


def _panel(
    left: int,
    curves: dict[str, list[Point]],
    figure: str,
    title: str,
    scale: Callable[[float], float],
    words: Sequence[str],
    marks: Sequence[float],
) -> str:
    across = _log(1, 1024)
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def x(value: float) -> float:
        return round(left + LEFT + width * across(value), 1)

    def y(value: float) -> float:
        return round(TOP + height * (1 - scale(value)), 1)

    parts = []
    for word, mark in zip(words, marks, strict=True):
        parts.append(f'<path d="M{left + LEFT} {y(mark)} h{width}" stroke="#ddd"/>')
        parts.append(f'<text x="{left + LEFT - 6}" y="{y(mark) + 4}" text-anchor="end">{word}</text>')
    for mark in (1, 4, 16, 64, 256, 1024):
        parts.append(f'<text x="{x(mark)}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{mark:,}</text>')
    parts.append(f'<text x="{left + LEFT + width / 2}" y="{HEIGHT - 10}" text-anchor="middle">viewers: {title}</text>')
    for who, points in curves.items():
        dots = [(x(p["viewers"]), y(p[figure])) for p in points if p.get(figure) is not None]
        line = " ".join(f"{across},{down}" for across, down in dots)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{COLOURS[who]}" stroke-width="2"/>')
        parts += [f'<circle cx="{across}" cy="{down}" r="3" fill="{COLOURS[who]}"/>' for across, down in dots]
    return "\n".join(parts)

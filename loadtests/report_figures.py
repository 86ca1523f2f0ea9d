"""What the report says, from what was measured: the runs that count, knees, ratios, and whether goals are met."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from loadtests.lab import Point, is_held

LADDERS = {
    "ladder-1": "1 node",
    "ladder-2": "2 nodes",
    "ladder-3": "3 nodes",
    "ladder-stock": "Perspective's Tornado handler",
}
FRAME_MS = 50.0
SPARE_MS = 10.0
TIMES = {"100%": 10.0, "50%": 3.0, "0%": 0.9}
FLAT = 1.25
"""So many times the coordinator's processor with one node is flat."""
MORE = 1.1
"""So many times the viewers is more."""
USED_UP = 0.9
"""Of the machine's cores."""


@dataclass(frozen=True, slots=True)
class Goal:
    """One goal, and what was measured."""

    what: str
    found: str
    goal: str
    is_met: bool


def part(known: dict[str, Any], name: str) -> Any:
    """Return what a part found, nothing if it was not measured."""
    return known.get(name, {}).get("found", {})


def counted(known: dict[str, Any], name: str) -> list[Point]:
    """Return a part's valid measurements, the last of each number of viewers, fewest viewers first."""
    points = part(known, name).get("points", [])
    valid = {point["load"]["viewers"]: point for point in points if not point.get("invalid", "failed")}
    return [valid[count] for count in sorted(valid)]


def left_out(known: dict[str, Any]) -> list[str]:
    """Return why measurements do not count, a line for each."""
    lines = []
    for name in known:
        found = part(known, name)
        for point in [*found.get("points", []), *([found["half"]] if "half" in found else [])]:
            why = point.get("failed") or point["invalid"]
            if why:
                lines.append(f"{name}, {point['load']['viewers']} viewers of {point['who']}: {why}")
    return lines


def knee(known: dict[str, Any], name: str) -> Point:
    """Return the measurement with the most viewers who were served, empty if there is none."""
    held = [point for point in counted(known, name) if is_held(point)]
    return held[-1] if held else {}


def half(known: dict[str, Any], name: str) -> Point:
    """Return the measurement at half of the knee, empty if it does not count."""
    found: Point = part(known, name).get("half", {})
    return {} if not found or found.get("invalid", "failed") else found


def memory_per_viewer(point: Point) -> float | None:
    """Return the MiB that each viewer added to the servers, where there were enough of them to tell."""
    viewers = point["load"]["viewers"]
    grown = sum(node["rss"] - node["rss_idle"] for node in point["nodes"])
    return grown / viewers / 2**20 if viewers >= 8 and grown > 0 else None


def round_trip_ms(known: dict[str, Any]) -> float:
    """Return how long an idle node takes for a question, there and back; 0 if that was not measured."""
    alone = part(known, "basics").get("cases", {}).get("alone", {}).get("ours", {})
    return float(alone.get("dimensions", 0.0)) / 1000


def sharing_times(known: dict[str, Any], kind: str) -> dict[str, float]:
    """Return how many times the stock handler's viewers a core of ours serves, by how many of them share."""
    viewers = part(known, f"sharing-{kind}").get("viewers", {"ours": {}, "stock": {}})
    return {
        share: count / viewers["stock"][share] for share, count in viewers["ours"].items() if viewers["stock"].get(share)
    }


def fleet_rows(known: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what the coordinator and Redis used, by load and number of nodes."""
    rows = []
    for point in part(known, "fleet").get("points", []):
        load = point["load"]
        if not point.get("invalid", "failed"):
            name = f"{load['rate'] * load['rows']:,.0f} rows/s in {load['rate']:g} entries/s"
            rows.append({"load": name, "nodes": len(point["nodes"]) + load["subscribers"], **point["beside"]})
    return rows


def goals(known: dict[str, Any]) -> Iterator[Goal]:
    """Yield the goals for which there are figures."""
    trip = round_trip_ms(known)
    for name in LADDERS:
        point = half(known, name)
        if name == "ladder-stock" or not point:
            continue
        seen, most = point["seen"], FRAME_MS + SPARE_MS + trip
        where = f"{LADDERS[name]}, half of the knee ({point['load']['viewers']} viewers), from due to seen"
        yield Goal(f"{where}: p50", f"{seen['p50']:.1f} ms", f"at most {most:.1f} ms", seen["p50"] <= most)
        yield Goal(f"{where}: p99", f"{seen['p99']:.1f} ms", f"at most {3 * FRAME_MS:.0f} ms", seen["p99"] <= 3 * FRAME_MS)
    for few, more in (("ladder-1", "ladder-2"), ("ladder-2", "ladder-3")):
        before, after = knee(known, few), knee(known, more)
        if before and after:
            times = after["load"]["viewers"] / before["load"]["viewers"]
            cores = known[few]["machine"]["cores"]
            share = before["machine_cores"] / cores
            yield Goal(
                f"{LADDERS[more]} serve more viewers than {LADDERS[few]}, until the cores are used up",
                f"{times:.2f} times; at the smaller one's knee {share:.0%} of the machine was in use",
                f"{MORE:g} times, or {USED_UP:.0%} in use",
                times >= MORE or share >= USED_UP,
            )
    for kind in ("sorted", "grouped"):
        times_by_share = sharing_times(known, kind)
        for share_name, least in TIMES.items():
            if share_name in times_by_share:
                times = times_by_share[share_name]
                yield Goal(
                    f"Viewers of {kind} views at a core, {share_name} of them sharing, by those of the stock handler",
                    f"{times:.3g} times",
                    f"at least {least:g}",
                    times >= least,
                )
    rows = fleet_rows(known)
    for load in dict.fromkeys(row["load"] for row in rows):
        by_nodes = {row["nodes"]: row["coordinator"] for row in rows if row["load"] == load}
        least_nodes, most_nodes = min(by_nodes), max(by_nodes)
        times = by_nodes[most_nodes] / max(by_nodes[least_nodes], 0.01)
        what = f"The coordinator's processor with {most_nodes} nodes by that with {least_nodes}, {load}"
        yield Goal(what, f"{times:.2f} times", f"at most {FLAT:g}", times <= FLAT)
    cases = part(known, "basics").get("cases", {})
    if "times" in cases.get("alone", {}):
        times = cases["alone"]["times"]
        what = "The slowest kind of request of one viewer of an idle server, by the stock handler's"
        yield Goal(what, f"{times:.2f} times", "at most 1.3", times <= 1.3)
    if cases.get("fanout", {}).get("times"):
        times = cases["fanout"]["times"]
        what = "Notifications of a second of processor, 500 subscribers, by those of a bare Tornado websocket"
        yield Goal(what, f"{times:.2f} times", "at least 0.7", times >= 0.7)

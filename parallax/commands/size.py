"""`parallax size`: how many nodes a load needs, and what is full first."""

import argparse
import json
from dataclasses import MISSING, asdict, fields
from math import ceil

from parallax.sizing import MIB, MOST_NODES, Demand, Plan, load_costs, plan

HELP = {
    "viewers": "viewers at a time",
    "views": "different views that they look at, over all tables",
    "rows": "rows published a second, over all tables",
    "entries": "entries a second that they come in (default: one for each hundred rows)",
    "refreshes": "how often a second viewers are to see what is new (default: as often as the engine can, up to 20)",
    "tables": "tables",
    "table_rows": "rows that each table holds",
    "row_bytes": "bytes of a row",
    "grouped": "share of the views that are grouped; the others are sorted or filtered",
    "cores_per_node": "cores of each node",
    "memory_per_node": "GiB of memory of each node",
    "redis_memory": "GiB of memory of Redis",
    "headroom": "share of each limit that may be used",
    "network_mbit": "what Redis may send, Mbit a second",
    "coordinators": "coordinators",
}
STEP = 256 * MIB
LEAST_STORE = 256 * MIB
"""Memory is asked for in such steps."""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    for field in fields(Demand):
        kind = int if field.type is int else float
        needed = field.default is MISSING
        shown = "" if needed or "default" in HELP[field.name] else " (default: %(default)s)"
        command.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=kind,
            required=needed,
            default=None if needed else field.default,
            metavar="N",
            help=HELP[field.name] + shown,
        )
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=size)


def size(arguments: argparse.Namespace) -> int:
    """Print the plan; 0: it fits, 1: something is full whatever the number of nodes."""
    demand = Demand(**{field.name: getattr(arguments, field.name) for field in fields(Demand)})
    costs = load_costs()
    found = plan(demand, costs)
    if arguments.json:
        limits = [asdict(limit) | {"share": limit.share} for limit in found.limits]
        print(json.dumps(asdict(found) | {"limits": limits, "fits": found.fits}, indent=2))
    else:
        print(render(found, costs))
    return 0 if found.fits else 1


def render(found: Plan, costs: dict[str, dict[str, object]]) -> str:
    """Return the plan as text."""
    demand, measured = found.demand, costs["measured"]
    first = found.limits[0]
    lines = [
        f"{demand.viewers:,} viewers of {demand.views:,} views, {demand.rows:,.0f} rows/s in {demand.entries_per_second:,.0f} entries:",
        "",
        f"  nodes             {found.nodes or f'not even {MOST_NODES} are enough'}",
        f"  each viewer       sees what is new {found.refreshes:.3g} times a second",
        f"  each node         {found.node_cores:.2f} cores, {_memory(found.node_bytes)}",
        f"  coordinator       {found.coordinator_cores:.2f} cores, the same tables",
        f"  Redis             {found.redis_cores:.2f} cores, {_memory(found.redis_bytes)}, sends {found.egress_mbit:,.0f} Mbit/s",
        "",
        "What is full first, of what there is (more than the headroom is too much):",
        *[
            f"  {limit.share:>5.0%}  {limit.name}: {limit.used:.3g} of {limit.most:g} {limit.unit}"
            + f"  <- {limit.advice}" * (limit.share > demand.headroom or limit is first)
            for limit in found.limits
        ],
    ]
    if found.nodes and found.refreshes:
        lines += ["", "values.yaml:", *values(found).splitlines()]
        if found.nodes == 1:
            lines.append("One node is enough for the load; the second is there for when one leaves.")
    lines += [
        "",
        f"Costs measured {measured['when']} on {measured['cores']} cores ({measured['processor']}); see docs/sizing.md.",
    ]
    return "\n".join(lines)


def values(found: Plan) -> str:
    """Return what to put into the chart's values."""
    tables = found.node_bytes
    # A backlog in ingest is not in the plan, and who reaches `maxmemory` refuses publishers.
    store = max(LEAST_STORE, found.redis_bytes / found.demand.headroom)
    return "\n".join(
        [
            "  node:",
            f"    replicas: {max(2, found.nodes)}",
            f"    settings: {{frame_ms: {ceil(1000 / found.refreshes)}}}",
            *_resources(found.node_cores, found.node_bytes),
            "  coordinator:",
            f"    replicas: {found.demand.coordinators}",
            *_resources(found.coordinator_cores, tables),
            "  valkey:",
            f"    maxmemory: {ceil(store / MIB)}mb",
            *_resources(found.redis_cores, store),
        ]
    )


def _resources(cores: float, size_bytes: float) -> list[str]:
    mebibytes = ceil(size_bytes / STEP) * STEP // MIB
    return [
        "    resources:",
        f"      requests: {{cpu: {max(100, ceil(cores * 10) * 100)}m, memory: {mebibytes}Mi}}",
        f"      limits: {{memory: {2 * mebibytes}Mi}}",
    ]


def _memory(size_bytes: float) -> str:
    return f"{size_bytes / MIB:,.0f} MiB" if size_bytes < 10 * 1024 * MIB else f"{size_bytes / 1024 / MIB:,.0f} GiB"

"""How many nodes a load needs, and what is full first: a linear model whose costs `make report` measured and fitted.

docs/sizing.md says what it is made of, and how far off it was for runs that it had not seen. Nothing here talks to anybody.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import ceil
from pathlib import Path
from typing import Any

import yaml

from parallax.errors import ConfigurationError

COSTS = Path(__file__).with_name("sizing.yaml")
"""Seconds of a processor, and bytes, for each unit of work; with the machine that they were measured on."""
FRAME_SECONDS = 0.05
"""The least time between two refreshes of one table, unless PARALLAX_FRAME_MS says otherwise."""
KINDS = ("sorted", "grouped")
MOST_NODES = 100
"""What is planned at most: nobody has seen more."""
LEAST_REFRESHES = 0.1
"""A second. A plan with fewer is none."""
MIB, GIB = 1 << 20, 1 << 30
SIDE_BY_SIDE = 1.8
"""So many times as fast is a table refreshed whose views are many, on two processors: the engine takes several at a time."""
ENGINE_SHARE = 0.75
"""Of what a node's processors have left for views and viewers: the rest is for the viewers, when the plan says how often they are refreshed."""
HALVINGS = 50
"""Of the range in which the number of refreshes is looked for."""
GROUPED_ROWS = 1000
"""Rows of one refresh that cost a grouped view something: with so many, nearly every group has changed."""
LOG_BYTES = 32 * MIB
"""What a table's log weighs at least before it is cut: the coordinator's snapshot_min_bytes."""
ENTRY_BYTES = 900
"""What an entry weighs besides its rows: Arrow's description of five columns, and the record around it."""

Work = dict[str, float]


@dataclass(frozen=True, slots=True)
class Demand:
    """What there is to serve, and on what. Raises ConfigurationError, with a line for each number that cannot be."""

    viewers: int
    views: int = 1
    """Different ones, over all tables."""
    rows: float = 1000.0
    """Rows published a second, over all tables."""
    entries: float = 0.0
    """Entries a second that they come in; 0: one for each hundred rows."""
    refreshes: float = 0.0
    """How often a second viewers are to see what is new; 0: as often as the engine can show all views on one node."""
    tables: int = 1
    table_rows: int = 50_000
    """Rows that each table holds."""
    row_bytes: float = 40.0
    grouped: float = 0.5
    """Share of the views that are grouped; the others are sorted or filtered."""
    cores_per_node: float = 2.0
    memory_per_node: float = 4.0
    """GiB."""
    redis_memory: float = 4.0
    """GiB."""
    headroom: float = 0.5
    """Share of each limit that may be used."""
    network_mbit: float = 1000.0
    """What Redis may send."""
    coordinators: int = 2

    def __post_init__(self) -> None:
        least = {
            "viewers": 0,
            "views": 0,
            "rows": 0,
            "entries": 0,
            "refreshes": 0,
            "table_rows": 0,
            "tables": 1,
            "coordinators": 1,
        }
        problems = [
            f"--{name.replace('_', '-')} {getattr(self, name):g}: expected at least {low}"
            for name, low in least.items()
            if not getattr(self, name) >= low
        ]
        for name in ("row_bytes", "cores_per_node", "memory_per_node", "redis_memory", "network_mbit"):
            if not 0 < getattr(self, name) < float("inf"):
                problems.append(f"--{name.replace('_', '-')} {getattr(self, name):g}: expected a number above 0")
        if not 0 < self.headroom <= 1:
            problems.append(f"--headroom {self.headroom:g}: expected a share above 0, at most 1")
        if not 0 <= self.grouped <= 1:
            problems.append(f"--grouped {self.grouped:g}: expected a share from 0 to 1")
        if self.viewers and not self.views:
            problems.append("--views 0: expected at least 1, for there are viewers")
        if max(float(getattr(self, field.name)) for field in fields(self)) > 1e12:
            problems.append("one of the numbers is beyond 10^12: nothing is known of such a load")
        if problems:
            raise ConfigurationError(problems)

    @property
    def entries_per_second(self) -> float:
        """Entries a second."""
        return self.entries or self.rows / 100

    @property
    def most_refreshes(self) -> float:
        """How often a second there is something new at a table, in steps of a frame."""
        return min(self.entries_per_second / self.tables, 1 / FRAME_SECONDS)

    @property
    def bytes_per_second(self) -> float:
        """What is published."""
        return self.rows * self.row_bytes + self.entries_per_second * ENTRY_BYTES


@dataclass(frozen=True, slots=True)
class Limit:
    """Something that can be full."""

    name: str
    used: float
    most: float
    unit: str
    advice: str

    @property
    def share(self) -> float:
        """How much of it is used."""
        return self.used / self.most


@dataclass(frozen=True, slots=True)
class Plan:
    """What a demand needs. `limits` begins with the one that is used most."""

    demand: Demand
    nodes: int
    """0: no number of nodes up to MOST_NODES is enough."""
    refreshes: float
    """How often a second each viewer sees what is new."""
    node_cores: float
    node_bytes: float
    coordinator_cores: float
    redis_cores: float
    redis_bytes: float
    egress_mbit: float
    limits: tuple[Limit, ...]

    @property
    def fits(self) -> bool:
        """Whether nothing is used beyond its headroom."""
        return self.nodes > 0 and self.limits[0].share <= self.demand.headroom


def node_work(
    refreshes: float, entries: float, rows: float, polls: float, views: Mapping[str, float], table_rows: float
) -> Work:
    """Return what a node does in a second, by the names of the costs; `views` are different ones by kind."""
    work = {"second": 1.0, "refresh": refreshes, "entry": entries, "row": rows}
    for kind in KINDS:
        count = views.get(kind, 0.0)
        work[f"{kind} view, poll"] = count * polls
        work[f"{kind} view, poll, row of the table"] = count * polls * table_rows
    work["sorted view, row"] = views.get("sorted", 0.0) * rows
    work["grouped view, row"] = views.get("grouped", 0.0) * polls * min(rows / polls, GROUPED_ROWS) if polls else 0.0
    return work


def coordinator_work(entries: float, rows: float) -> Work:
    """Return what a coordinator does in a second."""
    return {"second": 1.0, "entry": entries, "row": rows}


def redis_work(entries: float, data_bytes: float, readers: float) -> Work:
    """Return what Redis does in a second; readers are nodes and coordinators."""
    return {
        "second": 1.0,
        "entry": entries,
        "byte": data_bytes,
        "entry sent": entries * readers,
        "byte sent": data_bytes * readers,
    }


def cost(costs: Mapping[str, float], work: Work) -> float:
    """Return what work costs; what has no cost costs nothing."""
    return sum(costs.get(name, 0.0) * amount for name, amount in work.items())


def views_of_a_node(viewers: float, views: float, nodes: int) -> float:
    """Return how many different views one of the nodes has, if viewers are spread by chance."""
    views = min(views, viewers)
    return views * (1 - (1 - 1 / nodes) ** (viewers / views)) if views else 0.0


def load_costs(path: Path = COSTS) -> dict[str, Any]:
    """Return the measured costs."""
    costs: dict[str, Any] = yaml.safe_load(path.read_text())
    return costs


def plan(demand: Demand, costs: Mapping[str, Any]) -> Plan:
    """Return the smallest number of nodes that serve a demand, and what is full first."""
    most = demand.most_refreshes
    refreshes = min(demand.refreshes, most) if demand.refreshes else _as_often_as_possible(demand, costs)
    wanted = refreshes >= min(LEAST_REFRESHES, most)
    return _with_nodes(demand, costs, refreshes, _fewest(demand, costs, refreshes) if wanted else 0)


def _as_often_as_possible(demand: Demand, costs: Mapping[str, Any]) -> float:
    """Return how often a table can be refreshed if one node has all of the views: a little below what its headroom allows."""
    views = _by_kind(demand, min(demand.views, demand.viewers))
    entries, rows = demand.entries_per_second, demand.rows
    turns = demand.headroom * demand.tables * min(SIDE_BY_SIDE, demand.cores_per_node)
    loop = cost(costs["loop"], node_work(0.0, entries, rows, 0.0, {}, 0.0))
    processors = demand.headroom * demand.cores_per_node - loop - cost(costs["engine"], {"second": 1.0})
    room = 0.99 * min(turns, ENGINE_SHARE * processors)

    def fits(refreshes: float) -> bool:
        work = node_work(0.0, entries, rows, refreshes, views, demand.table_rows) | {"second": 0.0}
        return cost(costs["engine"], work) <= room

    if fits(demand.most_refreshes):
        return demand.most_refreshes
    least, most = 0.0, demand.most_refreshes
    for _ in range(HALVINGS):  # what it costs only grows with how often it is done
        middle = (least + most) / 2
        least, most = (middle, most) if fits(middle) else (least, middle)
    return least


def _fewest(demand: Demand, costs: Mapping[str, Any], refreshes: float) -> int:
    """Return the fewest nodes none of which is too busy, 0 if no number is enough. More nodes never make one busier."""

    def is_enough(nodes: int) -> bool:
        return all(limit.share <= demand.headroom for limit in _node_limits(demand, costs, refreshes, nodes))

    return next((nodes for nodes in range(1, MOST_NODES + 1) if is_enough(nodes)), 0)


def _by_kind(demand: Demand, count: float) -> dict[str, float]:
    return {"sorted": count * (1 - demand.grouped), "grouped": count * demand.grouped}


def _of_a_node(demand: Demand, costs: Mapping[str, Any], refreshes: float, nodes: int) -> tuple[Work, float]:
    """Return a node's work, and its bytes of memory."""
    viewers, kept = ceil(demand.viewers / nodes), costs["memory"]
    views = _by_kind(demand, views_of_a_node(demand.viewers, demand.views, nodes))
    work = node_work(viewers * refreshes, demand.entries_per_second, demand.rows, refreshes, views, demand.table_rows)
    views_bytes = sum(count * kept[f"{kind} view, row"] * demand.table_rows for kind, count in views.items())
    rows_bytes = float(demand.table_rows) * demand.tables * kept["row"]
    return work, kept["node"] + rows_bytes + viewers * kept["viewer"] + views_bytes


def _node_limits(demand: Demand, costs: Mapping[str, Any], refreshes: float, nodes: int) -> list[Limit]:
    work, node_bytes = _of_a_node(demand, costs, refreshes, nodes)
    loop = cost(costs["loop"], work)
    lane = cost(costs["engine"], work | {"second": 0.0, "refresh": 0.0}) / demand.tables
    processors = cost(costs["engine"], work) + loop
    return [
        Limit("a node's event loop", loop, 1.0, "cores", "more nodes, with fewer viewers each"),
        Limit(
            "the engine's turn at one table",
            lane,
            min(SIDE_BY_SIDE, demand.cores_per_node),
            "cores",
            "fewer refreshes, different views or rows, or several tables",
        ),
        Limit("a node's processors", processors, demand.cores_per_node, "cores", "more cores for each node"),
        Limit(
            "a node's memory",
            node_bytes / GIB,
            demand.memory_per_node,
            "GiB",
            "more memory for each node, or tables with a limit",
        ),
    ]


def _with_nodes(demand: Demand, costs: Mapping[str, Any], refreshes: float, enough: int) -> Plan:
    nodes = enough or MOST_NODES
    entries, readers = demand.entries_per_second, nodes + demand.coordinators
    work, node_bytes = _of_a_node(demand, costs, refreshes, nodes)
    coordinator = cost(costs["coordinator"], coordinator_work(entries, demand.rows))
    redis = cost(costs["redis"], redis_work(entries, demand.bytes_per_second, readers))
    egress = demand.bytes_per_second * readers * 8 / 1e6
    table_bytes = demand.table_rows * demand.row_bytes
    redis_bytes = demand.tables * (2 * max(table_bytes, LOG_BYTES) + table_bytes)
    limits = [
        *_node_limits(demand, costs, refreshes, nodes),
        Limit(
            "the coordinator",
            coordinator,
            1.0,
            "cores",
            "larger entries, or fleets with tables of their own (PARALLAX_PREFIX)",
        ),
        Limit("Redis's processor", redis, 1.0, "cores", "larger entries, fewer nodes, or fleets with a Redis of their own"),
        Limit(
            "Redis's memory", redis_bytes / GIB, demand.redis_memory, "GiB", "more memory for Redis, or tables with a limit"
        ),
        Limit("what Redis sends", egress, demand.network_mbit, "Mbit/s", "a faster network, larger nodes but fewer of them"),
    ]
    return Plan(
        demand,
        enough,
        refreshes,
        node_cores=cost(costs["engine"], work) + cost(costs["loop"], work),
        node_bytes=node_bytes,
        coordinator_cores=coordinator,
        redis_cores=redis,
        redis_bytes=redis_bytes,
        egress_mbit=egress,
        limits=tuple(sorted(limits, key=lambda limit: -limit.share)),
    )

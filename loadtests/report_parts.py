"""What the report measures, part by part. Each part starts its servers itself and can be measured alone.

Every part returns `{"points": [...]}`, of loadtests/lab.py, and what it found besides.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from loadtests import bench_bad_viewers, bench_profile, bench_viewers
from loadtests.lab import OTHERS, Lab, Load, Point, is_held
from loadtests.scenes import KINDS, Scene
from loadtests.servers import SPECS, Fleet

MOST_VIEWERS = 2048
SHARES = (1.0, 0.5, 0.1, 0.0)
BUDGET = 1.0
"""Cores: at so much processor time servers are compared."""
NODES = (1, 2, 4, 8)
ROWS = ((10, 100), (10, 1000), (10, 4000), (50, 200), (100, 10), (300, 1))
"""Entries a second, and rows of each."""


@dataclass(frozen=True, slots=True)
class Options:
    """How long and how finely to measure."""

    directory: Path
    seconds: float = 3.0
    is_quick: bool = False
    others: float = OTHERS
    """Cores that programs may use that are no part of it."""


@asynccontextmanager
async def parallax(options: Options, nodes: int = 1, tables: tuple[str, ...] = ("middle",)) -> AsyncIterator[Lab]:
    """Run a fleet for a while."""
    fleet = Fleet(options.directory, [spec for spec in SPECS if spec.name in tables], nodes)
    try:
        await fleet.start()
        await fleet.fill()
        yield Lab("ours", fleet, options.directory, others=options.others)
    finally:
        await fleet.close()


@asynccontextmanager
async def stock(options: Options) -> AsyncIterator[Lab]:
    """Give the stock handler, with the executor with which it does better."""
    yield Lab("stock", None, options.directory, bench_viewers.POOL_THREADS, options.others)


# The ladder ----------------------------------------------------------------------------------------------------------


def ladder(nodes: int) -> Callable[[Options], Awaitable[Point]]:
    """Return the part that climbs until so many nodes (0: the stock handler) serve their viewers no more."""

    async def measure(options: Options) -> Point:
        async with parallax(options, nodes) if nodes else stock(options) as lab:
            return await climb(lab, options)

    return measure


async def climb(lab: Lab, options: Options) -> Point:
    """Add viewers until some are not served, close in, and measure once more, for longer, at half of what was held."""
    load = Load(1, seconds=options.seconds)
    points: list[Point] = []
    held, failed, count = 0, 0, 1

    async def step(viewers: int) -> Point:
        """Measure a step; if it is missed by less than half, a second try counts."""
        point = await lab.point(replace(load, viewers=viewers))
        if not is_held(point) and (point.get("rate") or 0.0) > load.rate / 2:
            points.append(point)
            point = await lab.point(replace(load, viewers=viewers))
        points.append(point)
        return point

    while count <= MOST_VIEWERS:
        point = await step(count)
        if not is_held(point):
            failed = count
            break
        held = count
        count *= 8 if point["cores"] < 0.2 * len(point["nodes"]) and count < 64 else 2
    for _ in range(1 if options.is_quick else 3):
        middle = (held + failed) // 2
        if middle - held < max(1, held // 16):
            break
        point = await step(middle)
        held, failed = (middle, failed) if is_held(point) else (held, middle)
    half = await lab.point(
        replace(load, viewers=max(1, held // 2), seconds=options.seconds * (1 if options.is_quick else 3))
    )
    return {"points": points, "knee": held, "half": half}


# Sharing -------------------------------------------------------------------------------------------------------------


def sharing(kind: str) -> Callable[[Options], Awaitable[Point]]:
    """Return the part that compares the viewers of one kind of view that a core of processor serves, by how many share."""

    async def measure(options: Options) -> Point:
        points: list[Point] = []
        found: dict[str, dict[str, float]] = {"ours": {}, "stock": {}}
        for make in (parallax, stock):
            async with make(options) as lab:
                for share in (1.0, 0.0) if options.is_quick else SHARES:
                    first = 128 if share == 1.0 and lab.fleet else 6
                    load = Load(first, Scene((kind,), share), seconds=options.seconds)
                    taken = await fill_a_core(lab, load, 2 if options.is_quick else 4)
                    found[lab.who][f"{share:.0%}"] = viewers_of_a_core(taken)
                    points += taken
        return {"points": points, "viewers": found}

    return measure


async def fill_a_core(lab: Lab, load: Load, tries: int) -> list[Point]:
    """Find how many viewers take about a core of the server's processor."""
    points: list[Point] = []
    count, too_many = load.viewers, MOST_VIEWERS
    for _ in range(tries):
        point = await lab.point(replace(load, viewers=count))
        points.append(point)
        if not is_held(point):
            too_many = min(too_many, count)
        elif 0.9 * BUDGET <= point["cores"] <= 1.1 * BUDGET:
            break
        following = next_count(points, too_many)
        if following in {one["load"]["viewers"] for one in points}:
            break
        count = following
    return points


def next_count(points: list[Point], too_many: int) -> int:
    """Return with how many viewers to go on: where a line through what was held reaches the budget."""
    held = sorted((one["load"]["viewers"], one["cores"]) for one in points if is_held(one))
    if not held:
        return max(1, too_many // 2)
    count, cores = held[-1]
    guess = count * BUDGET / max(cores, 0.01)
    if len(held) > 1 and cores > held[-2][1]:
        before, less = held[-2]
        guess = count + (BUDGET - cores) * (count - before) / (cores - less)
    if too_many < MOST_VIEWERS:
        guess = min(guess, (count + too_many) / 2)
    return max(1, min(round(guess), 16 * count))


def viewers_of_a_core(points: list[Point]) -> float:
    """Return how many viewers a core's processor time serves: between two counts that were measured, or the most that were held."""
    held = sorted((one["cores"], one["load"]["viewers"]) for one in points if is_held(one) and not one["invalid"])
    if not held:
        return 0.0
    for (less, before), (cores, count) in zip([(0.0, 0), *held], held, strict=False):
        if cores >= BUDGET and cores > less:
            return float(before + (BUDGET - less) * (count - before) / (cores - less))
    return float(max(count for _, count in held))


# What the model is fitted to, besides ----------------------------------------------------------------------------------


async def costs(options: Options) -> Point:
    """Rows without viewers, views of different kinds over tables of different sizes, and faster ticks."""
    loads = [Load(0, rate=rate, rows=rows) for rate, rows in ROWS]
    for kind in KINDS:
        own = Scene((kind,), 0.0)
        loads += [Load(count, own) for count in (2, 6)]
        loads += [Load(3, own, rows=1000), Load(4, own, rate=5.0)]
        loads += [
            Load(4, replace(own, table="small")),
            Load(12, replace(own, table="small")),
            Load(3, replace(own, table="market")),
        ]
    loads += [Load(count, rate=rate) for count, rate in ((40, 10), (100, 10), (50, 5), (150, 5))]
    tables = ("small", "middle", "market")
    if options.is_quick:
        loads = loads[::2]
    async with parallax(options, tables=tables) as lab:
        return {"points": [await lab.point(replace(load, seconds=options.seconds)) for load in loads]}


async def fleet(options: Options) -> Point:
    """What more nodes cost the coordinator and Redis; from the second on they are light subscribers."""
    rates = ((50, 200),) if options.is_quick else ((50, 200), (200, 10))
    loads = [Load(0, rate=rate, rows=rows, subscribers=count - 1) for rate, rows in rates for count in NODES]
    async with parallax(options) as lab:
        return {"points": [await lab.point(replace(load, seconds=1.5 * options.seconds)) for load in loads]}


async def memory(options: Options) -> Point:
    """What rows, viewers and views take of a node's memory, each from a node that began afresh."""
    found: dict[str, float] = {}
    points: list[Point] = []
    sizes: dict[str, float] = {}
    for table in ("tiny", "market"):
        async with parallax(options, tables=(table,)) as lab:
            assert lab.fleet is not None
            await lab.fleet.fresh_node()
            point = await lab.point(Load(0, Scene(table=table), seconds=1.0))
            points.append(point)
            sizes[table] = point["nodes"][0]["rss_idle"]
    found["row"] = max(0.0, (sizes["market"] - sizes["tiny"]) / 99_000)
    found["node"] = sizes["tiny"]
    async with parallax(options) as lab:
        assert lab.fleet is not None

        async def grown(load: Load) -> float:
            assert lab.fleet is not None
            await lab.fleet.fresh_node()
            point = await lab.point(replace(load, seconds=2.0))
            points.append(point)
            node = point["nodes"][0]
            return float(node["rss"] - node["rss_idle"])

        few, many = (4, 16) if options.is_quick else (8, 24)
        first = await grown(Load(1, Scene(("sorted",), 1.0)))
        more = 50 if options.is_quick else 200
        found["viewer"] = (await grown(Load(1 + more, Scene(("sorted",), 1.0))) - first) / more
        for kind in KINDS:
            less = await grown(Load(few, Scene((kind,), 0.0)))
            found[f"view {kind}"] = (await grown(Load(many, Scene((kind,), 0.0))) - less) / (many - few)
    return {"points": points, "bytes": found, "rows": 50_000}


# What the older benchmarks measure ---------------------------------------------------------------------------------------


async def basics(options: Options) -> Point:
    """One viewer of an idle server, subscribers who only listen, and a viewer's memory, beside the rivals."""
    rounds = 1 if options.is_quick else 3
    return await bench_viewers.run(["alone", "fanout", "memory"], rounds, options.seconds, options.is_quick)


async def bad(options: Options) -> Point:
    """What bad viewers do to good ones."""
    return await bench_bad_viewers.run(max(options.seconds, 5.0))


async def profile(options: Options) -> Point:
    """Where a node's processor time goes."""
    return await bench_profile.run(options.seconds)


PARTS: dict[str, Callable[[Options], Awaitable[Point]]] = {
    "basics": basics,
    "ladder-1": ladder(1),
    "ladder-2": ladder(2),
    "ladder-3": ladder(3),
    "ladder-stock": ladder(0),
    "sharing-sorted": sharing("sorted"),
    "sharing-grouped": sharing("grouped"),
    "costs": costs,
    "fleet": fleet,
    "memory": memory,
    "bad": bad,
    "profile": profile,
}
QUICK_PARTS = ("ladder-1", "ladder-stock", "sharing-sorted", "costs", "fleet", "memory")
"""What a quick run measures."""

"""The viewer of the server's own wheel, in a real Chromium, on a real node: it shows what plain Python makes of the rows."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import Any

import pytest
from playwright.async_api import expect

from parallax.replication.spec import TableSpec
from tests.browser import Browser, Tab
from tests.cluster import Cluster
from tests.processes import until

Row = Mapping[str, Any]
Lines = list[list[str]]

FLIGHTS = TableSpec(
    "flights", (("id", "string"), ("carrier", "string"), ("origin", "string"), ("dep_delay", "float")), index="id"
)
PATIENT_SECONDS = 20  # a tenth of one is enough where nothing else runs
pytestmark = [pytest.mark.browser, pytest.mark.cluster]


# What is published ----------------------------------------------------------------------------------------------------


def first_rows() -> list[Row]:
    """Return rows in which each carrier flies from each origin; their delays have exact sums."""
    rng = random.Random(5)
    places = [(carrier, origin) for carrier in ("B6", "DL", "UA") for origin in ("EWR", "JFK")] * 3
    return [
        {"id": f"{number:02}", "carrier": carrier, "origin": origin, "dep_delay": rng.randrange(400, 8000) / 4}
        for number, (carrier, origin) in enumerate(places)
    ]


CHANGES: list[tuple[str, list[Row]]] = [
    # Values change; of one row only the value is published.
    ("update", [{"id": "03", "dep_delay": 2750.25}, {"id": "04", "carrier": "UA", "origin": "EWR", "dep_delay": 112.5}]),
    # Rows go into other groups.
    ("update", [{"id": "00", "carrier": "UA"}, {"id": "07", "origin": "EWR"}, {"id": "11", "carrier": "B6"}]),
    # Rows come, and with them a carrier before the others and an origin after the others.
    (
        "update",
        [
            {"id": "03a", "carrier": "AA", "origin": "JFK", "dep_delay": 1500.75},
            {"id": "99", "carrier": "AA", "origin": "EWR", "dep_delay": 777.0},
            {"id": "98", "carrier": "UA", "origin": "LGA", "dep_delay": 3333.25},
        ],
    ),
    # Rows go, and with them all of a carrier.
    ("remove", [{"id": "02"}, {"id": "05"}, {"id": "03a"}, {"id": "99"}]),
]


class Flights:
    """The table on a node of its own, and the rows that it must hold by now."""

    def __init__(self, cluster: Cluster, browser: Browser) -> None:
        self._cluster = cluster
        self._browser = browser
        self._held: dict[str, Row] = {}

    @property
    def rows(self) -> list[Row]:
        """The rows in the order of their keys."""
        return [self._held[key] for key in sorted(self._held)]

    async def publish(self, op: str, rows: Sequence[Row]) -> None:
        """Publish an update or a remove."""
        for row in rows:
            held = self._held.pop(row["id"], {})
            if op == "update":
                self._held[row["id"]] = {**held, **row}
        await self._cluster.publish("flights", op=op, format="json", data=json.dumps(rows))

    async def open(self, config: Mapping[str, Any], beside: Tab | None = None) -> Tab:
        """Open the page, and configure its viewer once it shows the table."""
        tab = await self._browser.open(self._cluster.url("node-1"), beside)
        await expect(tab.cell("JFK").first).to_be_visible()
        await tab.restore(**config)
        return tab

    async def has_views(self, *, shared: int, private: int, viewers: int, of_one: int) -> None:
        """Wait until the node's /metrics tell of so many views of the engine, viewers of them, and views of one viewer."""
        expected = {
            'engine_views{kind="shared",table="flights"}': shared,
            'engine_views{kind="private",table="flights"}': private,
            'viewers_per_view_sum{table="flights"}': viewers,
            'viewers_per_view_bucket{le="1.0",table="flights"}': of_one,
        }

        async def is_told() -> bool:
            _, body = await self._cluster.fetch(self._cluster.url("node-1", "/metrics", internal=True))
            told = dict(line.rsplit(" ", 1) for line in body.decode().splitlines())
            assert {name: float(told[f"parallax_node_{name}"]) for name in expected} == expected
            return True

        await until(is_told, PATIENT_SECONDS, "the metrics tell of the views")


@pytest.fixture
async def flights(make_cluster: Callable[..., Awaitable[Cluster]], browser: Browser) -> Flights:
    """The table with its first rows. Views that nobody looks at go at once, so that metrics tell of the others only."""
    cluster = await make_cluster([FLIGHTS], coordinators=1, nodes=1, settings={"LINGER_SECONDS": "0"})
    flights = Flights(cluster, browser)
    await flights.publish("update", first_rows())
    return flights


# What must be seen ----------------------------------------------------------------------------------------------------


def shown(value: float) -> str:
    return f"{value:,.2f}"


def total(rows: Iterable[Row]) -> float:
    return sum(row["dep_delay"] for row in rows)


def groups(rows: Iterable[Row], column: str) -> dict[str, list[Row]]:
    """Return the rows by what they have in a column, in order."""
    found: dict[str, list[Row]] = {}
    for row in sorted(rows, key=itemgetter(column)):
        found.setdefault(row[column], []).append(row)
    return found


def tree(rows: Sequence[Row], closed: Collection[str] = ()) -> Lines:
    """Return the lines of TREE, of which some groups are collapsed."""

    def below(label: str, rows: Sequence[Row], columns: Sequence[str], depth: int) -> Iterator[list[str]]:
        yield ["  " * depth + label, shown(total(rows)), str(len(rows))]
        if columns and label not in closed:
            for value, members in groups(rows, columns[0]).items():
                yield from below(value, members, columns[1:], depth + 1)

    return list(below("TOTAL", rows, TREE["group_by"], 0))


def split(rows: Sequence[Row]) -> Lines:
    """Return the lines of carriers by origins; of an origin that a carrier does not fly from, nothing is shown."""
    lines = []
    for label, members in {"TOTAL": rows, **groups(rows, "carrier")}.items():
        found = groups(members, "origin")
        sums = [shown(total(found[origin])) if origin in found else "" for origin in groups(rows, "origin")]
        lines.append([label if label == "TOTAL" else f"  {label}", *sums])
    return lines


def flat(rows: Iterable[Row], *columns: str) -> Lines:
    return [[value if isinstance(value := row[column], str) else shown(value) for column in columns] for row in rows]


TREE: dict[str, Any] = {
    "group_by": ["carrier", "origin"],
    "columns": ["dep_delay", "id"],
    "aggregates": {"dep_delay": "sum", "id": "count"},
}
VIEWS: dict[str, tuple[dict[str, Any], Callable[[list[Row]], Lines]]] = {
    "flat": ({"columns": ["id", "carrier", "dep_delay"]}, lambda rows: flat(rows, "id", "carrier", "dep_delay")),
    "grouped": (TREE, tree),
    "split": ({"group_by": ["carrier"], "split_by": ["origin"], "columns": ["dep_delay"]}, split),
    "sorted": (
        {"sort": [["dep_delay", "desc"]], "columns": ["id", "dep_delay"]},
        lambda rows: flat(sorted(rows, key=itemgetter("dep_delay"), reverse=True), "id", "dep_delay"),
    ),
    "filtered": (
        {"filter": [["carrier", "==", "UA"], ["dep_delay", ">", 500]], "columns": ["id", "dep_delay"]},
        lambda rows: flat([row for row in rows if row["carrier"] == "UA" and row["dep_delay"] > 500], "id", "dep_delay"),
    ),
    "expressions": (
        {
            "expressions": {"twice": '"dep_delay" * 2', "leg": """concat("carrier", ' from ', "origin")"""},
            "columns": ["id", "twice", "leg"],
        },
        lambda rows: [[row["id"], shown(row["dep_delay"] * 2), f"{row['carrier']} from {row['origin']}"] for row in rows],
    ),
}

BARS = """() => {
    const drawn = document.querySelector("perspective-viewer-charts-y-bar").shadowRoot.querySelector(".webgl-canvas");
    const {width, height} = drawn;
    const context = Object.assign(document.createElement("canvas"), {width, height}).getContext("2d");
    context.drawImage(drawn, 0, 0);
    const pixels = context.getImageData(0, 0, width, height).data;
    const isBlue = at => pixels[at + 2] - pixels[at] > 128 && pixels[at + 3] === 255;
    const bars = [0];
    for (let x = 0; x < width; x++) {
        let tall = 0;
        for (let y = 0; y < height; y++) tall += isBlue(4 * (y * width + x));
        if (tall) bars.push(Math.max(bars.pop(), tall));
        else if (bars.at(-1)) bars.push(0);
    }
    return bars.filter(tall => tall);
}"""
"""How many pixels tall the bars of a chart are, from left to right."""


async def see(tabs: Iterable[Tab], expected: Lines, what: str) -> None:
    """Wait until the datagrid of each page shows these lines."""

    async def shows(tab: Tab) -> bool:
        assert await tab.lines() == expected
        return True

    for number, tab in enumerate(tabs, 1):
        await until(partial(shows, tab), PATIENT_SECONDS, f"page {number} shows {what}")


# The tests --------------------------------------------------------------------------------------------------------------


async def test_each_kind_of_view_shows_what_was_published(flights: Flights) -> None:
    tabs = {name: await flights.open(config) for name, (config, _) in VIEWS.items()}
    for op, rows in [("update", first_rows()), *CHANGES]:
        await flights.publish(op, rows)
        for name, (_, expected) in VIEWS.items():
            await see([tabs[name]], expected(flights.rows), f"{name} after {op} {rows}")
        headings = tabs["split"].page.locator("regular-table thead tr:first-child th")
        await expect(headings).to_have_text(["", *groups(flights.rows, "origin")])
    assert [complaint for tab in tabs.values() for complaint in tab.complaints] == []


async def test_a_chart_is_drawn_to_scale(flights: Flights) -> None:
    tab = await flights.open({"plugin": "Y Bar", "group_by": ["carrier"], "columns": ["dep_delay"]})

    async def is_drawn() -> bool:
        sums = [total(members) for members in groups(flights.rows, "carrier").values()]
        bars = await tab.page.evaluate(BARS)
        assert len(bars) == len(sums)
        assert max(bars) > 300  # pixels
        assert [bar / max(bars) for bar in bars] == pytest.approx([each / max(sums) for each in sums], abs=0.01)
        return True

    for op, rows in [("update", first_rows()), *CHANGES]:
        await flights.publish(op, rows)
        await until(is_drawn, PATIENT_SECONDS, f"the chart after {op} {rows}")
    assert tab.complaints == []


async def test_groups_are_collapsed_and_expanded_by_clicks_and_stay_so(flights: Flights) -> None:
    tab = await flights.open(TREE)
    await see([tab], tree(flights.rows), "everything")

    async def click(group: str, *closed: str) -> None:
        await tab.toggle(group)
        await see([tab], tree(flights.rows, closed), f"{closed} collapsed")

    await click("DL", "DL")
    for op, rows in CHANGES[:2]:
        await flights.publish(op, rows)
        await see([tab], tree(flights.rows, ["DL"]), f"DL collapsed after {op} {rows}")
    await click("B6", "B6", "DL")
    await click("DL", "B6")
    await flights.publish(*CHANGES[2])  # new groups are collapsed for whoever collapsed something
    await see([tab], tree(flights.rows, ["AA", "B6"]), "B6 and the new AA collapsed")
    await click("AA", "B6")
    await click("TOTAL", "TOTAL")
    await flights.publish(*CHANGES[3])
    await see([tab], tree(flights.rows, ["TOTAL"]), "everything collapsed after rows went")
    await click("TOTAL", "B6", "DL", "UA")
    await click("UA", "B6", "DL")
    assert tab.complaints == []


@pytest.mark.deep
@pytest.mark.timeout(300)  # twenty viewers start
async def test_one_of_twenty_collapses_a_group_for_himself(flights: Flights) -> None:
    tabs = [await flights.open(TREE)]
    for count in (4, 5, 5, 5):
        tabs += await asyncio.gather(*(flights.open(TREE, beside=tabs[0]) for _ in range(count)))
    one, others = tabs[6], tabs[:6] + tabs[7:]
    await see(tabs, tree(flights.rows), "everything")
    await flights.has_views(shared=1, private=0, viewers=20, of_one=0)

    await one.toggle("DL")
    await see([one], tree(flights.rows, ["DL"]), "DL collapsed")
    await see(others, tree(flights.rows), "everything still")
    await flights.has_views(shared=1, private=1, viewers=20, of_one=1)
    for op, rows in CHANGES[:2]:
        await flights.publish(op, rows)
        await see([one], tree(flights.rows, ["DL"]), f"DL collapsed after {op} {rows}")
        await see(others, tree(flights.rows), f"everything after {op} {rows}")

    await one.toggle("DL")
    await see([one], tree(flights.rows), "DL expanded")
    await flights.publish(*CHANGES[3])
    await see(tabs, tree(flights.rows), "everything again")
    await flights.has_views(shared=1, private=1, viewers=20, of_one=1)
    await one.page.close()
    await flights.has_views(shared=1, private=0, viewers=19, of_one=0)
    await flights.publish("update", [{"id": "01", "dep_delay": 4000.5}])
    await see(others, tree(flights.rows), "everything after one has left")
    assert [complaint for tab in tabs for complaint in tab.complaints] == []

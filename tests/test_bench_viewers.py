"""The viewers' benchmark: what it says is what the gateway reads, and it finds the number that it looks for."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from loadtests import protocol
from loadtests.bench_report import plot
from loadtests.bench_viewers import Bench, Point, medians, sorted_view
from loadtests.plan import Plan
from node.gateway import messages
from parallax import wire


def test_a_request_is_what_the_gateway_reads():
    dialogue = sorted_view()
    made = wire.decode(protocol.request(1 << 28, "market", protocol.make_view("mine", dialogue.config)))
    assert (made.msg_id, made.entity_id, made.number) == (1 << 28, "market", 6)
    view = messages.parse("MakeView", made.body)
    assert view.view_id == "mine"
    assert [sort.column for sort in view.config.sort] == ["price"]
    assert [number for number, _ in dialogue.refresh] == [12, 12, 12, 12, 15, 24]
    assert dialogue.subscribe[0] == 21
    viewport = messages.parse("ToText", dialogue.refresh[5][1]).viewport
    assert (viewport.start_row, viewport.end_row) == (0, 50)


@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536])
def test_a_frame_says_how_long_it_is(size: int):
    frame = protocol.masked(b"x" * size)
    head = 2 + (0 if size < 126 else 2 if size < 65_536 else 8) + 4
    assert frame[head:] == b"x" * size
    assert frame[0] == protocol.BINARY
    assert frame[1] & 0x80, "clients mask"


class Held(Bench):
    """A bench of a server that serves so many viewers, and refuses too many."""

    served, allowed = 37, 600

    async def point(self, who: str, plan: Plan, rate: float = 10) -> Point:
        if plan.viewers > self.allowed:
            return {"failed": "too many"}
        return {"viewers": plan.viewers, "rate": 10 if plan.viewers <= self.served else 3, "errors": 0}


@pytest.mark.parametrize(("served", "found"), [(0, None), (1, 1), (37, 32), (47, 40), (500, 448), (5_000, 512)])
async def test_the_most_viewers_are_found(served: int, found: int | None):
    fleet: Any = None
    bench = Held(fleet, Path(), 1, 1.0, None, False)
    bench.served = served
    points = await bench._search("ours", bench.plan("market", 1, [sorted_view()]))
    assert max([point["viewers"] for point in points if point.get("rate") == 10], default=None) == found
    assert [point["viewers"] for point in points] == sorted(point["viewers"] for point in points)


def test_medians_leave_out_rounds_that_failed():
    points = [{"rate": 1.0, "age": None}, {"failed": "x"}, {"rate": 3.0, "age": None}, {"rate": 9.0, "age": None}]
    assert medians(points) == {"rate": 3.0, "age": None, "failed_rounds": 1}
    assert medians([{"failed": "x"}]) == {"failed": "x"}


async def test_a_number_that_is_narrowly_missed_gets_a_second_try():
    rates = iter([6.0, 9.9])

    class Fickle(Bench):
        async def point(self, who: str, plan: Plan, rate: float = 10) -> Point:
            return {"viewers": plan.viewers, "rate": next(rates), "errors": 0}

    fleet: Any = None
    bench = Fickle(fleet, Path(), 1, 1.0, None, False)
    assert (await bench._try("ours", bench.plan("market", 1, [])))["rate"] == 9.9


def test_the_plot_is_an_svg():
    curve = [{"viewers": count, "rate": 10 / count, "age_p50": 20.0 * count} for count in (1, 2, 1024)]
    root = ElementTree.fromstring(plot({"ours": curve, "stock": [*curve, {"viewers": 4, "failed": "x"}]}))
    assert len(root.findall("{http://www.w3.org/2000/svg}circle")) == 12

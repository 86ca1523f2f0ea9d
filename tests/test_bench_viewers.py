"""The viewers' benchmark: what it says is what the gateway reads, and rounds that failed do not count."""

import pytest

from loadtests import protocol
from loadtests.bench_viewers import medians, sorted_view
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


def test_medians_leave_out_rounds_that_failed():
    points = [{"rate": 1.0, "age": None}, {"failed": "x"}, {"rate": 3.0, "age": None}, {"rate": 9.0, "age": None}]
    assert medians(points) == {"rate": 3.0, "age": None, "failed_rounds": 1}
    assert medians([{"failed": "x"}]) == {"failed": "x"}


def test_medians_are_of_numbers():
    points = [{"rate": 1.0, "beside": {"redis": 0.1}, "seen": "abc"}, {"rate": 3.0, "beside": {"redis": 0.2}, "seen": "def"}]
    assert medians(points) == {"rate": 2.0}

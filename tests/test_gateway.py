"""Sharing: one engine view for all who look at the same, each answer computed once, and nobody harms another by it."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pytest

from node.gateway import Gateway, messages
from node.gateway.shared_view import State
from node.settings import NodeSettings
from parallax.replica.engine import Engine, EngineTable, to_ipc
from parallax.replication.record import Op
from parallax.replication.spec import TableSpec
from parallax.wire import SERVER_ERROR, Envelope, decode
from tests.processes import until
from tests.viewers import Viewer

SPEC = TableSpec.declare("t", {"schema": {"id": "string", "g": "string", "n": "integer"}, "index": "id"})
MAKE, DELETE, DIMENSIONS, SCHEMA, COLUMNS, ARROW = 6, 11, 12, 14, 24, 16
COLLAPSE, EXPAND, ON_UPDATE, OFF_UPDATE, ON_DELETE, ON_REMOVE = 18, 19, 21, 22, 34, 39
ROWS_MODE = b"\x08\x00"


def rows(**columns: list[Any]) -> pa.Table:
    return pa.table({name: pa.array(values, SPEC.arrow_schema.field(name).type) for name, values in columns.items()})


def make(view_id: str, **config: Any) -> bytes:
    message = messages.new("MakeView")
    message.view_id = view_id
    message.config.SetInParent()
    for name, value in config.items():
        if name == "columns":
            message.config.columns.columns.columns.extend(value)
        elif isinstance(value, dict):
            for key, part in value.items():
                getattr(message.config, name)[key] = part
        else:
            getattr(message.config, name).extend(value)
    return messages.encode(message)


@dataclass
class Node:
    engine: Engine
    gateway: Gateway
    table: EngineTable

    def open(self) -> Viewer:
        return Viewer(self.gateway)

    @property
    def shared(self) -> Any:
        (hosted,) = self.gateway.hosted
        return hosted

    async def update(self, **columns: list[Any]) -> None:
        """Update the table, visibly."""
        await self.table.apply([(Op.UPDATE, to_ipc(rows(**columns)))])
        await self.table.flush()
        await asyncio.sleep(0)

    async def has_views(self, count: int) -> None:
        async def is_so() -> bool:
            return len(self.table._views) == count

        await until(is_so, 5, f"the engine has {count} views")

    async def is_empty(self) -> None:
        """Wait until no view is left, here or in the engine."""

        async def is_so() -> bool:
            return not self.shared.views and not self.table._views

        await until(is_so, 5, "no view is left")


@pytest.fixture
async def node(request: pytest.FixtureRequest) -> AsyncIterator[Node]:
    settings: dict[str, Any] = {"linger_seconds": 0.0, "max_views": 8, **getattr(request, "param", {})}
    engine = Engine(frame_seconds=0.001)
    table = engine.table("t")
    await table.load(SPEC, rows(id=["a", "b", "c"], g=["x", "x", "y"], n=[1, 2, 3]))
    gateway = Gateway(NodeSettings(**settings))
    gateway.add_table("t", table)
    yield Node(engine, gateway, table)
    await gateway.close()
    await engine.close()


def with_settings(**settings: Any) -> Any:
    return pytest.mark.parametrize("node", [settings], indirect=True)


async def a_view(viewer: Viewer, view_id: str = "v", **config: Any) -> None:
    (answer,) = await viewer.ask(MAKE, make(view_id, **config), "t")
    assert answer.number == MAKE, answer.body


async def columns_of(viewer: Viewer, view_id: str = "v") -> dict[str, Any]:
    (answer,) = await viewer.ask(COLUMNS, b"", view_id)
    assert answer.number == COLUMNS, answer.body
    found: dict[str, Any] = json.loads(answer.body[answer.body.index(b"{") :])
    return found


# One view for all -----------------------------------------------------------------------------------------------------


async def test_equal_configurations_are_one_engine_view_and_one_computation(node: Node) -> None:
    viewers = [node.open() for _ in range(5)]
    for number, viewer in enumerate(viewers):
        await a_view(viewer, f"mine {number}", group_by=["g"])
    assert len(node.table._views) == 1
    before = node.gateway.counts.computed
    found = [await columns_of(viewer, f"mine {number}") for number, viewer in enumerate(viewers)]
    assert all(one == found[0] for one in found)
    assert node.gateway.counts.computed == before + 1
    await node.update(id=["a"], n=[100])
    fresh = await columns_of(viewers[2], "mine 2")
    assert fresh != found[0], "another version, another answer"
    for viewer in viewers:
        await viewer.close()
    await node.has_views(0)


async def test_reads_that_come_together_are_computed_together(node: Node) -> None:
    viewers = [node.open() for _ in range(5)]
    for viewer in viewers:
        await a_view(viewer)
    before = node.gateway.counts.computed
    for viewer in viewers:
        viewer.session.receive(Envelope(9, "v", ARROW, b"").encode())
    for viewer in viewers:
        await viewer.settled()
        assert decode(viewer.frames[-1]).number == ARROW
    assert node.gateway.counts.computed == before + 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"columns": ["id", "n"]}, {"columns": ["n", "id"]}),
        ({"columns": ["n"]}, {"columns": ["n"], "group_by": ["g"]}),
        ({}, {"columns": ["id", "g", "n"]}),
        ({"expressions": {"e": "1 + 1"}, "columns": ["e"]}, {"expressions": {"e": "1 + 2"}, "columns": ["e"]}),
    ],
)
async def test_other_configurations_are_other_views(node: Node, one: Any, other: Any) -> None:
    first, second = node.open(), node.open()
    await a_view(first, **one)
    await a_view(second, **other)
    assert len(node.table._views) == 2


async def test_the_order_of_a_map_makes_no_difference(node: Node) -> None:
    first, second = node.open(), node.open()
    await a_view(first, expressions={"p": "1", "q": "2"})
    await a_view(second, expressions={"q": "2", "p": "1"})
    assert len(node.table._views) == 1


@pytest.mark.parametrize(
    "config",
    [
        {"expressions": {"e": "random()"}, "columns": ["e"]},
        {"expressions": {"e": "now()"}, "columns": ["e"]},
        {"expressions": {"e": '"g"'}, "group_by": ["e"]},
    ],
)
async def test_what_depends_on_a_views_age_is_not_shared(node: Node, config: Any) -> None:
    first, second = node.open(), node.open()
    await a_view(first, **config)
    await a_view(second, **config)
    assert len(node.table._views) == 2
    await first.close()
    await node.has_views(1)


async def test_vlookup_is_refused(node: Node) -> None:
    viewer = node.open()
    text = await viewer.refused(MAKE, make("v", expressions={"e": "VLookup('n', \"id\")"}, columns=["e"]), "t")
    assert "vlookup" in text
    await node.has_views(0)


# A life ---------------------------------------------------------------------------------------------------------------


@with_settings(linger_seconds=60.0)
async def test_a_view_lingers_and_is_taken_up_again(node: Node) -> None:
    viewer = node.open()
    await a_view(viewer)
    (view,) = node.shared.views
    await viewer.close()
    assert view.state is State.LINGERING
    await node.update(id=["d"], n=[4])
    again = node.open()
    await a_view(again)
    assert set(node.shared.views) == {view}
    assert view.state is State.LIVE
    assert (await columns_of(again))["id"] == ["a", "b", "c", "d"]


async def test_who_comes_while_a_view_is_deleted_gets_another(node: Node) -> None:
    first, second = node.open(), node.open()
    await a_view(first)
    (view,) = node.shared.views
    async with node.table._lane:
        await first.close()
        await until(_state(view, State.DELETING), 5, "the view is being deleted")
        second.session.receive(Envelope(3, "t", MAKE, make("v")).encode())
    await second.settled()
    assert view not in node.shared.views
    assert (await columns_of(second))["id"] == ["a", "b", "c"]
    await node.has_views(1)


def _state(view: Any, state: State) -> Any:
    async def is_so() -> bool:
        return view.state is state

    return is_so


async def test_a_creator_who_leaves_does_not_cancel_it_for_the_others(node: Node) -> None:
    creator, other = node.open(), node.open()
    async with node.table._lane:
        creator.session.receive(Envelope(1, "t", MAKE, make("v", group_by=["g"])).encode())
        await asyncio.sleep(0.01)
        other.session.receive(Envelope(1, "t", MAKE, make("w", group_by=["g"])).encode())
        await asyncio.sleep(0.01)
        assert len(node.shared.views) == 1
        await creator.close()
    await other.settled()
    assert decode(other.frames[-1]).number == MAKE
    await node.has_views(1)
    await other.close()
    await node.has_views(0)


async def test_a_view_that_all_left_while_it_was_made_goes(node: Node) -> None:
    viewer = node.open()
    async with node.table._lane:
        viewer.session.receive(Envelope(1, "t", MAKE, make("v")).encode())
        await asyncio.sleep(0.01)
        await viewer.close()
        assert len(node.shared.views) == 1

    await node.is_empty()


async def test_a_failed_creation_fails_all_who_wait_and_leaves_nothing(node: Node) -> None:
    viewers = [node.open() for _ in range(3)]
    for viewer in viewers:
        viewer.session.receive(Envelope(1, "t", MAKE, make("v", columns=["nothing"])).encode())
    for viewer in viewers:
        await viewer.settled()
        assert decode(viewer.frames[-1]).number == SERVER_ERROR
        assert viewer.session.views == 0
    await node.is_empty()


# Order ----------------------------------------------------------------------------------------------------------------


async def test_requests_of_one_view_keep_their_order(node: Node) -> None:
    viewer = node.open()
    for msg_id, entity, number, body in (
        (1, "t", MAKE, make("v")),
        (2, "v", DIMENSIONS, b""),
        (3, "v", ARROW, b""),
        (4, "v", COLUMNS, b""),
        (5, "v", DELETE, b""),
        (6, "v", DIMENSIONS, b""),
        (7, "t", MAKE, make("v", group_by=["g"])),
        (8, "v", SCHEMA, b""),
    ):
        viewer.session.receive(Envelope(msg_id, entity, number, body).encode())
    await viewer.settled()
    said = [(answer.msg_id, answer.number) for answer in map(decode, viewer.frames)]
    assert said == [(1, 6), (2, 12), (3, 16), (4, 24), (5, 11), (6, SERVER_ERROR), (7, 6), (8, 14)]


async def test_another_view_need_not_wait(node: Node) -> None:
    viewer = node.open()
    await a_view(viewer, "slow", columns=["id"])
    await a_view(viewer, "quick", columns=["n"])
    await viewer.ask(DIMENSIONS, b"", "quick")
    async with node.table._lane:
        viewer.session.receive(Envelope(1, "slow", ARROW, b"").encode())
        viewer.session.receive(Envelope(2, "slow", DIMENSIONS, b"").encode())
        viewer.session.receive(Envelope(3, "quick", DIMENSIONS, b"").encode())
        await asyncio.sleep(0.01)
        assert decode(viewer.frames[-1]).msg_id == 3
    await viewer.settled()
    assert [decode(frame).msg_id for frame in viewer.frames[-2:]] == [1, 2]


async def test_a_viewer_who_asks_too_much_is_not_read_from(node: Node) -> None:
    viewer = node.open()
    await a_view(viewer)
    async with node.table._lane:
        asked = 0
        while viewer.session.may_ask:
            viewer.session.receive(Envelope(asked, "v", ARROW, b"").encode())
            asked += 1
    assert asked == 64
    await asyncio.wait_for(viewer.session.turn(), 5)
    await viewer.settled()
    assert viewer.session.may_ask


# Views of one's own ---------------------------------------------------------------------------------------------------


async def test_who_collapses_a_group_does_so_for_himself(node: Node) -> None:
    mine, theirs = node.open(), node.open()
    for viewer in (mine, theirs):
        await a_view(viewer, group_by=["g"])
        assert await viewer.ask(ON_UPDATE, b"", "v", 50) == []
    open_paths = (await columns_of(mine))["__ROW_PATH__"]
    assert open_paths == [[], ["x"], ["y"]]
    (answer,) = await mine.ask(COLLAPSE, b"\x08\x00", "v")
    assert answer.number == COLLAPSE
    assert (await columns_of(mine))["__ROW_PATH__"] == [[]]
    assert (await columns_of(theirs))["__ROW_PATH__"] == open_paths
    await node.has_views(2)
    await node.update(id=["z"], g=["z"], n=[1])
    for viewer in (mine, theirs):
        await viewer.settled()
        assert [answer.msg_id for answer in map(decode, viewer.frames)].count(50) == 1, "both still hear of changes"
    (answer,) = await mine.ask(EXPAND, b"\x08\x00", "v")
    assert (await columns_of(mine))["__ROW_PATH__"] == [[], ["x"], ["y"], ["z"]]
    await mine.close()
    await node.has_views(1)


@pytest.mark.parametrize("near_rows", [1, 500])
async def test_the_group_that_was_meant_is_collapsed_whatever_the_order_of_equal_groups(
    node: Node, monkeypatch: pytest.MonkeyPatch, near_rows: int
) -> None:
    monkeypatch.setattr("node.gateway.views.NEAR_ROWS", near_rows)
    config = messages.new("Config")
    config.sort.add(column="n", op=2)  # descending
    mine, theirs = node.open(), node.open()
    await node.update(id=["c"], n=[9])
    for viewer in (mine, theirs):
        await a_view(viewer, group_by=["g", "id"], columns=["n"], sort=config.sort)
    open_paths = [[], ["y"], ["y", "c"], ["x"], ["x", "b"], ["x", "a"]]
    assert (await columns_of(mine))["__ROW_PATH__"] == open_paths
    await node.update(id=["c"], n=[3])  # as much as the others have together: in a view made now it comes after them
    assert (await columns_of(mine))["__ROW_PATH__"] == open_paths

    await mine.ask(COLLAPSE, b"\x08\x01", "v")
    assert {tuple(path) for path in (await columns_of(mine))["__ROW_PATH__"]} == {(), ("y",), ("x",), ("x", "b"), ("x", "a")}
    assert (await columns_of(theirs))["__ROW_PATH__"] == open_paths
    assert await theirs.ask(COLLAPSE, b"\x08\x63", "v")  # there is no such row


@pytest.mark.parametrize(("number", "body"), [(COLLAPSE, b"\x08\x00"), (ON_UPDATE, ROWS_MODE)])
async def test_a_table_that_goes_meanwhile_is_let_go_once(node: Node, number: int, body: bytes) -> None:
    viewer, hosted = node.open(), node.shared
    await a_view(viewer, group_by=["g"])
    async with node.table._lane:
        viewer.session.receive(Envelope(9, "v", number, body).encode())
        await asyncio.sleep(0)
        node.gateway.remove_table("t")
    await viewer.settled()
    await until(lambda: _is(not hosted.views), 5, "no view is left")
    assert decode(viewer.frames[-1]).number == SERVER_ERROR


async def _is(found: bool) -> bool:
    return found


async def test_row_deltas_follow_a_view_into_its_own_life(node: Node) -> None:
    viewer = node.open()
    await a_view(viewer, group_by=["g"])
    await viewer.ask(ON_UPDATE, ROWS_MODE, "v", 60)
    await viewer.ask(ON_UPDATE, b"", "v", 61)
    await viewer.ask(COLLAPSE, b"\x08\x00", "v")
    await node.has_views(1)
    viewer.frames.clear()
    await node.update(id=["a"], n=[50])
    await viewer.settled()
    said = {answer.msg_id: answer.body for answer in map(decode, viewer.frames)}
    assert set(said) == {60, 61}
    assert said[61] == b""
    assert said[60], "with the rows"


# Notifications --------------------------------------------------------------------------------------------------------


async def test_a_viewer_who_takes_nothing_in_has_one_notification_waiting(node: Node) -> None:
    slow, quick = node.open(), node.open()
    for viewer in (slow, quick):
        await a_view(viewer)
        await viewer.ask(ON_UPDATE, b"", "v", 50)
        viewer.frames.clear()
    slow.blocked = asyncio.get_running_loop().create_future()
    for number in range(10):
        await node.update(id=["a"], n=[number])
        await quick.settled()
    assert len(quick.frames) == 10
    assert len(slow.frames) == 1, "with the socket; one more waits, eight were left out"
    assert node.gateway.counts.conflated == 8
    blocked, slow.blocked = slow.blocked, None
    blocked.set_result(None)
    await slow.settled()
    assert len(slow.frames) == 2


@with_settings(outbox_bytes=1 << 16, stall_seconds=1.0)
async def test_row_deltas_are_never_dropped_and_close_who_cannot_take_them(node: Node) -> None:
    viewer, other = node.open(), node.open()
    for one in (viewer, other):
        await a_view(one)
        await one.ask(ON_UPDATE, ROWS_MODE, "v", 50)
        one.frames.clear()
    viewer.outbox._rows_limit = 20_000
    viewer.blocked = asyncio.get_running_loop().create_future()
    for number in range(60):
        await node.update(id=["a"], n=[number])
        await other.settled()
    assert len(other.frames) == 60
    assert viewer.closed == [(4008, "too slow")]
    assert node.gateway.counts.slow_closes == 1
    viewer.blocked.set_result(None)


@with_settings(stall_seconds=1.0, idle_seconds=1.0)
async def test_stalled_and_idle_viewers_are_closed_and_listeners_are_not(node: Node) -> None:
    stalled, idle, listener = node.open(), node.open(), node.open()
    for viewer in (stalled, listener):
        await a_view(viewer)
        await viewer.ask(ON_UPDATE, b"", "v", 50)
    stalled.blocked = asyncio.get_running_loop().create_future()
    await node.update(id=["a"], n=[5])
    node.gateway.tasks.start(node.gateway.watch(), name="watch")

    async def are_closed() -> bool:
        return stalled.closed == [(4008, "too slow")] and idle.closed == [(4009, "nothing was asked for a long time")]

    await until(are_closed, 10, "both are closed")
    assert listener.closed == []
    stalled.blocked.set_result(None)


@with_settings(stall_seconds=100.0, idle_seconds=30.0, ping_seconds=10.0)
async def test_who_still_takes_an_answer_in_is_neither_idle_nor_silent(node: Node) -> None:
    viewer = node.open()
    await a_view(viewer)
    viewer.blocked = asyncio.get_running_loop().create_future()
    await viewer.ask(COLUMNS, b"", "v")
    now = time.monotonic()
    for after in (25, 50, 75):
        node.gateway._sweep(viewer.session, now + after)
    blocked, viewer.blocked = viewer.blocked, None
    blocked.set_result(None)
    await viewer.settled()
    node.gateway._sweep(viewer.session, now + 90)
    assert viewer.closed == []
    viewer.session.alive_at = now + 106  # it answered a ping
    node.gateway._sweep(viewer.session, now + 106)
    assert viewer.closed == [(4009, "nothing was asked for a long time")]


async def test_removed_rows_are_told(node: Node) -> None:
    viewer = node.open()
    await a_view(viewer)
    await viewer.ask(ON_REMOVE, b"", "v", 70)
    viewer.frames.clear()
    await node.table.apply([(Op.REMOVE, to_ipc(rows(id=["a"])))])
    await node.table.flush()
    await viewer.settled()
    (told,) = map(decode, viewer.frames)
    assert (told.msg_id, told.number) == (70, ON_REMOVE)


# Tables of another shape ----------------------------------------------------------------------------------------------

WIDER = TableSpec.declare("t", {"schema": {"id": "string", "n": "integer", "more": "float"}, "index": "id"})


async def test_views_that_are_still_valid_are_made_again_and_told(node: Node) -> None:
    viewer = node.open()
    await a_view(viewer, "stays", columns=["n"])
    await a_view(viewer, "ends", columns=["g"])
    for msg_id, view_id in ((50, "stays"), (51, "ends")):
        await viewer.ask(ON_UPDATE, b"", view_id, msg_id)
        await viewer.ask(ON_DELETE, b"", view_id, msg_id + 100)
    await viewer.ask(29, b"", "t", 200)
    viewer.frames.clear()
    await node.table.load(WIDER, pa.Table.from_pylist([{"id": "q", "n": 9, "more": 1.5}], WIDER.arrow_schema))
    viewer.session.receive(Envelope(7, "stays", COLUMNS, b"").encode())  # asked before the gateway knows
    viewer.session.receive(Envelope(8, "stays", DIMENSIONS, b"").encode())
    viewer.session.receive(Envelope(9, "t", 8, b"").encode())
    await asyncio.sleep(0.01)
    node.gateway.add_table("t", node.table)
    await viewer.settled()
    said = {(answer.msg_id, answer.number) for answer in map(decode, viewer.frames)}
    assert said == {(50, ON_UPDATE), (151, ON_DELETE), (200, 29), (7, COLUMNS), (8, DIMENSIONS), (9, 8)}
    assert await columns_of(viewer, "stays") == {"n": [9]}
    assert "no view" in await viewer.refused(DIMENSIONS, b"", "ends")
    viewer.frames.clear()
    await node.table.apply([(Op.UPDATE, to_ipc(pa.table({"id": ["q"], "n": pa.array([10], pa.int32())})))])
    await node.table.flush()
    await viewer.settled()
    assert [answer.msg_id for answer in map(decode, viewer.frames)] == [50]
    await viewer.close()
    await node.has_views(0)


# Bounds ---------------------------------------------------------------------------------------------------------------


@with_settings(cache_bytes=3000, cache_max_answer_bytes=1500)
async def test_the_cache_is_bounded(node: Node) -> None:
    viewer = node.open()
    for number in range(8):
        await a_view(viewer, f"v{number}", expressions={"e": str(number)}, columns=["e", "n"])
        await columns_of(viewer, f"v{number}")
        await viewer.ask(SCHEMA, b"", f"v{number}")
        assert node.gateway.budget.used <= 3000
    assert node.gateway.budget.used > 0
    await viewer.close()
    await node.has_views(0)
    node.shared.answers.clear()
    assert node.gateway.budget.used == 0


@with_settings(max_answer_bytes=1 << 16)
async def test_an_answer_that_is_too_large_is_refused(node: Node) -> None:
    await node.update(id=[f"row {number:06}" for number in range(20_000)], n=list(range(20_000)))
    viewer = node.open()
    await a_view(viewer)
    assert "PARALLAX_MAX_ANSWER_BYTES" in await viewer.refused(COLUMNS, b"", "v")
    (answer,) = await viewer.ask(DIMENSIONS, b"", "v")
    assert answer.number == DIMENSIONS

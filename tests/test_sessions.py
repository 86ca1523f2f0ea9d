"""What viewers may ask of a session, and what never reaches the engine: every trap of the engine's protocol is tried here."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import perspective
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from node.gateway import Gateway
from node.settings import NodeSettings
from parallax.replica.engine import Engine, EngineTable, to_ipc
from parallax.replication.record import Op
from parallax.replication.spec import TableSpec
from parallax.wire import SERVER_ERROR, Envelope, decode, varint
from tests.processes import until
from tests.viewers import Viewer

SPEC = TableSpec.declare("t", {"schema": {"id": "string", "n": "integer"}, "index": "id"})
OTHER = TableSpec.declare("other", {"schema": {"k": "integer"}, "limit": 3})
WIDER = TableSpec.declare("t", {"schema": {"id": "string", "n": "integer", "x": "float"}, "index": "id"})


def rows(**columns: list[Any]) -> pa.Table:
    return pa.table({name: pa.array(values, SPEC.arrow_schema.field(name).type) for name, values in columns.items()})


@dataclass
class Node:
    """A gateway over an engine with two tables."""

    engine: Engine
    gateway: Gateway
    table: EngineTable
    other: EngineTable

    def open(self) -> Viewer:
        return Viewer(self.gateway)

    async def engine_views(self) -> int:
        """How many views the engine holds for viewers."""
        await asyncio.sleep(0)
        return len(self.table._views) + len(self.other._views)


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    engine = Engine(frame_seconds=0.001)
    table, other = engine.table("t"), engine.table("other")
    await table.load(SPEC, rows(id=["a", "b"], n=[1, 2]))
    await other.load(OTHER, OTHER.arrow_schema.empty_table())
    gateway = Gateway(NodeSettings(max_views=4, linger_seconds=0))
    gateway.add_table("t", table)
    gateway.add_table("other", other)
    yield Node(engine, gateway, table, other)
    await gateway.close()
    await engine.close()


def text(number: int, value: str) -> bytes:
    """Encode one string field."""
    data = value.encode()
    return varint(number << 3 | 2) + varint(len(data)) + data


async def test_a_client_sees_rows_and_their_changes(node: Node) -> None:
    viewer = node.open()
    client = await viewer.connect()
    assert sorted(await client.get_hosted_table_names()) == ["other", "t"]
    table = await client.open_table("t")
    assert await table.schema() == {"id": "string", "n": "integer"}
    assert await table.size() == 2
    view = await table.view(group_by=["id"], columns=["n"], expressions={"twice": '"n" * 2'})
    assert await view.expression_schema() == {"twice": "float"}
    changed = asyncio.Event()
    await view.on_update(lambda *_: changed.set())
    await node.table.apply([(Op.UPDATE, to_ipc(rows(id=["b", "c"], n=[5, 6])))])
    async with asyncio.timeout(5):
        await changed.wait()
    assert (await view.to_columns())["n"] == [12, 1, 5, 6]
    assert await node.engine_views() == 1
    await view.delete()
    await until(lambda: _is(node, 0), 5, "the view is deleted")
    await viewer.close()


async def test_row_deltas_reach_who_asked_for_them(node: Node) -> None:
    viewer = node.open()
    client = await viewer.connect()
    view = await (await client.open_table("t")).view()
    deltas: asyncio.Queue[bytes] = asyncio.Queue()
    await view.on_update(lambda _port, delta: deltas.put_nowait(delta), mode="row")
    for number in range(3):
        await node.table.apply([(Op.UPDATE, to_ipc(rows(id=[f"new {number}"], n=[number])))])
        await node.table.flush()
    async with asyncio.timeout(5):
        found = [pa.ipc.open_stream(await deltas.get()).read_all().to_pylist() for _ in range(3)]
    assert [[row["n"] for row in part] for part in found] == [[0], [1], [2]]
    await viewer.close()


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (27, "MakeTable"),
        (28, "TableDelete"),
        (31, "TableRemove"),
        (32, "TableReplace"),
        (33, "TableUpdate"),
        (38, "MakeJoinTable"),
    ],
)
async def test_whatever_writes_is_refused(node: Node, number: int, name: str) -> None:
    viewer = node.open()
    assert name in await viewer.refused(number, b"\x08\x00", "t")
    client = await viewer.connect()
    table = await client.open_table("t")
    with pytest.raises(perspective.PerspectiveError):
        await table.update([{"id": "x", "n": 1}])
    with pytest.raises(perspective.PerspectiveError):
        await client.table({"a": "string"}, name="mine")
    assert await table.size() == 2
    await viewer.close()


async def test_frames_that_are_no_requests_are_answered_by_an_error(node: Node) -> None:
    viewer = node.open()
    for frame in (
        b"",
        b"\x00",
        b"\xff" * 20,
        b"\x08",
        b"\x12\xff\xff\xff\xff\x0f",
        b"\x0a\x02hi",
        b"\x08\x07",
        b"\x1a\x00\x22\x00",
    ):
        before = len(viewer.frames)
        await viewer.receive(frame)
        (answer,) = [decode(sent) for sent in viewer.frames[before:]]
        assert answer.number == SERVER_ERROR
    for number in (2, 42, 49, 50, 51, 10_000):
        assert "request" in await viewer.refused(number)
    await viewer.close()


async def test_nobody_reaches_anothers_view(node: Node) -> None:
    mine, theirs = node.open(), node.open()
    (answer,) = await theirs.ask(6, text(1, "v"), "t")
    assert answer.number == 6
    (engine_id,) = node.table._views
    for view_id in ("v", engine_id, ""):
        for number in (10, 11, 12, 13, 14, 15, 16, 18, 19, 20, 21, 22, 23, 24, 25, 26, 34, 35, 36, 39, 40):
            if number == 35:
                continue  # ends one's own subscription, which names no view
            assert "no view" in await mine.refused(number, b"", view_id)
    (answer,) = await theirs.ask(12, b"", "v")
    assert answer.number == 12
    await mine.close()
    await theirs.close()


async def test_ids_are_the_sessions_own(node: Node) -> None:
    first, second = node.open(), node.open()
    for viewer in (first, second):
        (answer,) = await viewer.ask(6, text(1, "same"), "t", msg_id=3)
        assert (answer.msg_id, answer.number, answer.body) == (3, 6, text(1, "same"))
        assert "already" in await viewer.refused(6, text(1, "same"), "t")
    assert await node.engine_views() == 1, "they look at the same"
    await first.close()
    (answer,) = await second.ask(12, b"", "same")
    assert answer.number == 12
    await second.close()
    await until(lambda: _is(node, 0), 5, "no view is left")


async def _is(node: Node, count: int) -> bool:
    assert await node.engine_views() == count
    return True


async def test_views_and_subscriptions_are_bounded(node: Node) -> None:
    viewer = node.open()
    for number in range(4):
        assert (await viewer.ask(6, text(1, f"v{number}"), "t"))[0].number == 6
    assert "PARALLAX_MAX_VIEWS" in await viewer.refused(6, text(1, "v5"), "t")
    for number in range(4):
        assert await viewer.ask(21, b"", "v0", msg_id=100 + number) == []
    assert "too many" in await viewer.refused(21, b"", "v0")
    await viewer.close()


async def test_a_port_is_answered_without_making_one(node: Node) -> None:
    viewer = node.open()
    ports = {(await viewer.ask(5, b"", "t"))[0].body for _ in range(50)}
    assert len(ports) == 1
    client = await viewer.connect()
    view = await (await client.open_table("t")).view()
    heard: asyncio.Queue[int] = asyncio.Queue()
    await view.on_update(heard.put_nowait)
    await node.table.apply([(Op.UPDATE, to_ipc(rows(id=["z"], n=[1])))])
    async with asyncio.timeout(5):
        assert await heard.get() == 0, "a notification of an edit by no viewer"
    await viewer.close()


async def test_a_table_that_goes_takes_its_views_along_and_says_so(node: Node) -> None:
    viewer = node.open()
    await viewer.ask(4, b"\x08\x01", msg_id=50)
    await viewer.ask(6, text(1, "v"), "t")
    await viewer.ask(6, text(1, "w"), "other")
    assert await viewer.ask(29, b"", "t", msg_id=51) == []
    assert await viewer.ask(34, b"", "v", msg_id=52) == []
    viewer.frames.clear()
    node.gateway.remove_table("t")
    await viewer.settled()
    said = {(answer.msg_id, answer.number) for answer in map(decode, viewer.frames)}
    assert said == {(50, 0), (51, 29), (52, 34)}
    assert "no view" in await viewer.refused(12, b"", "v")
    assert "no table" in await viewer.refused(7, b"", "t")
    (answer,) = await viewer.ask(12, b"", "w")
    assert answer.number == 12
    await node.table.load(WIDER, WIDER.arrow_schema.empty_table())
    node.gateway.add_table("t", node.table)
    await viewer.settled()
    assert (await viewer.ask(6, text(1, "v"), "t"))[0].number == 6
    await viewer.close()


async def test_a_reload_of_the_same_shape_keeps_views(node: Node) -> None:
    viewer = node.open()
    client = await viewer.connect()
    view = await (await client.open_table("t")).view(columns=["n"])
    await node.table.load(SPEC, rows(id=["q"], n=[9]))
    node.gateway.add_table("t", node.table)
    assert (await view.to_columns()) == {"n": [9]}
    await viewer.close()


async def test_what_an_old_client_asks_of_expressions_is_translated(node: Node) -> None:
    viewer = node.open()
    entry = text(1, "e") + text(2, '"n" + 1')
    body = varint(1 << 3 | 2) + varint(len(entry)) + entry
    (answer,) = await viewer.ask(9, body, "t")
    assert answer.number == 9
    await viewer.close()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=60),
            st.builds(
                lambda number, body, entity: Envelope(1, entity, number, body).encode(),
                st.integers(1, 60),
                st.one_of(st.binary(max_size=40), st.sampled_from([b"", text(1, "v"), b"\x08\x01", b"\x0a\x00"])),
                st.sampled_from(["t", "v", "other", "", "nothing"]),
            ),
        ),
        max_size=12,
    )
)
async def test_no_sequence_of_frames_raises_or_leaves_anything(frames: list[bytes]) -> None:
    engine = Engine(frame_seconds=0.001)
    table = engine.table("t")
    await table.load(SPEC, rows(id=["a", "b"], n=[1, 2]))
    gateway = Gateway(NodeSettings(max_views=4, linger_seconds=0))
    gateway.add_table("t", table)
    viewer = Viewer(gateway)
    for frame in frames:
        await viewer.receive(frame)
    await viewer.close()

    async def is_clean() -> bool:
        return not table._views

    await until(is_clean, 5, "no view is left")
    healthy = Viewer(gateway)
    (answer,) = await healthy.ask(8, b"", "t")
    assert answer.number == 8
    await healthy.close()
    await gateway.close()
    await engine.close()

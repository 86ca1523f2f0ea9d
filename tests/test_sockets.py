"""A node at its sockets: large answers, slow, silent and idle viewers, a full house, and what /metrics says of it all.

Two nodes of one fleet: `node-1` is patient with all but those who take nothing in, `node-2` with nobody.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pyarrow as pa
import pytest
import pytest_asyncio

from node.gateway.outbox import LOT_BYTES, LOW_WATER_BYTES
from parallax.replica.engine import to_ipc
from parallax.replication.spec import TableSpec
from parallax.wire import SERVER_ERROR, head
from tests.cluster import Cluster
from tests.processes import PATIENCE, until
from tests.sockets import (
    COLUMNS,
    MAKE,
    ON_UPDATE,
    TICK,
    SocketViewer,
    Ticking,
    measured,
    resident_bytes,
    said_by,
    seconds_until_dropped,
    socket_viewer,
)
from tests.test_gateway import make

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="module")]

BIG = TableSpec.declare("big", {"schema": {"id": "integer"}, "index": "id"})
TICKS = TableSpec.declare("ticks", {"schema": {"k": "string", "n": "integer"}, "index": "k"})
TABLE_SIZE, COLLAPSE, CSV = 8, 18, 25
EXPORT = 1  # the message id of an answer of 50 MB

STALL_SECONDS = 2 * PATIENCE
PATIENT = {
    "STALL_SECONDS": str(STALL_SECONDS),
    "PING_SECONDS": str(STALL_SECONDS),
    "IDLE_SECONDS": str(3 * STALL_SECONDS),
    "LINGER_SECONDS": "0",
    "MAX_ANSWER_BYTES": str(60 << 20),
    "OUTBOX_BYTES": str(1 << 20),
    "MAX_SESSIONS": "4",
    "MAX_EXPRESSION_LENGTH": "1000000",
}
SECONDS = 1 * PATIENCE
HASTY = {
    "HANDSHAKE_SECONDS": str(SECONDS),
    "PING_SECONDS": str(SECONDS),
    "IDLE_SECONDS": str(4 * SECONDS),
    "MAX_REQUESTS_PER_SECOND": "300",
}
ROWS = 40_000
TEXT = "".join(chr(ord("a") + number * number % 26) for number in range(1250))
EXPORTED = ('{"id":[' + ",".join(map(str, range(ROWS))) + '],"e":[' + ",".join([f'"{TEXT}"'] * ROWS) + "]}").encode()
"""About 50 MB."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("sockets"), [BIG, TICKS], coordinators=1, nodes=1, settings=PATIENT)
    try:
        await cluster.start()
        cluster.settings = HASTY
        await cluster.add_node()
        rows = pa.table({"id": pa.array(range(ROWS), pa.int32())})
        await cluster.publish("big", op="update", format="arrow", data=to_ipc(rows))
        await cluster.at_rest()
        yield cluster
    finally:
        await cluster.close()
        print(cluster.logs())


async def eventually(fleet: Cluster, name: str, value: float, node: str = "node-1") -> None:
    """Wait until a metric has a value."""

    async def has() -> bool:
        found = (await measured(fleet, node))(name)
        assert found == value, f"{name} is {found}, not {value}"
        return True

    await until(has, 20, f"{name} is {value}")


async def large_views(viewer: SocketViewer) -> None:
    """Make the views `big` and `big too`, which are read as `EXPORTED`."""
    for name in ("big", "big too"):
        answer = await viewer.ask(MAKE, make(name, expressions={"e": f"'{TEXT}'"}, columns=["id", "e"]), "big")
        assert answer.number == MAKE, answer.body


# Large answers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [LOT_BYTES - 1, LOT_BYTES, LOT_BYTES + 1, 2 * LOT_BYTES, 2 * LOT_BYTES + 1])
async def test_answers_around_the_size_of_a_fragment_are_exact(fleet: Cluster, size: int) -> None:
    async with socket_viewer(fleet.ports["node-1"]) as viewer:
        around = len(b"\x0a\x00\x00\x00") + len(b'{"e":[""]}')  # field, length in three bytes; the JSON
        text = (TEXT * (size // len(TEXT) + 1))[: size - around]
        await viewer.ask(MAKE, make("v", expressions={"e": f"'{text}'"}, columns=["e"]), "ticks")
        await fleet.publish("ticks", op="update", data='[{"k": "a", "n": 1}]')
        await fleet.at_rest()
        answer = await viewer.ask(COLUMNS, b"", "v")
        assert len(answer.body) == size
        assert said_by(answer.body) == f'{{"e":["{text}"]}}'.encode()
        first = len(head(7, "v", COLUMNS, size))
        expected = [first + size] if size <= LOT_BYTES else [first + LOT_BYTES, *_lots(size - LOT_BYTES)]
        assert viewer.fragments == expected


def _lots(size: int) -> list[int]:
    return [LOT_BYTES] * (size // LOT_BYTES) + ([size % LOT_BYTES] if size % LOT_BYTES else [])


async def test_a_slow_reader_gets_large_answers_whole_and_nobody_waits_for_him(fleet: Cluster) -> None:
    port = fleet.ports["node-1"]
    async with socket_viewer(port) as quick, socket_viewer(port, receive_buffer=1 << 16) as slow:
        others = Ticking(fleet, quick, "ticks")
        await others.start()
        await large_views(slow)
        await slow.ask(COLUMNS, b"", "big")
        closes = (await measured(fleet))("slow_closes_total")
        memory, waited = [resident_bytes(fleet)], []
        await busy_with_an_export(fleet, slow)  # pongs are not read until much of it has gone
        slow.reads.set()
        slow.pause, slow.read_bytes = 0.015, 1 << 16  # 4 MB/s at most
        started = time.monotonic()
        while time.monotonic() - started < 4 * STALL_SECONDS:
            await others.tick()
            memory.append(resident_bytes(fleet))
            waited.append((await measured(fleet))("outbox_bytes"))
        assert not slow.messages, "all that happened while it was reading"
        assert others.ticks > 10
        assert max(waited) <= len(EXPORTED) + 2 * LOW_WATER_BYTES, "one at a time"
        assert max(memory) - memory[0] < 5 * len(EXPORTED)
        slow.pause, slow.read_bytes = 0.0, 1 << 20
        assert [said_by((await slow.take(EXPORT + n)).body) == EXPORTED for n in (0, 1)] == [True, True]
        assert (await slow.take()).number == TABLE_SIZE
        assert slow.pings, "it was asked whether it is there"
        assert (await measured(fleet))("slow_closes_total") == closes


# Those who do not read, or leave --------------------------------------------------------------------------------------


async def busy_with_an_export(fleet: Cluster, viewer: SocketViewer) -> None:
    """Ask for two large answers, and for something more when one is under way, so that the node does not read what comes next."""
    viewer.reads.clear()
    await viewer.send(COLUMNS, b"", "big", EXPORT)
    await viewer.send(COLUMNS, b"", "big too", EXPORT + 1)

    async def is_on_its_way() -> bool:
        return (await measured(fleet))("outbox_bytes") > len(EXPORTED) / 2

    await until(is_on_its_way, 20, "the export is on its way")
    await viewer.send(TABLE_SIZE, b"", "big")


async def test_who_reads_nothing_is_closed_and_what_waited_for_him_is_freed(fleet: Cluster) -> None:
    port = fleet.ports["node-1"]
    async with socket_viewer(port) as quick, socket_viewer(port) as stuck:
        others = Ticking(fleet, quick, "ticks")
        await others.start()
        await large_views(stuck)
        await stuck.ask(COLUMNS, b"", "big")
        memory = resident_bytes(fleet)
        closes = (await measured(fleet))("slow_closes_total")
        started = time.monotonic()
        await busy_with_an_export(fleet, stuck)
        while (await measured(fleet))("slow_closes_total") == closes:
            await others.tick()
            assert time.monotonic() - started < 30 * PATIENCE
        assert time.monotonic() - started > STALL_SECONDS
        stuck.reads.set()
        await stuck.ended()
        assert stuck.close_code == 4008
        assert [(await measured(fleet))(name) for name in ("sessions", "outbox_bytes")] == [1, 0]

        async def is_freed() -> bool:
            return resident_bytes(fleet) < memory + len(EXPORTED) / 2

        await until(is_freed, 20, "the memory is free again")
        await others.tick()


async def test_who_leaves_in_the_middle_of_a_large_answer_is_forgotten(fleet: Cluster) -> None:
    await eventually(fleet, "sessions", 0)
    before = await measured(fleet)
    async with socket_viewer(fleet.ports["node-1"]) as viewer:
        await large_views(viewer)
        await busy_with_an_export(fleet, viewer)
    await eventually(fleet, "sessions", 0)
    after = await measured(fleet)
    assert after("slow_closes_total") == before("slow_closes_total"), "he was not slow, he left"
    assert (after("views"), after("outbox_bytes")) == (0, 0)


async def test_a_full_node_says_so_and_takes_viewers_again_once_one_has_left(fleet: Cluster) -> None:
    await eventually(fleet, "sessions", 0)
    refusals = (await measured(fleet))("full_refusals_total")
    port, most = fleet.ports["node-1"], int(PATIENT["MAX_SESSIONS"])
    async with AsyncExitStack() as stack:
        come = await asyncio.gather(*(stack.enter_async_context(socket_viewer(port)) for _ in range(most + 5)))
        responses = {viewer: viewer.response for viewer in come if viewer.response is not None}
        taken = [viewer for viewer, response in responses.items() if response.status_code == 101]
        refused = [response for response in responses.values() if response.status_code == 503]
        assert (len(taken), len(refused)) == (most, 5)
        for response in refused:
            assert response.body == b"this node has as many viewers as it may have\n"
            assert response.headers["Retry-After"] == "1"
        found = await measured(fleet)
        assert (found("sessions"), found("full_refusals_total")) == (most, refusals + 5)
        assert (await taken[0].ask(TABLE_SIZE, b"", "big")).number == TABLE_SIZE
        taken[1].close()
        await eventually(fleet, "sessions", most - 1)
        async with socket_viewer(port) as late:
            assert (await late.ask(TABLE_SIZE, b"", "big")).number == TABLE_SIZE


# Time-outs ------------------------------------------------------------------------------------------------------------


async def test_who_does_not_say_what_he_wants_is_dropped(fleet: Cluster) -> None:
    port = fleet.ports["node-2"]
    dawdlers = {
        "says nothing": (b"", b""),
        "dribbles the first line": (b"GET /web", b"s"),
        "dribbles headers": (b"GET /websocket HTTP/1.1\r\nHost: x\r\n", b"X-More: 1\r\n"),
        "dribbles a body": (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n", b"x"),
        "dribbles chunks": (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        "stays after an answer": (b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n", b""),
    }
    async with socket_viewer(port) as viewer, asyncio.TaskGroup() as group:
        dropped = {
            what: group.create_task(seconds_until_dropped(port, *words, SECONDS / 10)) for what, words in dawdlers.items()
        }
        served = 0
        while not all(task.done() for task in dropped.values()):
            assert (await viewer.ask(TABLE_SIZE, b"", "big")).number == TABLE_SIZE
            served += 1
    assert served > len(dawdlers)
    assert {what for what, task in dropped.items() if task.result()[0] < 0.9 * SECONDS} == set()
    assert dropped["stays after an answer"].result()[1].startswith(b"HTTP/1.1 404")


async def test_who_answers_no_ping_or_asks_nothing_is_closed_and_a_listener_stays(fleet: Cluster) -> None:
    port = fleet.ports["node-2"]
    before = await measured(fleet, "node-2")
    async with socket_viewer(port) as silent, socket_viewer(port) as idle, socket_viewer(port) as listener:
        silent.answers_pings = False
        for viewer in (silent, listener):
            await Ticking(fleet, viewer, "ticks").start()
        await asyncio.gather(silent.ended(), idle.ended())
        assert (silent.close_code, idle.close_code) == (4010, 4009)
        assert silent.pings
        assert idle.pings > 1
        assert not listener.messages
        await fleet.publish("ticks", data='[{"k": "a", "n": 1}]')
        await listener.take(TICK)
        after = await measured(fleet, "node-2")
        assert after("sessions") == 1
        for name in ("silent_closes_total", "idle_closes_total"):
            assert after(name) == before(name) + 1


async def test_a_node_that_stood_still_drops_nobody(fleet: Cluster) -> None:
    async with socket_viewer(fleet.ports["node-2"]) as viewer:
        await Ticking(fleet, viewer, "ticks").start()
        fleet["node-2"].pause()
        await asyncio.sleep(5 * SECONDS)
        fleet["node-2"].resume()
        pings = viewer.pings
        while viewer.pings < pings + 2 and not viewer.has_ended:  # noqa: ASYNC110 - by then all that was overdue is done
            await asyncio.sleep(0.05)
        await fleet.publish("ticks", data='[{"k": "a", "n": 1}]')
        await viewer.take(TICK)


# What is measured -----------------------------------------------------------------------------------------------------


async def test_every_metric_moves_when_it_should(fleet: Cluster) -> None:
    port = fleet.ports["node-1"]
    await eventually(fleet, "sessions", 0)
    first = await measured(fleet)
    async with socket_viewer(port) as one, socket_viewer(port) as other:
        others = Ticking(fleet, other, "ticks")
        await others.start()
        await one.ask(MAKE, make("mine", group_by=["k"]), "ticks")
        await one.send(ON_UPDATE, b"", "mine", TICK)
        for viewer, view in ((one, "mine"), (other, "ticks")):
            await viewer.ask(CSV, b"", view)
        shared = await measured(fleet)
        assert (shared("sessions"), shared("views"), shared("subscriptions")) == (2, 2, 2)
        assert shared("engine_views", table="ticks", kind="shared") == 1
        assert shared("viewers_per_view_count", table="ticks") == 1
        assert shared("viewers_per_view_sum", table="ticks") == 2
        assert shared("viewers_per_view_bucket", table="ticks", le="1.0") == 0
        assert shared("viewers_per_view_bucket", table="ticks", le="2.0") == 1
        assert (
            shared("request_seconds_count", request="ViewToCsv") == first("request_seconds_count", request="ViewToCsv") + 2
        )
        assert shared("answers_total", **{"from": "shared"}) > first("answers_total", **{"from": "shared"})
        assert shared("answers_total", **{"from": "engine"}) > first("answers_total", **{"from": "engine"})
        assert shared("cache_bytes") > 0
        assert (await other.ask(999)).number == SERVER_ERROR

        await one.ask(COLLAPSE, b"\x08\x00", "mine")
        await large_views(one)
        await busy_with_an_export(fleet, one)
        while (await measured(fleet))("notifications_conflated_total") == first("notifications_conflated_total"):
            await others.tick()
        now = await measured(fleet)
        assert now("engine_views", table="ticks", kind="private") == 1
        assert now("notifications_total") >= first("notifications_total") + others.ticks
        for name in ("refused_requests_total", "event_loop_busy_seconds_total", "engine_busy_seconds_total"):
            assert now(name) > first(name)
        assert now("slow_closes_total") == first("slow_closes_total")
        await eventually(fleet, "slow_closes_total", first("slow_closes_total") + 1)
    await eventually(fleet, "sessions", 0)
    last = await measured(fleet)
    assert (last("views"), last("subscriptions"), last("outbox_bytes")) == (0, 0, 0)
    assert last("cache_bytes") < now("cache_bytes"), "answers about views went with them"


@pytest.mark.parametrize("path", ["/metrics", "/status", "/healthz", "/readyz"])
async def test_what_the_internal_port_says_is_not_on_the_public_one(fleet: Cluster, path: str) -> None:
    assert (await fleet.fetch(fleet.url("node-1", path, internal=True)))[0] == 200
    assert (await fleet.fetch(fleet.url("node-1", path)))[0] == 404


async def test_who_asks_too_fast_has_to_wait_and_others_have_not(fleet: Cluster) -> None:
    port = fleet.ports["node-2"]
    async with socket_viewer(port) as hasty, socket_viewer(port) as other:
        before = (await measured(fleet, "node-2"))("throttled_requests_total")
        started = time.monotonic()
        for number in range(900):
            await hasty.send(TABLE_SIZE, b"", "big", msg_id=1000 + number)
        asked = 0
        while not hasty.messages or hasty.messages[-1].msg_id != 1899:
            assert (await other.ask(TABLE_SIZE, b"", "big")).number == TABLE_SIZE
            asked += 1
            await asyncio.sleep(0.05)
        assert time.monotonic() - started >= 1.9  # 300 at once, and 300 in each second
        assert asked > 5
        assert [message.msg_id for message in hasty.messages] == [*range(1000, 1900)]
        assert (await measured(fleet, "node-2"))("throttled_requests_total") > before

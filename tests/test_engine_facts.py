"""The facts about the engine that the code leans on, so that an upgrade tells which of them moved."""

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import perspective
import pyarrow as pa
import pytest
from google.protobuf import text_format

from node.gateway import Gateway, messages, safety
from node.settings import NodeSettings
from parallax.replica.engine import Engine, to_ipc
from parallax.replication.record import Op
from parallax.wire import SERVER_ERROR, Envelope, Refused, decode, read_msg_id
from tests.engine_traps import SPEC, TRAPS, Trap, frames, rows
from tests.processes import PATIENCE, ROOT
from tests.viewers import Viewer

HANG_SECONDS = 4 * PATIENCE


@pytest.mark.parametrize("name", TRAPS)
def test_the_bare_engine_does_not_survive(name: str) -> None:
    """If one begins to fail, its rule in `node.gateway.safety` may go."""
    program = [sys.executable, "-m", "tests.engine_traps", name]
    if TRAPS[name].hangs:
        with pytest.raises(subprocess.TimeoutExpired):
            subprocess.run(program, cwd=ROOT, capture_output=True, timeout=HANG_SECONDS)
    else:
        done = subprocess.run(program, cwd=ROOT, capture_output=True, timeout=60 * PATIENCE)
        assert done.returncode < 0, done.stderr.decode()


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    engine = Engine(frame_seconds=0.001)
    yield engine
    await engine.close()


@pytest.mark.parametrize("trap", TRAPS.values(), ids=TRAPS)
async def test_the_gateway_keeps_it_away(engine: Engine, trap: Trap) -> None:
    table = engine.table("t")
    await table.load(SPEC, SPEC.arrow_schema.empty_table())
    gateway = Gateway(NodeSettings())
    gateway.add_table("t", table)
    viewer = Viewer(gateway)
    async with asyncio.timeout(30 * PATIENCE):
        for frame in frames(trap):
            if frame is None:
                await table.apply([(Op.UPDATE, to_ipc(rows()))])
                await table.flush()
            else:
                await viewer.receive(frame)
        await table.apply([(Op.UPDATE, to_ipc(rows()))])
        await table.flush()
    answers = [answer for answer in map(decode, viewer.frames) if answer.number != 21]
    refused = [answer.msg_id for answer in answers if answer.number == SERVER_ERROR]
    assert bool(refused) == trap.is_refused
    (answer,) = await viewer.ask(8, b"", "t", 99)
    assert (answer.msg_id, answer.number) == (99, 8)
    await viewer.close()
    await gateway.close()


@pytest.mark.parametrize(
    "config", ["filter_op: 2", "group_rollup_mode: -1", "split_rollup_mode: 2", 'sort { column: "a" op: 9 }']
)
def test_values_that_no_version_names_are_refused(config: str) -> None:
    with pytest.raises(Refused, match="not known"):
        safety.check_config(text_format.Parse(config, messages.new("Config")), SPEC, {})


def test_only_aggregates_that_work_are_offered() -> None:
    offered = {kind: {option.name for option in choice.aggregates} for kind, choice in safety.offered().aggregates.items()}
    assert {"sum", "avg", "count", "weighted mean"} <= offered[safety.FLOAT]
    assert not [kind for kind, names in offered.items() if "high minus low" in names]
    assert "avg" not in offered[safety.DATE] | offered[safety.DATETIME]


class Bare:
    """An engine's session, spoken to in frames."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.server = perspective.Server(on_poll_request=lambda *_: None)
        self.session = self.server.new_session(self.frames.append)
        self.client = self.server.new_local_client()
        self.table = self.client.table(to_ipc(keyed(id=[])), name="t", index="id")

    def ask(self, number: int, entity: str = "t", body: bytes = b"", msg_id: int = 1) -> list[Envelope]:
        self.frames.clear()
        self.session.handle_request(Envelope(msg_id, entity, number, body).encode())
        return [decode(frame) for frame in self.frames]

    def make_view(self, view_id: str = "v") -> None:
        message = messages.new("MakeView")
        message.view_id = view_id
        (answer,) = self.ask(6, body=messages.encode(message))
        assert answer.number == 6

    def poll(self) -> list[Envelope]:
        self.frames.clear()
        self.server.poll()
        return [decode(frame) for frame in self.frames]

    def update(self, *keys: str) -> None:
        self.table.update(to_ipc(keyed(id=list(keys))))


def keyed(**columns: list[Any]) -> pa.Table:
    kinds = {"id": pa.string(), "a": pa.int64(), "c": pa.string()}
    count = len(columns["id"])
    values: dict[str, list[Any]] = {"a": [1] * count, "c": ["x"] * count, **columns}
    return pa.table({name: pa.array(values[name], kind) for name, kind in kinds.items()})


@pytest.fixture
def bare() -> Iterator[Bare]:
    bare = Bare()
    yield bare
    bare.session.close()
    with contextlib.suppress(perspective.PerspectiveError):  # views are left
        bare.table.delete()


def test_the_message_id_comes_first_in_every_frame(bare: Bare) -> None:
    bare.ask(7, msg_id=2**32 - 5)
    assert [read_msg_id(frame) for frame in bare.frames] == [2**32 - 5]
    bare.make_view()
    bare.ask(21, "v", msg_id=300)
    bare.update("k")
    bare.poll()
    assert [read_msg_id(frame) for frame in bare.frames] == [300]


def test_updates_are_one_notification_for_each_poll_and_none_without(bare: Bare) -> None:
    bare.make_view()
    assert bare.ask(21, "v", msg_id=5) == [], "subscribing is not acknowledged"
    bare.update("k")
    bare.update("l")
    assert [(notice.msg_id, notice.number, notice.body) for notice in bare.poll()] == [(5, 21, b"")]
    assert bare.poll() == []


def test_rows_go_to_all_subscribers_of_a_view_once_one_wants_them(bare: Bare) -> None:
    bare.make_view()
    bare.ask(21, "v", msg_id=5)
    bare.ask(21, "v", b"\x08\x00", msg_id=6)
    bare.update("k")
    assert [bool(notice.body) for notice in bare.poll()] == [True, True]


def test_a_removal_has_a_delta_without_rows(bare: Bare) -> None:
    bare.update("k")
    bare.poll()
    bare.make_view()
    bare.ask(21, "v", b"\x08\x00", msg_id=6)
    bare.table.remove(to_ipc(pa.table({"id": ["k"]})))
    (notice,) = bare.poll()
    assert notice.body, "a subscriber for rows crashes on an update without a delta"


ANOTHERS_VIEW = """
from tests.test_engine_facts import Bare, Envelope, decode
bare = Bare()
bare.make_view()
other = []
session = bare.server.new_session(other.append)
for number in (12, 11):
    session.handle_request(Envelope(1, "v", number, b"").encode())
print([decode(frame).number for frame in other], flush=True)
bare.session.close()
"""


def test_a_view_that_another_session_deleted_ends_the_process_with_its_owner() -> None:
    """Why all views are made through one session of the engine, under ids of our own."""
    done = subprocess.run([sys.executable, "-c", ANOTHERS_VIEW], cwd=ROOT, capture_output=True, timeout=60 * PATIENCE)
    assert done.stdout == b"[12, 11]\n"
    assert done.returncode < 0, done.stderr.decode()


def test_a_view_that_is_deleted_twice_is_only_not_found(bare: Bare) -> None:
    bare.make_view()
    assert [answer.number for answer in bare.ask(11, "v")] == [11]
    (answer,) = bare.ask(11, "v")
    assert (answer.number, b"View not found" in answer.body) == (SERVER_ERROR, True)


def test_strings_come_out_as_dictionaries_and_keys_in_order(bare: Bare) -> None:
    bare.update("b", "a")
    bare.update("c", "")
    bare.server.poll()
    view = bare.table.view()
    read = pa.ipc.open_stream(view.to_arrow()).read_all()
    view.delete()
    assert pa.types.is_dictionary(read.schema.field("id").type)
    assert read.column("id").cast(pa.string()).to_pylist() == ["", "a", "b", "c"]


def test_the_request_for_a_poll_comes_after_every_request() -> None:
    asked: list[int] = []
    server = perspective.Server(on_poll_request=lambda *_: asked.append(1))
    session = server.new_session(lambda _: None)
    client = server.new_local_client()
    table = client.table(to_ipc(keyed(id=["k"])), name="t", index="id")
    before = len(asked)
    for number in (7, 8):
        session.handle_request(Envelope(1, "t", number, b"").encode())
    assert len(asked) == before + 2, "so it says nothing about whether there is something to poll"
    session.close()
    table.delete()


def pivots_agree(*, poll_between: bool) -> bool:
    bare = Bare()
    bare.table.update(to_ipc(keyed(id=["x"], a=[70], c=["one"])))
    bare.server.poll()
    live = bare.table.view(group_by=["c"], columns=["a"])
    bare.table.remove(to_ipc(pa.table({"id": ["absent"]})))
    if poll_between:
        bare.server.poll()
    bare.table.update(to_ipc(keyed(id=["x"], a=[95], c=["two"])))
    bare.server.poll()
    fresh = bare.table.view(group_by=["c"], columns=["a"])
    seen = [sorted(map(json.dumps, json.loads(view.to_json_string()))) for view in (live, fresh)]
    live.delete()
    fresh.delete()
    bare.session.close()
    bare.table.delete()
    return seen[0] == seen[1]


def test_removing_an_absent_key_beside_an_update_in_one_poll_spoils_pivots() -> None:
    """Why `EngineTable` polls between updates and removes: the table is right, but the live pivot is not."""
    assert not pivots_agree(poll_between=False)
    assert pivots_agree(poll_between=True)


NATIVE_REPLACE = """
import pyarrow as pa
from tests.test_engine_facts import Bare, keyed, to_ipc
bare = Bare()
view = bare.table.view(filter=[["a", ">", 2]])
for step, rows in (
    ("update", {"id": ["y"], "a": [4]}), ("replace", {"id": ["x"], "a": [8]}), ("update", {"id": ["y", "x"], "a": [1, None]})
):
    getattr(bare.table, step)(to_ipc(keyed(**rows)))
    bare.server.poll()
bare.table.remove(to_ipc(pa.table({"id": ["y"]})))
bare.server.poll()
"""


def test_the_engines_own_replace_of_a_keyed_table_ends_the_process_later() -> None:
    """Why `EngineTable` replaces by difference."""
    done = subprocess.run([sys.executable, "-c", NATIVE_REPLACE], cwd=ROOT, capture_output=True, timeout=60 * PATIENCE)
    assert done.returncode < 0, done.stderr.decode()


FILL_AN_EMPTY_TABLE = """
import perspective
from tests.test_engine_facts import Bare, keyed, to_ipc
perspective.set_num_cpus(2)
bare = Bare()
views = [bare.table.view(group_by=["c"], columns=["a"]) for _ in range(20)]
bare.update("k")
bare.server.poll()
"""


def hangs(program: str) -> bool:
    try:
        subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, timeout=HANG_SECONDS)
    except subprocess.TimeoutExpired:
        return True
    return False


def test_a_small_pool_never_ends_a_poll_that_fills_an_empty_table() -> None:
    """Why `Engine` asks for more threads than there can be views. Nearly each time: its threads have to meet."""
    assert any(hangs(FILL_AN_EMPTY_TABLE) for _ in range(5))


FILTERS_OF_STRINGS = """
import perspective
import pyarrow as pa
from tests.test_engine_facts import Bare, to_ipc
perspective.set_num_cpus(64)
bare = Bare()
table = bare.client.table(to_ipc(pa.table({"c": pa.array([], pa.string()), "s": pa.array([], pa.string())})), name="words")
config = {"group_by": ["s"], "split_by": ["s"], "columns": ["c"]}
views = [table.view(filter=[["c", "==", f"word {number}"]], **config) for number in range(16)]
for turn in range(400):
    table.update(to_ipc(pa.table({"c": [f"other {turn} {number}" for number in range(40)], "s": ["p", "q"] * 20})))
    bare.server.poll()
    table.clear()
    bare.server.poll()
"""


def test_filters_of_strings_end_the_process_when_an_empty_table_fills() -> None:
    """Why `safety.for_engine` says "in" for "==": two threads add words to one list. Sometimes that never ends instead.

    They have to come at the same moment: where processors are busy, it may take some tries.
    """
    for _ in range(5):
        try:
            done = subprocess.run(
                [sys.executable, "-c", FILTERS_OF_STRINGS], cwd=ROOT, capture_output=True, timeout=HANG_SECONDS
            )
        except subprocess.TimeoutExpired:
            return
        if done.returncode < 0:
            return
    raise AssertionError(f"the engine survived it five times: {done.stderr.decode()}")

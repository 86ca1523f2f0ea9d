"""Every kind of request, across sessions, tables and claims: what is not a viewer's own he cannot see, learn of or change.

The requests come from the tables of `node/gateway/requests.py`: a kind that is added there has to be added to tests/claims.py.
"""

import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pytest

from node.auth import EVERYTHING, Access, patterns
from node.gateway import Gateway, edits, requests
from node.settings import NodeSettings
from parallax.replica.engine import Engine, EngineTable, to_ipc
from parallax.replication.record import Op
from parallax.replication.spec import TableSpec
from parallax.wire import SERVER_ERROR
from tests import claims
from tests.claims import DATA, KINDS, UNKNOWN, Told, bodies, comparable, declared, edit, heard, told
from tests.test_gateway import make
from tests.viewers import Viewer

HOSTED, MAKE, MAKE_PORT, ON_UPDATE, ON_TABLE_DELETE, ON_VIEW_DELETE, ON_REMOVE = 4, 6, 5, 21, 29, 34, 39
HIDDEN, ABSENT = "secret", "absent"
KEPT = "kept close"
LIMITED = Access(patterns(["flights", "edited", ABSENT, "late"]), patterns(["edited"]))
"""May know of everything but the hidden table; of that, not even that it is there."""
EVERY = [*KINDS, *UNKNOWN]


def named(number: int) -> str:
    return f"{number}-{requests.NAMES.get(number, 'unknown')}"


@dataclass
class House:
    """A gateway with tables: one to read, one to edit, one that is hidden from some."""

    engine: Engine
    gateway: Gateway
    edited: list[tuple[str, Op, str]] = field(default_factory=list)
    tables: dict[str, EngineTable] = field(default_factory=dict)

    async def host(self, spec: TableSpec, **columns: list[Any]) -> None:
        table = self.tables[spec.name] = self.engine.table(spec.name)
        await table.load(spec, rows(spec, **columns))
        self.gateway.add_table(spec.name, table)

    async def update(self, name: str, **columns: list[Any]) -> None:
        table = self.tables[name]
        assert table.spec is not None
        await table.apply([(Op.UPDATE, to_ipc(rows(table.spec, **columns)))])
        await table.flush()

    async def exported(self) -> dict[str, Any]:
        return {name: (await table.export()).to_pydict() for name, table in self.tables.items()}

    def open(self, access: Access = EVERYTHING) -> Viewer:
        return Viewer(self.gateway, access)


def rows(spec: TableSpec, **columns: list[Any]) -> pa.Table:
    return pa.table({name: pa.array(values, spec.arrow_schema.field(name).type) for name, values in columns.items()})


@pytest.fixture
async def house() -> AsyncIterator[House]:
    engine = Engine(frame_seconds=0.001)
    gateway = Gateway(NodeSettings(linger_seconds=0))
    made = House(engine, gateway)

    async def publish(table: str, op: Op, format: str, data: bytes) -> None:
        made.edited.append((table, op, format))

    gateway.publish = publish
    await made.host(declared("flights"), id=["a", "b", "c"], n=[1, 2, 3])
    await made.host(declared("edited", writes="forward"), id=["a"], n=[1])
    await made.host(declared(HIDDEN, writes="forward"), id=[KEPT, "b"], n=[987_654, 2])
    yield made
    await gateway.close()
    await engine.close()


# The lists are whole ----------------------------------------------------------------------------------------------------


def test_there_are_examples_of_every_kind_and_format() -> None:
    found = bodies("v", "t", 1)
    assert set(KINDS) - found.keys() == set(), "a kind of request without an example in tests/claims.py"
    assert all(found.values())
    assert claims.formats() == DATA.keys(), "a format without an example in tests/claims.py"
    assert set(KINDS) == requests.NAMES.keys(), "a kind of request that has no name"


@pytest.mark.parametrize("number", UNKNOWN)
async def test_a_kind_that_is_in_no_table_is_not_followed(house: House, number: int) -> None:
    """Else one could be added that these tests do not know of."""
    viewer = house.open()
    for body, entity in itertools.product(bodies("v", "flights", 1)[number], ("", "flights")):
        said = await viewer.refused(number, body, entity)
        assert (f"unknown request {number}" if number else "a request without a body") in said
    assert (viewer.session.views, viewer.session.subscriptions) == (0, 0)


async def test_the_examples_are_good(house: House) -> None:
    """Those who may do it are told what they asked for: else it would say little that others are not."""
    for number in KINDS:
        viewer = house.open()
        assert (await viewer.ask(MAKE, make("tree", group_by=["id"]), "edited"))[0].number == MAKE
        entity = "edited" if number in requests.OF_TABLES or number in (MAKE, 27, 28, 38) else "tree"
        for body in bodies(f"of {number}", "edited", 1)[number][:1]:
            numbers = [one.number for one in await viewer.ask(number, body, entity)]
            if number in (ON_UPDATE, ON_TABLE_DELETE, ON_VIEW_DELETE, ON_REMOVE):
                assert (numbers, viewer.session.subscriptions) == ([], 1)
            elif number in requests.WRITES and number not in edits.EDITS:
                assert numbers == [SERVER_ERROR], "nobody makes or deletes tables"
            else:
                assert numbers == [number], named(number)
        await viewer.close()


# Tables that a viewer may not read --------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", EVERY, ids=named)
async def test_a_hidden_table_is_like_one_that_is_not_there(house: House, number: int) -> None:
    of_hidden, of_absent = house.open(LIMITED), house.open(LIMITED)
    other_hidden, other_absent = house.open(), house.open()
    await of_hidden.ask(HOSTED, b"\x08\x01", msg_id=3)
    before, computed = await house.exported(), house.gateway.counts.computed
    differs = False
    for hidden, absent in zip(bodies("v", HIDDEN, 7)[number], bodies("v", ABSENT, 7)[number], strict=True):
        said = await told(of_hidden, number, hidden, HIDDEN)
        assert said == await told(of_absent, number, absent, ABSENT)
        assert of_hidden.session.views == of_absent.session.views == 0
        assert KEPT not in repr(said)
        assert "987654" not in repr(said)
        assert HIDDEN not in repr(said), "not even its name, unless he says it"
        assert house.gateway.counts.computed == computed, "the engine is not even asked"
        assert house.edited == []
    for hidden, absent in zip(bodies("v", HIDDEN, 7)[number], bodies("v", ABSENT, 7)[number], strict=True):
        differs |= await told(other_hidden, number, hidden, HIDDEN) != await told(other_absent, number, absent, ABSENT)
    assert differs == (number in requests.OF_TABLES or number == MAKE), "for who may read it, that is"
    assert await house.exported() == before

    # Nor is he told of what becomes of it.
    heard(of_hidden), heard(of_absent)
    await house.update(HIDDEN, id=["new"], n=[5])
    house.gateway.remove_table(HIDDEN)
    await house.host(declared(HIDDEN, schema={"id": "string", "n": "float"}), id=["x"], n=[0.5])
    await house.host(declared(HIDDEN), id=["x"], n=[1])
    for viewer in (of_hidden, of_absent):
        await viewer.settled()
        assert heard(viewer) == []
    await house.host(declared("late"), id=["x"], n=[1])
    await of_hidden.settled()
    assert {one for one in heard(of_hidden) if one[0] != 7} == {(3, "", 0)}, "but of what he may read"


@pytest.mark.parametrize("number", EVERY, ids=named)
async def test_no_answer_about_another_table_tells_of_a_hidden_one(house: House, number: int) -> None:
    limited = house.open(LIMITED)
    await limited.ask(MAKE, make("tree", group_by=["id"]), "flights")
    for body, entity in itertools.product(bodies("v", "flights", 7)[number], ("flights", "edited", "tree", "", "none")):
        said = repr(await told(limited, number, body, entity))
        assert HIDDEN not in said
        assert KEPT not in said
        assert "987654" not in said


# Views and subscriptions of another session -----------------------------------------------------------------------------

OWN = {"flat": make("flat", columns=["n"]), "tree": make("tree", group_by=["id"], columns=["n"])}
FLAT_NEWS, TREE_ROWS, REMOVALS, VIEW_ENDS, TABLE_ENDS, TABLES = 31, 32, 33, 34, 35, 36


async def settle_in(house: House) -> Viewer:
    """A viewer with views and every kind of subscription."""
    owner = house.open()
    for body in OWN.values():
        assert (await owner.ask(MAKE, body, "flights"))[0].number == MAKE
    await owner.ask(ON_UPDATE, b"", "flat", FLAT_NEWS)
    await owner.ask(ON_UPDATE, b"\x08\x00", "tree", TREE_ROWS)
    await owner.ask(ON_REMOVE, b"", "flat", REMOVALS)
    await owner.ask(ON_VIEW_DELETE, b"", "flat", VIEW_ENDS)
    await owner.ask(ON_TABLE_DELETE, b"", "flights", TABLE_ENDS)
    await owner.ask(HOSTED, b"\x08\x01", "", TABLES)
    heard(owner)
    return owner


async def seen(owner: Viewer) -> list[Told]:
    """Return all that the views of a viewer show."""
    reads = [number for number in requests.VIEW_READS if number not in requests.CHANGE_STATE]
    found = [await told(owner, number, bodies("", "", 7)[number][0], view) for view in OWN for number in reads]
    heard(owner)
    return found


async def hears_everything(house: House, owner: Viewer) -> None:
    """Check that each subscription still is what it was."""
    await house.update("flights", id=["d"], n=[4])
    table = house.tables["flights"]
    assert table.spec is not None
    await table.apply([(Op.REMOVE, to_ipc(rows(table.spec, id=["a"])))])
    await table.flush()
    await owner.settled()
    assert {msg_id for msg_id, _, _ in heard(owner)} == {FLAT_NEWS, TREE_ROWS, REMOVALS}
    house.gateway.remove_table("flights")
    await owner.settled()
    assert sorted(msg_id for msg_id, _, _ in heard(owner)) == [VIEW_ENDS, TABLE_ENDS, TABLES]


IDS = [FLAT_NEWS, TREE_ROWS, REMOVALS, VIEW_ENDS, TABLE_ENDS, TABLES]
NOT_OF_VIEWS = {HOSTED, MAKE, 3, 17, *requests.OF_TABLES}


@pytest.mark.parametrize("number", [number for number in EVERY if number not in NOT_OF_VIEWS], ids=named)
async def test_the_views_of_another_are_not_there(house: House, number: int) -> None:
    owner = await settle_in(house)
    before = await seen(owner)
    engine_ids = sorted(table_view for table in house.tables.values() for table_view in table._views)
    assert len(engine_ids) >= 3
    other = house.open()
    for name, msg_id in itertools.product([*OWN, *engine_ids], IDS):
        for body in bodies("v", "flights", msg_id)[number]:
            assert await told(other, number, body, name) == await told(other, number, body, "nobody's")
    assert (other.session.views, other.session.subscriptions, house.edited) == (0, 0, [])
    assert heard(owner) == []
    assert await seen(owner) == before
    await hears_everything(house, owner)
    await other.settled()
    assert {msg_id for msg_id, _, _ in heard(other)} <= {7}


@pytest.mark.parametrize("number", EVERY, ids=named)
async def test_what_a_viewer_does_with_views_of_the_same_name_and_kind_others_do_not_feel(house: House, number: int) -> None:
    """They share the engine's views."""
    owner = await settle_in(house)
    before = await seen(owner)
    twin = await settle_in(house)
    assert len(house.tables["flights"]._views) == 4, "two, and one more for each kind of rows, for both"
    for name, msg_id in itertools.product([*OWN, "flights", ""], IDS):
        for body in bodies("flat", "flights", msg_id)[number]:
            await twin.ask(number, body, name)
    assert heard(owner) == []
    assert await seen(owner) == before
    assert house.edited == []
    await twin.close()
    assert await seen(owner) == before
    await hears_everything(house, owner)


# Edits ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("writes", ["deny", "forward"])
@pytest.mark.parametrize(("may_read", "may_write"), list(itertools.product([False, True], repeat=2)))
async def test_an_edit_is_published_only_if_the_table_and_both_claims_let_it(
    house: House, writes: str, may_read: bool, may_write: bool
) -> None:
    await house.host(declared("target", writes=writes), id=["a"], n=[1])
    access = Access(
        patterns(["flights", *["target"] * may_read]), patterns(["flights", "edited", HIDDEN, *["target"] * may_write])
    )
    viewer = house.open(access)
    before, expected = await house.exported(), []
    for number, kind in itertools.product(edits.EDITS, DATA):
        (answer,) = await viewer.ask(number, edit(kind), "target")
        if writes == "forward" and may_read and may_write:
            assert answer.number == number
            expected.append(("target", edits.EDITS[number], edits.FORMATS[kind]))
        else:
            assert answer.number == SERVER_ERROR
            if not may_read:
                asked = await told(viewer, number, edit(kind), ABSENT)
                assert comparable([answer], "target") == asked, "writing alone tells nothing, either"
        for other in ("flights", "edited", HIDDEN, "Target", "target ", "target*", ""):
            assert (await viewer.ask(number, edit(kind), other))[0].number == SERVER_ERROR
    assert house.edited == expected
    assert await house.exported() == before, "and nothing comes but through the log"


@pytest.mark.parametrize("number", [number for number in EVERY if number not in edits.EDITS], ids=named)
async def test_nothing_but_an_edit_changes_a_table(house: House, number: int) -> None:
    viewer = house.open()
    await viewer.ask(MAKE, make("tree", group_by=["id"]), "edited")
    before = await house.exported()
    for body, entity in itertools.product(bodies("v", "edited", 7)[number], ("edited", "tree", "", "a new one")):
        await viewer.ask(number, body, entity)
    assert house.edited == []
    assert [hosted.name for hosted in house.gateway.hosted] == ["edited", "flights", HIDDEN]
    assert await house.exported() == before

"""The digest is a matter of rows alone: not of how Arrow lays them out, nor of how the table came to have them."""

import struct
from collections.abc import AsyncIterator
from datetime import date, datetime
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallax.errors import EngineRefused
from parallax.replica import engine as facade
from parallax.replica.digest import Digester, digest
from parallax.replica.encodings import to_ipc
from parallax.replica.engine import Engine, EngineTable
from parallax.replication.record import Op
from parallax.replication.spec import TableSpec

SCHEMA = pa.schema(
    {
        "s": pa.string(),
        "i": pa.int32(),
        "f": pa.float64(),
        "g": pa.float32(),
        "b": pa.bool_(),
        "d": pa.date32(),
        "t": pa.timestamp("ms"),
        "u": pa.uint64(),
    }
)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "s": st.text(max_size=3),
    "i": st.integers(-3, 3),
    "f": st.floats(),
    "g": st.floats(width=32),
    "b": st.booleans(),
    "d": st.dates(),
    "t": st.datetimes().map(lambda moment: moment.replace(microsecond=0)),
    "u": st.integers(0, 2**64 - 1),
}
ROWS = st.lists(st.fixed_dictionaries({name: st.none() | values for name, values in VALUES.items()}), max_size=12)


def table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=SCHEMA)


@given(ROWS, st.lists(st.integers(0, 12)))
def test_pieces_chunks_and_offsets_do_not_count(rows: list[dict[str, Any]], cuts: list[int]) -> None:
    whole = table(rows)
    places = sorted({0, len(rows), *[min(cut, len(rows)) for cut in cuts]})
    pieces = [whole.slice(start, end - start) for start, end in pairwise(places)]
    state = Digester(SCHEMA)
    for piece in pieces:
        state.add(piece)
    assert state.value() == digest(whole) == digest(pa.concat_tables([*pieces, whole.slice(0, 0)]))


def test_what_lies_beneath_a_null_does_not_count() -> None:
    valid = pa.py_buffer(b"\x01")
    one, other = [
        pa.table({"i": pa.Array.from_buffers(pa.int32(), 2, [valid, pa.py_buffer(struct.pack("<2i", 7, hidden))])})
        for hidden in (1, 2)
    ]
    assert one.equals(other)
    assert digest(one) == digest(other)


@pytest.mark.parametrize(
    ("column", "one", "other"),
    [
        ("f", 0.0, -0.0),
        ("f", 1.0, None),
        ("i", 0, None),
        ("s", "", None),
        ("b", False, None),
        ("d", date(1970, 1, 1), None),
        ("t", datetime(1970, 1, 1), None),  # noqa: DTZ001 - the engine keeps no zone
        ("g", 1.5, 2.5),
        ("u", 2**64 - 1, 2**64 - 2),
    ],
)
def test_any_other_value_counts(column: str, one: Any, other: Any) -> None:
    assert digest(table([{column: one}])) != digest(table([{column: other}]))


def test_where_a_text_ends_which_row_it_is_in_and_how_columns_are_called_counts() -> None:
    texts = [["ab", "c"], ["a", "bc"], ["abc", ""], ["abc", None], ["c", "ab"], ["abc"]]
    assert len({digest(pa.table({"s": pa.array(column)})) for column in texts}) == len(texts)
    assert digest(pa.table({"a": [1]})) != digest(pa.table({"b": [1]}))
    assert digest(pa.table({"a": pa.array([1], pa.int32())})) != digest(pa.table({"a": pa.array([1], pa.uint32())}))


def test_each_nan_is_itself() -> None:
    bits = [0x7FF8000000000000, 0x7FF8000000000001, 0xFFF8000000000000]
    tables = [
        pa.table({"f": pa.Array.from_buffers(pa.float64(), 1, [None, pa.py_buffer(struct.pack("<Q", nan))])}) for nan in bits
    ]
    assert len({digest(one) for one in tables}) == len(bits)
    assert digest(tables[0]) == digest(tables[0])


# Of the engine's tables -----------------------------------------------------------------------------------------------

SPEC = TableSpec("t", (("id", "string"), ("f", "float"), ("s", "string")), index="id")


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    engine = Engine(frame_seconds=0.001)
    yield engine
    await engine.close()


def update(rows: list[dict[str, Any]]) -> tuple[Op, bytes]:
    return Op.UPDATE, to_ipc(pa.Table.from_pylist(rows, schema=SPEC.arrow_schema))


async def made(engine: Engine, *operations: tuple[Op, bytes]) -> EngineTable:
    table = engine.table("t")
    await table.load(SPEC, SPEC.arrow_schema.empty_table())
    for operation in operations:
        await table.apply([operation])
        await table.flush()
    return table


async def test_tables_with_equal_rows_and_different_histories_have_one_digest(engine: Engine) -> None:
    """Other texts interned before, other rows removed in between, in another order, and a zero that was negative."""
    rows = [{"id": f"k{n}", "f": n / 2, "s": None if n % 3 else f"s{n}"} for n in range(50)]
    straight = await made(engine, update(rows))
    others = [{"id": f"z{n}", "f": -1.0, "s": f"other {n}"} for n in range(200)]
    gone = pa.table({"id": [row["id"] for row in others]})
    before = [row | {"f": -0.0, "s": "before"} for row in rows[::-1]]
    steps = [update(others), update(before), (Op.REMOVE, to_ipc(gone)), *[update([row]) for row in rows[::-1]]]
    crooked = await made(engine, *steps)
    assert digest(await crooked.export()) == digest(await straight.export())
    await crooked.apply([update([rows[0] | {"f": -0.0}])])
    assert rows[0]["f"] == 0.0
    assert digest(await crooked.export()) != digest(await straight.export())


async def test_a_table_comes_in_pieces_that_make_the_whole(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"id": f"k{n:03}", "f": n / 2, "s": None if n % 3 else f"s{n}"} for n in range(100)]
    table = await made(engine, update(rows))
    monkeypatch.setattr(facade, "PIECE_CELLS", 21)
    pieces = [piece async for piece in table.pieces()]
    assert [len(piece) for piece in pieces] == [7] * 14 + [2]
    assert pa.concat_tables(pieces).to_pylist() == rows
    assert (await table.export()).to_pylist() == rows


async def test_requests_have_their_turn_between_pieces(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    table = await made(engine, update([{"id": f"k{n}"} for n in range(10)]))
    monkeypatch.setattr(facade, "PIECE_CELLS", 3)
    read = 0
    async for _ in table.pieces():
        assert table.is_idle
        await table.request([b"\x08\x01\x12\x01t\x42\x00"], table.generation)
        read += 1
    assert read == 10


async def test_a_table_that_is_written_to_meanwhile_is_not_read_on(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    table = await made(engine, update([{"id": f"k{n}"} for n in range(10)]))
    monkeypatch.setattr(facade, "PIECE_CELLS", 3)
    pieces = table.pieces()
    assert len(await anext(pieces)) == 1
    await table.apply([update([{"id": "late"}])])
    with pytest.raises(EngineRefused, match="written"):
        await anext(pieces)
    assert len(await table.export()) == 11


async def test_who_stops_in_the_middle_leaves_nothing_that_stands_in_the_way(engine: Engine) -> None:
    table = await made(engine, update([{"id": "k"}]))
    pieces = table.pieces()
    assert len(await anext(pieces)) == 1
    assert len(await table.export()) == 1
    await pieces.aclose()
    other = table.pieces()
    await anext(other)
    await table.drop()
    assert table.spec is None
    await other.aclose()

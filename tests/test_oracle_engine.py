"""What the raw engine does with sequences of operations in deferred mode, held against the oracle.

The random tests say that one rule is enough: poll before each replace and clear. The small ones below pin the traps, so that
an upgrade of the engine tells which of them moved.
"""

import datetime
import math
import os
import random
from collections.abc import Iterator
from typing import Any

import perspective
import pyarrow as pa
import pytest

from parallax.replication.spec import ARROW_TYPES, NOT_AN_INDEX, TableSpec
from tests.operations import EVERY_TYPE, INDEXED, LIMITED, PLAIN, Operation, Operations
from tests.oracle import Oracle, comparable_rows, difference
from tests.raw_engine import RawEngine, ipc

SEEDS = range(int(os.environ.get("PARALLAX_TEST_SEED", "0")), 1_000_000)[: int(os.environ.get("PARALLAX_TEST_RUNS", "3"))]
KEYED_BY = [
    TableSpec(f"by_{word}", (("id", word), *EVERY_TYPE), index="id") for word in ARROW_TYPES if word not in NOT_AN_INDEX
]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("poll", [0, 0.02, 0.2, 0.8])
@pytest.mark.parametrize("spec", [INDEXED, LIMITED, PLAIN], ids=lambda spec: spec.name)
def test_any_sequence_polled_at_any_moments_gives_what_the_oracle_holds(spec: TableSpec, poll: float, seed: int) -> None:
    rng = random.Random(f"{seed} polls")
    engine, oracle = RawEngine(spec), Oracle(spec)
    for operation in Operations(spec, seed).take(200):
        engine.apply(operation)
        oracle.apply(operation.op, operation.rows)
        if rng.random() < poll:
            engine.poll()
    assert difference(oracle.rows(), engine.rows()) == ""
    engine.close()


@pytest.mark.parametrize("spec", [*KEYED_BY, LIMITED, PLAIN], ids=lambda spec: spec.name)
def test_a_table_loaded_from_an_export_goes_on_like_the_one_it_came_from(spec: TableSpec) -> None:
    seed = SEEDS[0]
    rng = random.Random(f"{seed} reloads")
    engine, oracle = RawEngine(spec), Oracle(spec)
    for operation in Operations(spec, seed).take(120):
        chance = rng.random()
        if chance < 0.1:
            engine.reload(in_place=chance < 0.05)
        elif chance < 0.3:
            engine.poll()
        engine.apply(operation)
        oracle.apply(operation.op, operation.rows)
        if rng.random() < 0.1:
            assert difference(oracle.rows(), engine.rows()) == ""
    assert difference(oracle.rows(), engine.rows()) == ""
    engine.close()


@pytest.fixture
def keyed() -> Iterator[RawEngine]:
    engine = RawEngine(TableSpec("t", (("k", "string"), ("x", "integer"), ("s", "string")), index="k"))
    yield engine
    engine.close()


@pytest.mark.parametrize("op", ["replace", "clear"])
def test_without_the_poll_before_it_what_was_queued_survives_a_reset(op: str) -> None:
    """The trap behind the rule: if this begins to fail, the rule may go."""
    engine = RawEngine(TableSpec("t", (("k", "string"),), index="k"), poll_first=())
    engine.update(k=["queued"])
    engine.apply(Operation(op, (), "arrow", b""))
    assert engine.dicts() == [{"k": "queued"}]
    engine.close()


def test_removing_and_adding_again_needs_no_poll_between(keyed: RawEngine) -> None:
    keyed.update(k=["a"], x=[1], s=["old"])
    keyed.poll()
    keyed.remove("a")
    keyed.update(k=["a"], x=[2])
    assert keyed.dicts() == [{"k": "a", "x": 2, "s": None}]


def test_a_null_that_waits_does_not_swallow_a_later_value(keyed: RawEngine) -> None:
    keyed.update(k=["a"], x=[None], s=["one"])
    keyed.update(k=["a"], x=[3])
    keyed.update(k=["a"], s=[None])
    assert keyed.dicts() == [{"k": "a", "x": 3, "s": None}]


def test_creating_from_rows_with_duplicates_is_not_an_update(keyed: RawEngine) -> None:
    """A null does not overwrite at creation: only exports, which have no duplicates, may create a table."""
    rows = pa.table({"k": ["a", "a"], "x": pa.array([1, None], pa.int32())})
    created = keyed._client.table(ipc(rows), name="created", index="k")
    view = created.view()
    assert view.to_records() == [{"k": "a", "x": 1}]
    view.delete()
    created.delete()
    for reset in (keyed.update, keyed.replace):
        reset(k=["a", "a"], x=[1, None])
        assert keyed.dicts() == [{"k": "a", "x": None, "s": None}]


def test_dictionaries_that_differ_from_batch_to_batch_are_read_wrongly(keyed: RawEngine) -> None:
    """Why payloads carry plain strings: 'three' arrives as 'one'."""
    parts = [{"k": ["a"], "s": ["one"]}, {"k": ["b"], "s": ["three"]}]
    plain = pa.concat_tables([pa.table(part) for part in parts])
    encoded = pa.concat_tables([pa.table({"k": part["k"], "s": pa.array(part["s"]).dictionary_encode()}) for part in parts])
    keyed.table.update(ipc(encoded))
    assert [row["s"] for row in keyed.dicts()] == ["one", "one"]
    keyed.table.update(ipc(plain))
    assert [row["s"] for row in keyed.dicts()] == ["one", "three"]


def test_a_null_inside_a_dictionary_becomes_an_empty_string(keyed: RawEngine) -> None:
    values = pa.DictionaryArray.from_arrays(pa.array([0, 1]), pa.array(["q", None]))
    keyed.table.update(ipc(pa.table({"k": ["a", "b"], "s": values})))
    assert [row["s"] for row in keyed.dicts()] == ["q", ""]


def test_strings_are_cut_at_nul_in_keys_too(keyed: RawEngine) -> None:
    keyed.update(k=["a\0b", "a", "b"], s=["one", "two", "\0"])
    assert [(row["k"], row["s"]) for row in keyed.dicts()] == [("a", "two"), ("b", "")]
    keyed.remove("a\0anything")
    assert [row["k"] for row in keyed.dicts()] == ["b"]


def test_a_null_key_is_a_row_of_its_own_and_not_the_empty_string(keyed: RawEngine) -> None:
    keyed.update(k=["", None], x=[1, 2])
    assert [(row["k"], row["x"]) for row in keyed.dicts()] == [(None, 2), ("", 1)]
    keyed.remove(None)
    assert [row["k"] for row in keyed.dicts()] == [""]


def test_floats_cannot_be_keys() -> None:
    """Whether -0.0 and 0.0 are one row depends on when was polled, and NaN breaks the order of the rows after it."""
    engine = RawEngine(TableSpec("t", (("k", "float"),), index="k"))
    for polled, rows in ((False, 1), (True, 2)):
        engine.replace(k=[0.0])
        if polled:
            engine.poll()
        engine.update(k=[-0.0])
        assert len(engine.dicts()) == rows
    engine.replace(k=[1.0, math.nan, -1.0])
    keys = [row["k"] for row in engine.dicts()]
    assert not keys[0] < keys[1] < keys[2]
    engine.close()
    assert {"float", "float32", "float64"} <= NOT_AN_INDEX


@pytest.mark.parametrize(
    ("word", "values"),
    [
        ("float", [-0.0, 5e-324, math.inf, -math.inf, math.nan, 1.7976931348623157e308]),
        ("float32", [-0.0, 2.0**-149, math.inf, math.nan]),
        ("int64", [-(2**63), 2**63 - 1, 2**53 + 1]),
        ("uint64", [2**64 - 1, 2**63, 2**53 + 1]),
        ("date", [datetime.date(1, 1, 1), datetime.date(1969, 12, 31), datetime.date(9999, 12, 31)]),
        ("datetime", [datetime.datetime(1, 1, 1), datetime.datetime(1969, 12, 31, 23, 59, 59, 999000)]),  # noqa: DTZ001
        ("string", ["", "\x01", "x" * 1_000_000, "\uffff", "\U0001f600"]),
        ("boolean", [True, False, None]),
    ],
)
def test_values_come_back_to_the_bit(word: str, values: list[Any]) -> None:
    engine = RawEngine(TableSpec("t", (("v", word),), max_rows=100))
    engine.update(v=values)
    assert engine.rows() == comparable_rows([{"v": value} for value in values], ["v"])
    engine.close()


@pytest.mark.parametrize("kind", [{"limit": 3}, {"max_rows": 100}])
def test_only_indexed_tables_can_remove(kind: dict[str, int]) -> None:
    engine = RawEngine(TableSpec("t", (("x", "integer"),), **kind))  # type: ignore[arg-type]
    with pytest.raises(perspective.PerspectiveError, match="unindexed"):
        engine.table.remove(ipc(pa.table({"x": pa.array([0], pa.int32())})))
    engine.close()


def test_a_batch_larger_than_the_limit_keeps_its_last_rows() -> None:
    engine = RawEngine(TableSpec("t", (("x", "integer"),), limit=3))
    for write in (engine.update, engine.replace):
        write(x=list(range(10)))
        assert [row["x"] for row in engine.dicts()] == [7, 8, 9]
    engine.close()
    engine._create(pa.table({"x": pa.array(range(8), pa.int32())}))
    assert [row["x"] for row in engine.dicts()] == [5, 6, 7]
    engine.close()


def test_what_waits_is_not_seen_and_a_view_made_meanwhile_gets_it(keyed: RawEngine) -> None:
    keyed.update(k=["a"], x=[1])
    view = keyed.table.view()
    assert (keyed.table.size(), view.num_rows()) == (0, 0)
    keyed.poll()
    assert (keyed.table.size(), view.num_rows()) == (1, 1)
    view.delete()

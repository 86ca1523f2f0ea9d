"""Ingest without Redis: what publishers write, validated and merged, must change a table as the oracle says; and what does
not fit must be refused, whatever its bytes, without harm to what stands beside it."""

import datetime
import json
import random
from typing import Any

import pyarrow as pa
import pytest

from coordinator.batch import Limits, make_batch, payload
from parallax.replication.spec import TableSpec
from parallax.replication.window import Window
from tests.operations import INDEXED, LIMITED, PLAIN, Mix, Operation, Operations
from tests.oracle import Oracle, difference
from tests.raw_engine import RawEngine, ipc

SMALL = Limits(batch_rows=30, inline_max=6_000)
Fields = dict[str, str | bytes]


def entry(fields: Fields, number: int = 1) -> tuple[bytes, list[bytes]]:
    """An entry as a stream gives it: (id, [name, value, name, value, ...])."""
    parts = [part for pair in fields.items() for part in pair]
    return f"{number}-0".encode(), [part.encode() if isinstance(part, str) else part for part in parts]


@pytest.mark.parametrize("mix", [Mix(), Mix(replace=60, clear=5, ragged=1)], ids=["updates", "resets"])
@pytest.mark.parametrize("limits", [Limits(), SMALL], ids=["roomy", "small"])
@pytest.mark.parametrize("spec", [INDEXED, LIMITED, PLAIN], ids=lambda spec: spec.name)
def test_what_is_published_becomes_what_the_oracle_holds(spec: TableSpec, limits: Limits, mix: Mix) -> None:
    rng = random.Random("ingest")
    engine, oracle = RawEngine(spec), Oracle(spec)
    operations = Operations(spec, "ingest", mix).take(300)
    while operations:
        count = rng.choice((1, 1, 1, 1, 3, 40))
        together, operations = operations[:count], operations[count:]
        batch = make_batch([entry(operation.fields(), i) for i, operation in enumerate(together)], spec, Window(), limits)
        assert batch.refused == []
        assert len(batch.carried) == len(together)
        for change in batch.changes:
            engine.apply_record(change.op, payload(change))
        for operation in together:
            oracle.apply(operation.op, operation.rows)
        assert difference(oracle.rows(), engine.rows()) == ""
    engine.close()


KEYED = TableSpec(
    "keyed",
    (
        ("id", "string"),
        ("i", "integer"),
        ("u", "uint64"),
        ("f", "float"),
        ("s", "float32"),
        ("d", "date"),
        ("t", "datetime"),
    ),
    index="id",
)
BAD_ROWS: dict[str, list[Any]] = {
    "no key": [{"i": 1}],
    "null key": [{"id": "a"}, {"id": None}],
    "unknown column": [{"id": "a", "j": 1}],
    "key of another type": [{"id": 1}],
    "text for a number": [{"id": "a", "i": "1"}],
    "true for a number": [{"id": "a", "i": True}],
    "over int32": [{"id": "a", "i": 2**31}],
    "below uint64": [{"id": "a", "u": -1}],
    "over uint64": [{"id": "a", "u": 2**64}],
    "a fraction for a whole number": [{"id": "a", "i": 1.5}],
    "a whole number that a float cannot hold": [{"id": "a", "f": 2**53 + 1}],
    "no such day": [{"id": "a", "d": "2013-02-30"}],
    "no such time": [{"id": "a", "t": "soon"}],
    "finer than a millisecond": [{"id": "a", "t": "2013-01-01T00:00:00.000001Z"}],
    "NUL in a key": [{"id": "a\0b"}],
    "half a surrogate pair": [{"id": "\ud800"}],
    "a list": [{"id": "a", "i": [1]}],
    "no object": [{"id": "a"}, 3],
}
BAD_JSON = {
    "nothing": b"",
    "not closed": b'[{"id": "a"}',
    "no rows": b"3",
    "twice": b'[{"id":"a","i":1,"i":2}]',
    "deep": b"[" * 9**5,
}
BAD_JSON |= {"not UTF-8": b'[{"id": "\xff"}]', "4,300 digits": b'[{"id":"a","u":' + b"9" * 5000 + b"}]"}
NESTED = pa.DictionaryArray.from_arrays(pa.array([0]), pa.array([[1]]))
BAD_ARROW: dict[str, dict[str, pa.Array]] = {
    "no key": {"i": pa.array([1], pa.int32())},
    "null key": {"id": pa.array(["a", None])},
    "null in a dictionary of keys": {"id": pa.DictionaryArray.from_arrays(pa.array([0]), pa.array([None], pa.string()))},
    "key of another type": {"id": pa.array([1])},
    "unknown column": {"id": pa.array(["a"]), "j": pa.array([1])},
    "over int32": {"id": pa.array(["a"]), "i": pa.array([2**31])},
    "float64 for float32": {"id": pa.array(["a"]), "s": pa.array([0.1])},
    "float for an integer": {"id": pa.array(["a"]), "i": pa.array([1.0])},
    "microseconds that matter": {"id": pa.array(["a"]), "t": pa.array([datetime.datetime(2013, 1, 1, 0, 0, 0, 1)])},  # noqa: DTZ001
    "a list": {"id": pa.array(["a"]), "i": pa.array([[1]])},
    "a dictionary of lists": {"id": pa.array(["a"]), "i": NESTED},
    "a struct": {"id": pa.array(["a"]), "i": pa.array([{"x": 1}])},
    "NUL": {"id": pa.array(["a\0b"])},
    "binary": {"id": pa.array([b"a"])},
    "a day that the engine cannot hold": {"id": pa.array(["a"]), "d": pa.array([21_000_000], pa.int32()).cast(pa.date32())},
}
BAD: dict[str, Fields] = {f"json: {name}": {"op": "update", "data": json.dumps(rows)} for name, rows in BAD_ROWS.items()}
BAD |= {f"json: {name}": {"op": "update", "format": "json", "data": data} for name, data in BAD_JSON.items()}
BAD |= {
    f"arrow: {name}": {"op": "update", "format": "arrow", "data": ipc(pa.table(columns))}
    for name, columns in BAD_ARROW.items()
}
BAD |= {
    "a number that only becomes infinite": {"op": "update", "data": '[{"id": "a", "s": 1e300}]'},
    "no Arrow": {"op": "update", "format": "arrow", "data": b"none at all"},
    "half an Arrow stream": {"op": "update", "format": "arrow", "data": ipc(pa.table({"id": ["a"]}))[:150]},
    "unknown op": {"op": "upsert", "data": "[]"},
    "unknown format": {"op": "update", "format": "xml", "data": "<a/>"},
    "unknown field": {"op": "update", "data": "[]", "extra": "1"},
    "no data": {"op": "update"},
    "remove by other columns": {"op": "remove", "data": '[{"id": "a", "i": 1}]'},
    "a null key to remove": {"op": "remove", "data": '[{"id": null}]'},
    "clear with data": {"op": "clear", "data": '[{"id": "a"}]'},
    "half a producer": {"op": "update", "data": "[]", "producer": "p"},
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_what_does_not_fit_is_refused_whole_and_stops_nothing(bad: Fields) -> None:
    good: list[Fields] = [{"op": "update", "data": f'[{{"id": "{name}"}}]'} for name in ("before", "after")]
    batch = make_batch([entry(good[0], 1), entry(bad, 2), entry(good[1], 3)], KEYED, Window(), Limits())
    assert batch.carried == [b"1-0", b"3-0"]
    assert [entry_id for entry_id, _ in batch.refused] == [b"2-0"]
    assert len(batch.refused[0][1]) > 10, "the reason says something"
    rows = [row for change in batch.changes for table in change.tables for row in table.to_pylist()]
    assert rows == [{"id": "before"}, {"id": "after"}]


def test_only_indexed_tables_can_remove() -> None:
    for spec in (LIMITED, PLAIN):
        batch = make_batch([entry({"op": "remove", "data": '[{"n": 1}]'})], spec, Window(), Limits())
        assert len(batch.refused) == 1


def test_damaged_bytes_are_refused_or_carried_but_never_raise() -> None:
    rng = random.Random("damage")
    whole = [operation for operation in Operations(INDEXED, "damage").take(60) if operation.op != "clear"]
    for number in range(3000):
        operation = rng.choice(whole)
        data = bytearray(operation.data)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        damaged = Operation(operation.op, (), operation.format, bytes(data))
        batch = make_batch([entry(damaged.fields(), number)], INDEXED, Window(), Limits())
        assert len(batch.carried) + len(batch.refused) == 1

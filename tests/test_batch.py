"""Entries become records: validation that bends nothing, and merging that changes nothing."""

import datetime
import json
from typing import Any

import pyarrow as pa
import pytest

from coordinator.batch import Batch, Fill, Limits, encode, make_batch, payload
from parallax.replication.spec import ARROW_TYPES, TableSpec
from parallax.replication.window import Window

SPEC = TableSpec.declare("t", {"schema": {"id": "string", "n": "integer", "x": "float", "big": "int64"}, "index": "id"})
PLAIN = TableSpec.declare("p", {"schema": {"n": "integer", "s": "string"}, "max_rows": 1000})
TYPES = TableSpec.declare("types", {"schema": {"id": "string"} | {f"c_{word}": word for word in ARROW_TYPES}, "index": "id"})


def fields(**values: Any) -> list[bytes]:
    parts: list[bytes] = []
    for name, value in values.items():
        if isinstance(value, list | dict):
            value = json.dumps(value)
        parts += [name.encode(), value if isinstance(value, bytes) else str(value).encode()]
    return parts


def make(*entries: list[bytes], spec: TableSpec = SPEC, window: Window | None = None, limits: Limits | None = None) -> Batch:
    numbered = [(b"%d-0" % number, parts) for number, parts in enumerate(entries)]
    return make_batch(numbered, spec, window or Window(), limits or Limits())


def refusal(*args: list[bytes], spec: TableSpec = SPEC) -> str:
    batch = make(*args, spec=spec)
    assert batch.changes == []
    assert batch.carried == []
    (_, reason), *_ = batch.refused
    return reason


def rows(batch: Batch) -> list[tuple[str, list[dict[str, Any]]]]:
    out = []
    for change in batch.changes:
        data = payload(change)
        out.append((str(change.op), pa.ipc.open_stream(data).read_all().to_pylist() if data else []))
    return out


def test_neighbours_with_the_same_columns_become_one_record() -> None:
    batch = make(fields(data=[{"id": "a", "n": 1}]), fields(op="update", format="json", data={"n": 2, "id": "b"}))
    assert rows(batch) == [("update", [{"id": "a", "n": 1}, {"id": "b", "n": 2}])]
    assert batch.carried == [b"0-0", b"1-0"]
    assert batch.rows == 2


def test_other_columns_are_never_merged_because_missing_and_null_differ() -> None:
    batch = make(fields(data=[{"id": "a", "n": 1}, {"id": "a", "x": 1.5}, {"id": "a", "n": None}]))
    assert rows(batch) == [
        ("update", [{"id": "a", "n": 1}]),
        ("update", [{"id": "a", "x": 1.5}]),
        ("update", [{"id": "a", "n": None}]),
    ]


def test_operations_keep_their_order() -> None:
    batch = make(
        fields(data=[{"id": "a"}]),
        fields(op="remove", data=[{"id": "a"}]),
        fields(op="clear"),
        fields(op="replace", data=[{"id": "b"}]),
        fields(data=[{"id": "c"}]),
        fields(op="replace", data=[]),
    )
    assert [op for op, _ in rows(batch)] == ["update", "remove", "clear", "replace", "update", "clear"]


def test_a_replace_of_rows_with_several_column_sets_replaces_once() -> None:
    batch = make(fields(op="replace", data=[{"id": "a"}, {"id": "b", "n": 1}]))
    assert [op for op, _ in rows(batch)] == ["replace", "update"]


def test_neighbours_are_merged_up_to_the_inline_size() -> None:
    table = pa.table({"id": [f"{i:050}" for i in range(10_000)]})
    batch = make(*[fields(format="arrow", data=encode(table))] * 3, limits=Limits(inline_max=1 << 20))
    assert [change.rows for change in batch.changes] == [10_000, 10_000, 10_000]
    batch = make(*[fields(format="arrow", data=encode(table.slice(0, 100)))] * 3)
    assert [change.rows for change in batch.changes] == [300]


def test_every_type_from_json_exactly() -> None:
    row = {
        "id": "é\U0001f600", "c_string": "", "c_integer": -(2**31), "c_float": 0.1, "c_boolean": False, "c_date": "1700-02-28",
        "c_datetime": "2262-04-11T23:47:16.854+01:00", "c_int8": -128, "c_int16": 32767, "c_int32": 2**31 - 1,
        "c_int64": -(2**63), "c_uint8": 255, "c_uint16": 65535, "c_uint32": 2**32 - 1, "c_uint64": 2**64 - 1, "c_float32": 0.5,
        "c_float64": 2**53,
    }  # fmt: skip
    (_, (back,)) = rows(make(fields(data=[row]), spec=TYPES))[0]
    expected = row | {
        "c_date": datetime.date(1700, 2, 28),
        "c_datetime": datetime.datetime(2262, 4, 11, 22, 47, 16, 854000),  # noqa: DTZ001 - the table keeps no zone
    }
    assert back == expected


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"id": "a", "n": 2**31}, ["row 0", "'n'", "2147483648", "int32"]),
        ({"id": "a", "n": 1.5}, ["row 0", "'n'", "1.5", "whole number"]),
        ({"id": "a", "n": "1"}, ["'n'", '"1"', "whole number"]),
        ({"id": "a", "n": True}, ["'n'", "true", "whole number"]),
        ({"id": "a", "x": "1"}, ["'x'", "number"]),
        ({"id": "a", "x": 2**53 + 1}, ["'x'", str(2**53 + 1), "exactly"]),
        ('{"id": "a", "x": 1e400}', ["'x'", "too large"]),
        ({"id": "a", "big": 2**63}, ["'big'", str(2**63)]),
        ({"id": 7}, ["'id'", "text"]),
        ({"id": "a", "y": 1}, ["row 0", "unknown column 'y'", "id, n, x, big"]),
        ({"n": 1}, ["index column 'id' is missing"]),
        ({"id": None}, ["row 0", "'id' is null"]),
        ({"id": "a\0b"}, ["row 0", "'id'", "NUL"]),
        ([1], ["row 0", "object"]),
        ('"text"', ["list of rows"]),
        ({}, ["'id' is missing"]),
    ],
)
def test_json_that_does_not_fit_is_refused_with_the_place(row: Any, says: list[str]) -> None:
    reason = refusal(fields(data=[row] if isinstance(row, dict) else row if isinstance(row, str) else json.dumps(row)))
    for part in says:
        assert part in reason


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        (fields(op="upsert", data=[]), "unknown op 'upsert'; known are clear, remove, replace, update"),
        (fields(format="xml", data="<a/>"), "unknown format 'xml'"),
        (fields(op="update"), "'data' is missing"),
        (fields(dota=[]), "unknown field 'dota'"),
        (fields(data=b"[{]"), "not JSON"),
        (fields(data=b"\xff\xfe"), "not JSON"),
        (fields(data="[" * 100_000), "nested too deeply"),
        (fields(format="arrow", data=b"not arrow"), "not a readable Arrow IPC"),
        (fields(format="arrow", data=encode(pa.table({"id": ["a"]}))[:-20]), "Arrow"),
        (fields(op="clear", data=[]), "clear takes no data"),
        (fields(op="remove", data=[{"id": "a", "n": 1}]), "only the index column 'id'"),
        (fields(data=b'[{"id":"a","id":"b"}]'), "twice"),
        (fields(data=[], producer="p"), "go together"),
        (fields(data=[], producer="p", seq="-1"), "seq must be"),
        (fields(data=[]) + fields(data=[]), "given twice"),
    ],
)
def test_entries_that_make_no_sense_are_refused(parts: list[bytes], says: str) -> None:
    assert says in refusal(parts)


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (pa.table({"id": ["a"], "n": pa.array([2**31], pa.int64())}), "2147483648"),
        (pa.table({"id": ["a"], "n": ["1"]}), "column 'n': its type is string, but the table's is int32"),
        (pa.table({"id": ["a"], "x": pa.array([2**53 + 1], pa.int64())}), "'x'"),
        (pa.table({"id": ["a"], "z": [1]}), "unknown column 'z'"),
        (pa.table({"n": pa.array([1], pa.int32())}), "index column 'id' is missing"),
        (pa.table({"id": ["a", None]}), "row 1: the index column 'id' is null"),
        (pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], ["id", "id"]), "given twice"),
        (
            pa.table({"id": ["a"], "n": pa.DictionaryArray.from_arrays(pa.array([0]), pa.array([[1]]))}),
            "'n': its type is dictionary",
        ),
    ],
)
def test_arrow_that_does_not_fit_is_refused(table: pa.Table, says: str) -> None:
    assert says in refusal(fields(format="arrow", data=encode(table)))


def test_infinities_are_kept_where_they_are_spelled_out() -> None:
    ((_, back),) = rows(make(fields(data=b'[{"id":"a","x":Infinity},{"id":"b","x":-Infinity},{"id":"c","x":2}]')))
    assert [row["x"] for row in back] == [float("inf"), float("-inf"), 2.0]


def test_arrow_is_cast_only_where_nothing_is_lost() -> None:
    table = pa.table({"big": pa.array([7], pa.int8()), "id": pa.array(["a"]).dictionary_encode()})
    (op, back) = rows(make(fields(format="arrow", data=encode(table))))[0]
    assert (op, back) == ("update", [{"id": "a", "big": 7}])


def test_one_bad_entry_harms_no_other() -> None:
    batch = make(fields(data=[{"id": "a"}]), fields(data="nonsense"), fields(data=[{"id": "b"}]))
    assert batch.carried == [b"0-0", b"2-0"]
    assert [entry for entry, _ in batch.refused] == [b"1-0"]
    assert rows(batch) == [("update", [{"id": "a"}, {"id": "b"}])]


def test_an_entry_is_refused_whole() -> None:
    assert "row 1" in refusal(fields(data=[{"id": "a"}, {"id": "b", "n": "x"}]))


def test_a_producers_repeated_write_is_carried_once() -> None:
    window = Window([("p", 4)])
    batch = make(
        fields(data=[{"id": "old"}], producer="p", seq=4),
        fields(data=[{"id": "a"}], producer="p", seq=5),
        fields(data=[{"id": "b"}], producer="p", seq=5),
        fields(data=[{"id": "c"}], producer="q", seq=0),
        window=window,
    )
    assert rows(batch) == [("update", [{"id": "a"}, {"id": "c"}])]
    assert len(batch.carried) == 4
    assert batch.producers == {"p": 5, "q": 0}
    assert window.entries() == [("p", 4)]


def test_remove_needs_an_index() -> None:
    assert "needs a table with an index" in refusal(fields(op="remove", data=[{"n": 1}]), spec=PLAIN)


def test_an_empty_batch_is_carried_and_changes_nothing() -> None:
    batch = make(fields(data=[]), fields(format="arrow", data=encode(pa.table({"id": pa.array([], pa.string())}))))
    assert batch.changes == []
    assert len(batch.carried) == 2


def test_a_table_that_only_grows_is_bounded() -> None:
    spec = TableSpec.declare("p", {"schema": {"n": "integer"}, "max_rows": 5})
    numbered = [
        (b"1-0", fields(data=[{"n": 1}, {"n": 2}])),
        (b"2-0", fields(data=[{"n": 3}, {"n": 4}])),
        (b"3-0", fields(data=[{"n": 5}])),
        (b"4-0", fields(op="replace", data=[{"n": 6}] * 5)),
        (b"5-0", fields(data=[{"n": 7}])),
        (b"6-0", fields(op="clear")),
        (b"7-0", fields(data=[{"n": 8}])),
    ]
    batch = make_batch(numbered, spec, Window(), Limits(), Fill(2))
    assert [entry for entry, _ in batch.refused] == [b"2-0", b"5-0"]
    assert "holds 4 of 5 (max_rows) and this would make 6" in batch.refused[0][1]
    assert batch.fill is not None
    assert batch.fill.rows == 1
    small = TableSpec.declare("p", {"schema": {"n": "integer"}, "max_bytes": 10})
    assert len(make_batch(numbered[:2], small, Window(), Limits(), Fill()).refused) == 1

"""What a publisher's data becomes: entries of bounded size, whatever kind of data it is."""

import datetime
import json
from typing import Any

import pyarrow as pa
import pytest

from parallax.publisher_data import Batching, payloads
from parallax.replication.record import Op


class Stream:
    """Something that has the Arrow PyCapsule interface, as polars, pandas and DuckDB have, and nothing else."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self._table.__arrow_c_stream__(requested_schema)


class Array:
    """The same for one batch."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self._batch = batch

    def __arrow_c_array__(self, requested_schema: object = None) -> object:
        return self._batch.__arrow_c_array__(requested_schema)


def entries_of(op: Op, data: object, **batching: int) -> list[tuple[str, Any, int]]:
    """Return (op, content, rows) of each entry."""
    found = []
    for made, payload in payloads(op, data, Batching(**batching)):
        form, content = payload.encode()
        if form == "arrow":
            read: Any = pa.ipc.open_stream(content).read_all().to_pylist()
        else:
            read = json.loads(content) if content else None
        found.append((str(made), read, payload.rows))
    return found


ROWS = [{"id": "a", "n": 1}, {"id": "b", "n": 2}, {"id": "c", "n": 3}]


@pytest.mark.parametrize(
    "data",
    [
        pa.Table.from_pylist(ROWS),
        pa.RecordBatch.from_pylist(ROWS),
        pa.Table.from_pylist(ROWS).to_reader(),
        Stream(pa.Table.from_pylist(ROWS)),
        Array(pa.RecordBatch.from_pylist(ROWS)),
        ROWS,
        iter(ROWS),
    ],
    ids=["table", "batch", "reader", "stream", "array", "list", "iterator"],
)
def test_data_of_any_kind_is_cut_into_entries(data: object) -> None:
    assert entries_of(Op.UPDATE, data, rows=2) == [("update", ROWS[:2], 2), ("update", ROWS[2:], 1)]


def test_columns_are_cut_into_entries() -> None:
    data = {"id": ["a", "b", "c"], "n": [1, 2, 3]}
    found = entries_of(Op.UPDATE, data, rows=2)
    assert found == [("update", {"id": ["a", "b"], "n": [1, 2]}, 2), ("update", {"id": ["c"], "n": [3]}, 1)]
    cut = entries_of(Op.UPDATE, {"id": ["x" * 100] * 50}, bytes=1000)
    assert sum(rows for _, _, rows in cut) == 50
    assert max(rows for _, _, rows in cut) < 10


def test_entries_are_bounded_in_bytes() -> None:
    table = pa.table({"id": ["x" * 1000] * 100})
    for data in (table, table.to_pylist(), Stream(table)):
        found = entries_of(Op.UPDATE, data, bytes=10_000)
        assert 10 <= len(found) <= 13
        assert [row for _, rows, _ in found for row in rows] == table.to_pylist()


def test_a_replace_stays_whole_while_it_can() -> None:
    assert [op for op, _, _ in entries_of(Op.REPLACE, ROWS, rows=1)] == ["replace"]
    assert [op for op, _, _ in entries_of(Op.REPLACE, pa.table({"id": ["x" * 100] * 3}), replace_bytes=150)] == [
        "replace",
        "update",
        "update",
    ]
    assert entries_of(Op.REPLACE, []) == [("clear", None, 0)]
    assert entries_of(Op.UPDATE, []) == []


def test_values_that_json_has_not_travel_as_the_coordinator_reads_them() -> None:
    zone = datetime.timezone(datetime.timedelta(hours=1))
    row = {"at": datetime.datetime(2013, 1, 1, 10, tzinfo=zone), "day": datetime.date(2013, 1, 1), "x": float("inf")}
    assert entries_of(Op.UPDATE, row) == [
        ("update", [{"at": "2013-01-01T10:00:00+01:00", "day": "2013-01-01", "x": float("inf")}], 1)
    ]
    with pytest.raises(TypeError, match="cannot publish complex"):
        entries_of(Op.UPDATE, [{"x": 1j}])
    for data in (7, "text", [1], [("a", 1)]):
        with pytest.raises(TypeError):
            entries_of(Op.UPDATE, data)

"""The oracle by hand-worked cases, and the generator: what its operations carry is what it tells the oracle."""

import datetime
import json
import re
from collections import Counter
from typing import Any

import pyarrow as pa
import pytest

from parallax.replication.spec import ARROW_TYPES, TableSpec
from tests.encodings import arrow_streams
from tests.operations import INDEXED, LIMITED, PLAIN, Mix, Operation, Operations, interleaved
from tests.oracle import NotAllowed, Oracle, comparable_rows, difference, stored

INDEX = TableSpec("t", (("k", "string"), ("x", "integer"), ("f", "float32")), index="k")
LIMIT = TableSpec("t", (("x", "integer"), ("y", "integer")), limit=3)
EVERYTHING = (INDEXED, LIMITED, PLAIN)
QUOTED = re.compile(r'"((?:[^"]|"")*)"')
PLAIN_TEXT = re.compile(r"[^,\r\n]*")


def test_a_missing_column_keeps_its_value_and_a_null_overwrites_it() -> None:
    oracle = Oracle(INDEX)
    oracle.update([{"k": "b", "x": 1, "f": 0.5}, {"k": "a", "x": 2}])
    oracle.update([{"k": "b", "f": None}, {"k": "a", "f": 0.1}])
    assert oracle.rows() == [("a", 2, "float 0.10000000149011612"), ("b", 1, None)]


def test_duplicates_in_a_batch_apply_in_row_order() -> None:
    oracle = Oracle(INDEX)
    oracle.update([{"k": "a", "x": 1}, {"k": "a", "f": -0.0}, {"k": "a", "x": None}, {"k": "a", "x": 4}])
    assert oracle.rows() == [("a", 4, "float -0.0")]


def test_a_removed_key_starts_again_from_nulls() -> None:
    oracle = Oracle(INDEX)
    oracle.update([{"k": "a", "x": 1}, {"k": "b", "x": 2}])
    oracle.remove(["a", "never there"])
    oracle.update([{"k": "a", "f": float("nan")}])
    assert oracle.rows() == [("a", None, "float NaN"), ("b", 2, None)]


def test_replace_and_clear_forget_all_before() -> None:
    oracle = Oracle(INDEX)
    oracle.update([{"k": "a", "x": 1, "f": 1.0}])
    oracle.replace([{"k": "a", "x": 2}])
    assert oracle.rows() == [("a", 2, None)]
    oracle.clear()
    assert oracle.rows() == []
    assert len(oracle) == 0


def test_a_limit_table_keeps_the_newest_rows_oldest_first() -> None:
    oracle = Oracle(LIMIT)
    oracle.update([{"x": 1}, {"y": 2}])
    oracle.update([{"x": 3}, {"x": 4, "y": 4}])
    assert oracle.rows() == [(None, 2), (3, None), (4, 4)]
    oracle.replace([{"x": number} for number in range(9)])
    assert oracle.rows() == [(6, None), (7, None), (8, None)]


def test_what_no_table_takes_changes_nothing() -> None:
    oracle = Oracle(INDEX)
    oracle.update([{"k": "a", "x": 1}])
    refused: list[list[dict[str, Any]]] = [
        [{"k": "b"}, {"k": "c", "z": 1}],
        [{"k": "b"}, {"x": 1}],
        [{"k": "b"}, {"k": None}],
    ]
    for rows in refused:
        for op in ("update", "replace"):
            with pytest.raises(NotAllowed):
                oracle.apply(op, rows)
    with pytest.raises(NotAllowed):
        Oracle(LIMIT).remove(["a"])
    assert oracle.rows() == [("a", 1, None)]


def test_differences_are_seen_to_the_bit() -> None:
    schema = ["v"]
    values = [None, "", "1", 1, 1.0, True, 0.0, -0.0, float("nan"), datetime.date(2020, 1, 1)]
    values += [datetime.datetime(2020, 1, 1), 2**63 - 1, float(2**63)]  # noqa: DTZ001
    for a in values:
        for b in values:
            said = difference(comparable_rows([{"v": a}], schema), comparable_rows([{"v": b}], schema))
            assert (said == "") == (a is b), f"{a!r} and {b!r}: {said}"


def carried(table: TableSpec, operation: Operation) -> list[dict[str, Any]]:
    """The rows that the bytes of an operation carry, read back by other means than they were written."""
    if operation.op == "clear":
        return []
    if operation.format == "arrow":
        rows: list[dict[str, Any]] = pa.ipc.open_stream(operation.data).read_all().to_pylist()
        return rows
    if operation.format == "csv":
        rows = _csv_rows(operation.data.decode())
    elif operation.format == "columns":
        columns = json.loads(operation.data)
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    elif operation.format == "ndjson":
        rows = [json.loads(line) for line in operation.data.splitlines() if line]
    else:
        rows = json.loads(operation.data)
    return [{name: _read(value, dict(table.schema)[name]) for name, value in row.items()} for row in rows]


def _csv_rows(text: str) -> list[dict[str, Any]]:
    lines: list[list[str | None]] = [[]]
    at = 0
    while at < len(text):
        quoted = QUOTED.match(text, at)
        plain = PLAIN_TEXT.match(text, at)
        assert plain is not None
        lines[-1].append(quoted[1].replace('""', '"') if quoted else plain[0] or None)
        at = (quoted or plain).end()
        if text.startswith(",", at):
            at += 1
            if at == len(text):
                lines[-1].append(None)
        elif at < len(text):
            at += 2 if text.startswith("\r\n", at) else 1
            lines.append([])
    names, *cells = [line for line in lines if line]
    return [dict(zip(map(str, names), row, strict=True)) for row in cells]


def _read(value: Any, word: str) -> Any:
    if value is None or word == "string":
        return value
    if word == "date":
        return datetime.date.fromisoformat(value)
    if word == "datetime" and isinstance(value, int):
        return datetime.datetime(1970, 1, 1) + datetime.timedelta(milliseconds=value)  # noqa: DTZ001
    if word == "datetime":
        return datetime.datetime.fromisoformat(value).replace(tzinfo=None)
    if isinstance(value, str):
        if word == "boolean":
            return {"true": True, "false": False, "1": True, "0": False}[value.lower()]
        value = float(value) if word.startswith("float") else int(value)
    return stored(value, word)


@pytest.mark.parametrize("table", EVERYTHING, ids=lambda table: table.name)
def test_an_operation_carries_the_rows_it_tells_the_oracle(table: TableSpec) -> None:
    for operation in Operations(table, "carried").take(400):
        told, sent = Oracle(table), Oracle(table)
        if operation.op == "remove":
            assert [row["id"] for row in operation.rows] == [row["id"] for row in carried(table, operation)]
            continue
        told.update(operation.rows)
        sent.update(carried(table, operation))
        assert difference(told.rows(), sent.rows()) == ""
        split = [
            row
            for stream in arrow_streams(table, operation.rows)
            for row in pa.ipc.open_stream(stream).read_all().to_pylist()
        ]
        assert [repr(dict(sorted(row.items()))) for row in split] == [
            repr({name: stored(value, dict(table.schema)[name]) for name, value in sorted(row.items())})
            for row in operation.rows
        ]


def test_a_seed_gives_the_same_operations_again() -> None:
    first, again, other = (list(interleaved(EVERYTHING, seed, 200)) for seed in (1, 1, 2))
    assert [(name, op.data) for name, op in first] == [(name, op.data) for name, op in again]
    assert [(name, op.data) for name, op in first] != [(name, op.data) for name, op in other]


def test_the_generator_reaches_what_it_is_for() -> None:
    seen: Counter[str] = Counter()
    removed: set[object] = set()
    for operation in Operations(INDEXED, "coverage", Mix(replace=6)).take(3000):
        keys = [row["id"] for row in operation.rows]
        seen[f"{operation.op} {operation.format}"] += 1
        seen["empty batch"] += not operation.rows and operation.op != "clear"
        seen["duplicate keys"] += len(set(keys)) < len(keys)
        seen["index only"] += operation.op == "update" and any(len(row) == 1 for row in operation.rows)
        seen["mixed columns"] += len({frozenset(row) for row in operation.rows}) > 1
        if operation.op == "remove":
            removed.update(keys)
        else:
            seen["added again"] += bool(removed.intersection(keys))
            removed.difference_update(keys)
        for row in operation.rows:
            for name, value in row.items():
                seen[f"{name} {'null' if value is None else 'value'}"] += 1
    wanted = ["empty batch", "duplicate keys", "index only", "mixed columns", "added again", "clear none"]
    wanted += [
        f"{op} {form}" for op in ("update", "remove", "replace") for form in ("arrow", "json", "ndjson", "columns", "csv")
    ]
    wanted += [f"a_{word} {what}" for word in ARROW_TYPES for what in ("null", "value")]
    assert [name for name in wanted if seen[name] < 3] == []

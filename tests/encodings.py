"""Rows in the formats in which publishers send them."""

import datetime
import json
import math
import random
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from parallax.replication.spec import ARROW_TYPES
from tests.oracle import Row, TableLike, Value, stored

EPOCH = datetime.datetime(1970, 1, 1)  # noqa: DTZ001  Perspective's datetimes have no zone: they are UTC
MILLISECOND = datetime.timedelta(milliseconds=1)
RAGGED = ("json", "ndjson")
"""The formats whose rows may differ in their columns."""


def encode(form: str, table: TableLike, columns: Sequence[str], rows: Sequence[Row], rng: random.Random) -> bytes:
    """Return the rows in a format; what a format leaves open (blanks, spellings) is drawn from `rng`.

    `columns` are those of every row, unless the format is RAGGED: then each row has its own.
    """
    if form == "arrow":
        return arrow_stream(table, columns, rows, batches=3 if rng.random() < 0.1 else 1)
    if form == "csv":
        return _csv(table, columns, rows, rng)
    types = dict(table.schema)
    plain = [{name: _json_value(value, types[name], rng) for name, value in row.items()} for row in rows]
    ascii_only = rng.random() < 0.5
    if form == "columns":
        lists = {name: [row[name] for row in plain] for name in columns}
        return json.dumps(lists, ensure_ascii=ascii_only).encode()
    if form == "ndjson":
        end = rng.choice(("\n", "\n\n", "\r\n"))
        return "".join(json.dumps(row, ensure_ascii=ascii_only) + end for row in plain).encode()
    assert form == "json"
    return json.dumps(plain, ensure_ascii=ascii_only, indent=rng.choice((None, 1))).encode()


def _json_value(value: Value, word: str, rng: random.Random) -> Any:
    if isinstance(value, datetime.datetime):
        return (value - EPOCH) // MILLISECOND if rng.random() < 0.5 else _moment(value, rng)
    if isinstance(value, datetime.date):
        return value.isoformat()
    if isinstance(value, float) and value.is_integer() and abs(value) < 1000 and math.copysign(1, value) > 0:
        return rng.choice((value, int(value)))  # 3 is a fine float in JSON
    return value


def _moment(value: datetime.datetime, rng: random.Random) -> str:
    return value.isoformat(timespec="milliseconds") + rng.choice(("", "Z", "+00:00"))


def _csv(table: TableLike, columns: Sequence[str], rows: Sequence[Row], rng: random.Random) -> bytes:
    types = dict(table.schema)
    end = rng.choice(("\n", "\r\n"))
    lines = [",".join(columns)]
    lines += [",".join(_csv_value(row[name], types[name], rng) for name in columns) for row in rows]
    return (end.join(lines) + rng.choice(("", end))).encode() if rows and lines[-1] else (end.join(lines) + end).encode()


def _csv_value(value: Value, word: str, rng: random.Random) -> str:
    """Null is nothing at all; the empty text is two quotes."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return rng.choice((str(value).lower(), str(value), str(int(value))))
    if isinstance(value, datetime.datetime):
        return _moment(value, rng)
    if isinstance(value, datetime.date):
        return value.isoformat()
    if isinstance(value, float):
        return repr(stored(value, word))  # a float32 as the decimal that is it exactly
    if isinstance(value, int):
        return str(value)
    text = str(value)
    if text and not set(text) & set('",\r\n') and rng.random() < 0.5:
        return text
    return '"' + text.replace('"', '""') + '"'


def arrow_table(table: TableLike, columns: Sequence[str], rows: Sequence[Row]) -> pa.Table:
    """Return the rows as an Arrow table of exactly these columns; every row must have them all."""
    types = dict(table.schema)
    arrays = [pa.array([row[name] for row in rows], type=ARROW_TYPES[types[name]]) for name in columns]
    return pa.table(arrays, names=list(columns))


def arrow_stream(table: TableLike, columns: Sequence[str], rows: Sequence[Row], batches: int = 1) -> bytes:
    """Return the rows as an Arrow IPC stream of up to `batches` record batches."""
    content = arrow_table(table, columns, rows)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, content.schema) as writer:
        writer.write_table(content, max_chunksize=max(1, -(-len(rows) // batches)))
    return bytes(sink.getvalue())


def arrow_streams(table: TableLike, rows: Sequence[Row]) -> list[bytes]:
    """Return rows as Arrow streams, one for each run of neighbours with the same columns. No rows are no streams.

    It is what stands in records: the form in which an operation reaches the engine.
    """
    order = [name for name, _ in table.schema]
    runs: list[tuple[list[str], list[Row]]] = []
    for row in rows:
        columns = [name for name in order if name in row]
        if not runs or runs[-1][0] != columns:
            runs.append((columns, []))
        runs[-1][1].append(row)
    return [arrow_stream(table, columns, run) for columns, run in runs]

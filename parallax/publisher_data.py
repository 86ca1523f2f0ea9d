"""What a publisher's data becomes: entries of ingest, from rows, columns or anything that speaks Arrow."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Protocol

import pyarrow as pa

from parallax.replication.record import Op


@dataclass(frozen=True, slots=True)
class Batching:
    """How much goes into one entry. The coordinator refuses entries above 64 MiB."""

    rows: int = 10_000
    bytes: int = 4 << 20
    replace_bytes: int = 32 << 20  # a replace up to this stays in one entry, which viewers see at once


class Payload(Protocol):
    """What one entry will carry."""

    rows: int
    size: int  # about as many bytes

    def encode(self) -> tuple[str, bytes]:
        """Return the fields `format` and `data`."""

    def take(self, other: "Payload") -> bool:
        """Add another payload's rows behind these, if the two can share an entry; say whether they did."""


@dataclass(slots=True)
class RowsPayload:
    """Rows as JSON objects."""

    objects: list[bytes]
    rows: int = field(init=False)
    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.rows = len(self.objects)
        self.size = sum(map(len, self.objects)) + self.rows + 2

    def encode(self) -> tuple[str, bytes]:
        """Return the fields `format` and `data`."""
        return "json", b"[" + b",".join(self.objects) + b"]"

    def take(self, other: Payload) -> bool:
        """Take the rows of another list of rows."""
        if not isinstance(other, RowsPayload):
            return False
        self.objects += other.objects
        self.rows += other.rows
        self.size += other.size
        return True


@dataclass(slots=True)
class Encoded:
    """Data that is already in one of ingest's formats (arrow, json, columns, ndjson, csv), for one entry."""

    format: str
    data: bytes
    rows: int
    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.size = len(self.data)

    def encode(self) -> tuple[str, bytes]:
        """Return the fields `format` and `data`."""
        return self.format, self.data

    def take(self, other: Payload) -> bool:
        """Take nothing."""
        return False


@dataclass(slots=True)
class ArrowPayload:
    """Record batches of one schema."""

    batches: list[pa.RecordBatch]
    rows: int = field(init=False)
    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.rows = sum(batch.num_rows for batch in self.batches)
        self.size = sum(batch.nbytes for batch in self.batches)

    def encode(self) -> tuple[str, bytes]:
        """Return the fields `format` and `data`."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self.batches[0].schema) as writer:
            for batch in self.batches:
                writer.write_batch(batch)
        return "arrow", bytes(sink.getvalue())

    def take(self, other: Payload) -> bool:
        """Take batches of the same schema."""
        if not isinstance(other, ArrowPayload) or not self.batches[0].schema.equals(other.batches[0].schema):
            return False
        self.batches += other.batches
        self.rows += other.rows
        self.size += other.size
        return True


@dataclass(slots=True)
class NoPayload:
    """An operation that carries no rows."""

    rows: int = 0
    size: int = 0

    def encode(self) -> tuple[str, bytes]:
        """Return nothing."""
        return "", b""

    def take(self, other: Payload) -> bool:
        """Take nothing."""
        return False


def takes_its_time(data: object) -> bool:
    """Say whether the data may be read from somewhere while it is published."""
    return hasattr(data, "__arrow_c_stream__") and not isinstance(data, pa.Table)


def payloads(op: Op, data: object, batching: Batching) -> Iterator[tuple[Op, Payload]]:
    """Cut data into entries, in order. A replace that is too large for one becomes a replace, then updates.

    `data` is a pyarrow Table, RecordBatch or RecordBatchReader; anything with the Arrow PyCapsule interface (polars, pandas,
    DuckDB); a list of rows as mappings; one such row; a mapping of columns to lists; or Encoded text. Rows and columns travel as JSON, so
    that a row can leave columns out; times are datetimes (UTC if they have no zone), or text in ISO 8601.

    Raises:
        TypeError: it is none of these, or holds a value that JSON cannot carry.
    """
    most = batching.replace_bytes if op is Op.REPLACE else batching.bytes
    rows = 2**31 - 1 if op is Op.REPLACE else batching.rows
    found = _cut(data, rows, most)
    first = next(found, None)
    if first is None:
        if op is Op.REPLACE:
            yield Op.CLEAR, NoPayload()
        return
    yield op, first
    later = Op.UPDATE if op is Op.REPLACE else op
    for payload in found:
        yield later, payload


def _cut(data: object, rows: int, size: int) -> Iterator[Payload]:
    if isinstance(data, Encoded | RowsPayload):
        return iter([data])
    if hasattr(data, "__arrow_c_stream__"):
        return _arrow(pa.RecordBatchReader.from_stream(data), rows, size)
    if hasattr(data, "__arrow_c_array__"):
        return _arrow([pa.record_batch(data)], rows, size)
    if isinstance(data, Mapping):
        if data and all(_is_list(values) for values in data.values()):
            return _columns(data, rows, size)
        return _objects([data], rows, size)
    if isinstance(data, Iterable) and not isinstance(data, str | bytes):
        return _objects(data, rows, size)
    raise TypeError(
        f"cannot publish {type(data).__name__}: give Arrow (pyarrow, polars, pandas, DuckDB), a list of rows, "
        "or a mapping of columns to lists"
    )


def _is_list(values: object) -> bool:
    return isinstance(values, Sequence) and not isinstance(values, str | bytes)


def _arrow(batches: Iterable[pa.RecordBatch], rows: int, size: int) -> Iterator[Payload]:
    """Gather small batches into one entry, and cut large ones."""
    waiting: ArrowPayload | None = None
    for batch in batches:
        step = max(1, min(rows, batch.num_rows * size // max(1, batch.nbytes)))
        for start in range(0, batch.num_rows, step):
            piece = ArrowPayload([batch.slice(start, step)])
            if waiting and waiting.rows + piece.rows <= rows and waiting.size + piece.size <= size and waiting.take(piece):
                continue
            if waiting:
                yield waiting
            waiting = piece
    if waiting:
        yield waiting


def _columns(columns: Mapping[Any, Any], rows: int, size: int) -> Iterator[Payload]:
    lengths = {len(values) for values in columns.values()}
    if len(lengths) > 1:
        raise ValueError(f"columns must be of one length, not {', '.join(map(str, sorted(lengths)))}")
    (length,) = lengths
    step = min(rows, length)
    start = 0
    while start < length:
        part = {name: values[start : start + step] for name, values in columns.items()}
        data = _json(part)
        if len(data) > size and step > 1:
            step = max(1, step * size // (2 * len(data)))
            continue
        yield Encoded("columns", data, min(step, length - start))
        start += step


def _objects(found: Iterable[Any], rows: int, size: int) -> Iterator[Payload]:
    objects: list[bytes] = []
    taken = 0
    for number, row in enumerate(found):
        if not isinstance(row, Mapping):
            raise TypeError(f"row {number} is a {type(row).__name__}, not a mapping of columns to values")
        encoded = _json(row)
        if objects and (len(objects) >= rows or taken + len(encoded) > size):
            yield RowsPayload(objects)
            objects, taken = [], 0
        objects.append(encoded)
        taken += len(encoded) + 1
    if objects:
        yield RowsPayload(objects)


def _plain(value: Any) -> Any:
    """Return a value that JSON has not, as the coordinator reads it."""
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "item") and callable(value.item):  # a scalar of numpy
        return value.item()
    raise TypeError(f"cannot publish {type(value).__name__}: give text, numbers, booleans, dates or times, or publish Arrow")


_json_text = json.JSONEncoder(default=_plain, ensure_ascii=False, separators=(",", ":")).encode


def _json(value: Any) -> bytes:
    return _json_text(value).encode()

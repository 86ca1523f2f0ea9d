"""The table that the viewers' benchmarks look at, and its ticks: the same bytes for every server."""

import time

import pyarrow as pa

SCHEMA = pa.schema(
    {
        "id": pa.int64(),
        "symbol": pa.string(),
        "price": pa.float64(),
        "size": pa.int32(),
        "at": pa.timestamp("ms"),
    }
)
TYPES = {"id": "int64", "symbol": "string", "price": "float", "size": "integer", "at": "datetime"}
SIZES = {"market": 100_000, "middle": 50_000, "small": 10_000, "tiny": 1_000}
"""Tables and their rows."""
OTHER_SIZE = 1_000_000
"""Rows of a table that a benchmark made for itself."""
SYMBOLS = 100
TICK_ROWS = 100


def rows(table: str) -> bytes:
    """Return a table's first contents as an Arrow stream."""
    return encode(range(SIZES[table]), 0.0)


def tick(table: str, number: int, at: float, count: int = TICK_ROWS) -> bytes:
    """Return one update of 100 rows, or so many. Every price is the time `at` in ms: whoever sorts by it sees how old his picture is."""
    size = SIZES.get(table, OTHER_SIZE)
    return encode([(number * 7919 + step * 9973) % size for step in range(min(count, size))], at * 1000)


def ticks(table: str, rate: float, seconds: float, start: float, rows: int = TICK_ROWS) -> list[tuple[float, bytes]]:
    """Return ticks and the instants (as of time.time()) at which they are due."""
    due = [start + number / rate for number in range(1, round(rate * seconds) + 1)]
    return [(instant, tick(table, number, instant, rows)) for number, instant in enumerate(due, 1)]


def encode(ids: range | list[int], price: float) -> bytes:
    now = int(time.time() * 1000)
    columns = [
        pa.array(ids, pa.int64()),
        pa.array([f"S{key % SYMBOLS}" for key in ids]),
        pa.array([price + key / 1e6 for key in ids] if not price else [price] * len(ids), pa.float64()),
        pa.array([(key + now) % 1000 for key in ids], pa.int32()),
        pa.array([now + key for key in ids], pa.int64()).view(pa.timestamp("ms")),
    ]
    sink = pa.BufferOutputStream()
    batch = pa.record_batch(columns, schema=SCHEMA)
    with pa.ipc.new_stream(sink, SCHEMA) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())

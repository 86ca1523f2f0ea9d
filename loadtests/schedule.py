"""What the load test publishes and when, all of it known beforehand: contents and instants are functions of an update's number.

Update `seq` is due at `start + seq / rate` and writes one row of each symbol, so that every view of any symbol, sector or group shows
it. Nothing has to be told to whoever counts what came, or knows what must be there at the end.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from parallax.replication.spec import TableSpec

TABLE, NOTES = "load", "notes"
TYPES = {
    "id": "int64",
    "symbol": "string",
    "sector": "string",
    "seq": "integer",
    "due_us": "int64",
    "price": "float",
    "size": "integer",
}
SPEC = TableSpec.declare(TABLE, {"schema": TYPES, "index": "id"})
NOTES_SPEC = TableSpec.declare(
    NOTES, {"schema": {"key": "string", "value": "integer", "text": "string"}, "index": "key", "writes": "forward"}
)
"""What editors write. Each has a key of his own."""
SECTORS = 5

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Schedule:
    """One run of the publisher."""

    start: float
    """Seconds since the epoch; every process of the run must agree on the time."""
    rate: float = 10.0
    seconds: float = 20.0
    rows: int = 10_000
    """Of the table; a multiple of the symbols."""
    symbols: int = 100
    """Also the rows of an update."""

    @property
    def count(self) -> int:
        """The number of the last update. Number 0 fills the table."""
        return round(self.rate * self.seconds)

    @property
    def end(self) -> float:
        """When the last update is due."""
        return self.start + self.count / self.rate

    def due_us(self, seq: int) -> int:
        """Return the instant at which an update is due, in microseconds since the epoch."""
        return round((self.start + seq / self.rate) * 1e6)

    def overdue_us(self, newest: int, now_us: int) -> int:
        """Return for how long the oldest update after `newest` has been due, 0 if none has been."""
        return 0 if newest >= self.count else max(0, now_us - self.due_us(newest + 1))

    def ids(self, seq: int) -> range:
        """Return the ids of the rows that an update writes."""
        if not seq:
            return range(self.rows)
        first = seq * self.symbols % self.rows
        return range(first, first + self.symbols)

    def row(self, seq: int, key: int) -> Row:
        """Return a row as an update writes it."""
        return {
            "id": key,
            "symbol": f"S{key % self.symbols:03d}",
            "sector": f"sector {key % SECTORS}",
            "seq": seq,
            "due_us": self.due_us(seq) if seq else 0,  # a table is filled without knowing of the run
            "price": (key * 31 + seq * 17) % 4_000 / 4,
            "size": (key * 7 + seq * 13) % 1_000,
        }

    def update(self, seq: int) -> list[Row]:
        """Return the rows of an update."""
        return [self.row(seq, key) for key in self.ids(seq)]

    def final(self) -> Iterator[Row]:
        """Yield the rows that the table holds at the end."""
        turn = self.rows // self.symbols  # so many updates write every row once
        for key in range(self.rows):
            seq = key // self.symbols or turn
            last = seq + (self.count - seq) // turn * turn
            yield self.row(max(0, last), key)


def encode(rows: list[Row]) -> bytes:
    """Return rows of the table as an Arrow stream."""
    sink = pa.BufferOutputStream()
    table = pa.Table.from_pylist(rows, schema=SPEC.arrow_schema)
    with pa.ipc.new_stream(sink, SPEC.arrow_schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def add_options(parser: Any) -> None:
    """Add the schedule's options to a parser, argparse's or Locust's."""
    parser.add_argument("--start", type=float, default=0.0, help="when update 0 is due, in seconds since the epoch (0: now)")
    parser.add_argument("--rate", type=float, default=10.0, help="updates a second")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long updates are published")
    parser.add_argument("--table-rows", type=int, default=10_000, help="rows of the table, a multiple of the symbols")
    parser.add_argument("--symbols", type=int, default=100, help="rows of one update")


def of_options(options: argparse.Namespace) -> Schedule:
    """Return the schedule that was asked for.

    Raises:
        ValueError: it makes no sense.
    """
    if options.table_rows % options.symbols or options.symbols < 1:
        raise ValueError("--table-rows must be a multiple of --symbols")
    if not (options.rate > 0 and options.seconds > 0):
        raise ValueError("--rate and --seconds must be more than 0")
    return Schedule(options.start or time.time(), options.rate, options.seconds, options.table_rows, options.symbols)

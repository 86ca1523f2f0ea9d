"""Rows a second of each ingest format, from an entry's bytes to a record's Arrow, beside pyarrow's own readers.

    python -m loadtests.bench_formats [--rows 100000] [--rounds 5]

Each case runs in a process of its own and counts its CPU time; the best round counts. pyarrow's readers have one thread and the
table's types, as ours have. They do less: they take a missing column for a null, round what is too long for a float, and keep
the last of two equal names. `one row each` is 5,000 entries of one row, validated together as they are after a busy moment.
"""

import argparse
import json
import multiprocessing
import random
import time
from collections.abc import Callable, Sequence

import pyarrow as pa
from pyarrow import csv as arrow_csv
from pyarrow import json as arrow_json

from coordinator.batch import make_batch, payload
from coordinator.limits import Limits
from parallax.replication.spec import TableSpec
from parallax.replication.window import Window
from tests import formats

SPEC = TableSpec.declare(
    "bench",
    {
        "schema": {
            "id": "string",
            "symbol": "string",
            "price": "float",
            "size": "integer",
            "volume": "int64",
            "at": "datetime",
        },
        "index": "id",
    },
)
SINGLES = 5_000


def table(rows: int) -> pa.Table:
    """Return rows such as a market has."""
    rng = random.Random(7)
    columns = [
        pa.array([f"K{number}" for number in range(rows)]),
        pa.array([f"S{rng.randrange(500)}" for _ in range(rows)]),
        pa.array([round(rng.uniform(1, 1000), 4) for _ in range(rows)], pa.float64()),
        pa.array([rng.randrange(10_000) for _ in range(rows)], pa.int32()),
        pa.array([rng.randrange(10**12) for _ in range(rows)], pa.int64()),
        pa.array([1_700_000_000_000 + rng.randrange(10**9) for _ in range(rows)], pa.int64()).view(pa.timestamp("ms")),
    ]
    return pa.Table.from_arrays(columns, schema=SPEC.arrow_schema)


def bare_csv(content: pa.Table) -> bytes:
    """Write CSV without quotes."""
    return formats.csv(content).replace(b'"', b"")


def ours(format: str, datas: Sequence[bytes]) -> Callable[[], object]:
    """Return our way: validate all entries, and encode the records."""
    entries = [(b"%d-0" % number, [b"format", format.encode(), b"data", data]) for number, data in enumerate(datas)]

    def run() -> None:
        batch = make_batch(entries, SPEC, Window(), Limits())
        assert not batch.refused
        for change in batch.changes:
            payload(change)

    return run


def read_csv(data: bytes) -> Callable[[], object]:
    """Return pyarrow's way to read CSV."""
    kinds = {field.name: field.type for field in SPEC.arrow_schema} | {"at": pa.timestamp("ms", "UTC")}
    read = arrow_csv.ReadOptions(use_threads=False, block_size=len(data) + 1)
    parse = arrow_csv.ParseOptions(newlines_in_values=True)
    return lambda: arrow_csv.read_csv(pa.BufferReader(data), read, parse, arrow_csv.ConvertOptions(column_types=kinds))


def read_json(data: bytes) -> Callable[[], object]:
    """Return pyarrow's way to read JSON, one object a line."""
    read = arrow_json.ReadOptions(use_threads=False, block_size=len(data) + 1)
    parse = arrow_json.ParseOptions(explicit_schema=SPEC.arrow_schema)
    return lambda: arrow_json.read_json(pa.BufferReader(data), read, parse)


def one_row_each(format: str, content: pa.Table) -> Callable[[], object]:
    """Return our way over many entries of one row."""
    return ours(format, [formats.WRITERS[format](content.slice(number, 1)) for number in range(SINGLES)])


CASES: dict[str, Callable[[pa.Table], Callable[[], object]]] = {
    "json": lambda content: ours("json", [formats.json_rows(content)]),
    "ndjson": lambda content: ours("ndjson", [formats.ndjson(content)]),
    "columns": lambda content: ours("columns", [formats.columns(content)]),
    "pyarrow.json": lambda content: read_json(formats.ndjson(content)),
    "csv": lambda content: ours("csv", [bare_csv(content)]),
    "csv, texts quoted": lambda content: ours("csv", [formats.csv(content)]),
    "pyarrow.csv": lambda content: read_csv(bare_csv(content)),
    "pyarrow.csv, texts quoted": lambda content: read_csv(formats.csv(content)),
    "arrow": lambda content: ours("arrow", [formats.arrow(content)]),
    "arrow, zstd": lambda content: ours("arrow", [formats.arrow(content, compression="zstd")]),
    "json, one row each": lambda content: one_row_each("json", content),
    "ndjson, one row each": lambda content: one_row_each("ndjson", content),
    "columns, one row each": lambda content: one_row_each("columns", content),
    "csv, one row each": lambda content: one_row_each("csv", content),
    "arrow, one row each": lambda content: one_row_each("arrow", content),
}


def measure(name: str, rows: int, rounds: int) -> float:
    """Return a case's rows a second of CPU time."""
    pa.set_cpu_count(1)
    run = CASES[name](table(max(rows, SINGLES)))
    count = SINGLES if name.endswith("one row each") else rows
    best = float("inf")
    for _ in range(rounds):
        started = time.process_time()
        run()
        best = min(best, time.process_time() - started)
    return count / best


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000, help="rows of an entry")
    parser.add_argument("--rounds", type=int, default=5, help="how often each case is measured; the best counts")
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    found: dict[str, int] = {}
    for name in CASES:
        with context.Pool(1) as pool:
            found[name] = round(pool.apply(measure, (name, arguments.rows, arguments.rounds)))
        print(f"{name:28} {found[name]:>14,} rows/s", flush=True)
    ratios = {
        "json / pyarrow.json": found["json"] / found["pyarrow.json"],
        "ndjson / pyarrow.json": found["ndjson"] / found["pyarrow.json"],
        "columns / pyarrow.json": found["columns"] / found["pyarrow.json"],
        "csv / pyarrow.csv": found["csv"] / found["pyarrow.csv"],
        "csv quoted / pyarrow.csv": found["csv, texts quoted"] / found["pyarrow.csv, texts quoted"],
    }
    print(json.dumps({name: round(ratio, 2) for name, ratio in ratios.items()}))


if __name__ == "__main__":
    main()

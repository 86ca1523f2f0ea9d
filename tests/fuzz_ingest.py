"""Random and mutated entries through the decoder and the validator: `python -m tests.fuzz_ingest SEED COUNT`.

Each must be carried, or refused with words; and none may take more memory than an entry is allowed, or end the process. What
is carried must be Arrow that fits the table to the last byte. Prints how many were carried and refused.
"""

import json
import random
import resource
import sys

import pyarrow as pa

from coordinator.batch import Limits, encode, make_batch
from parallax.replication.spec import ARROW_TYPES, TableSpec
from parallax.replication.window import Window
from tests import formats

SPEC = TableSpec.declare("types", {"schema": {"id": "int64"} | {f"c {word}": word for word in ARROW_TYPES}, "index": "id"})
LIMITS = Limits(max_entry_bytes=1 << 20, max_entry_rows_bytes=64 << 20)
MEMORY = 512 << 20
"""Bytes of address space that the process may grow by: eight times what an entry may take."""
NUMBERS = (0, 1, 7, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**40, 2**63 - 1, 2**63, 2**64 - 1)
WORDS = (
    *(b'"', b",", b"\n", b"\r\n", b"{", b"}", b"[", b"]", b":", b"null", b"NaN", b"-0", b"1e999", b"-Infinity", b"true", b"0x10"),
    *(b"\\u0000", b"\\ud800", b"\0", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"2013-01-01T24:00:60+99:99", b"9" * 400, b"[" * 50_000),
)  # fmt: skip


def random_table(rng: random.Random) -> pa.Table:
    """Return a few rows of a few columns."""
    rows = rng.choice((0, 1, 2, 5, 40))
    columns = {"id": pa.array([rng.randrange(100) for _ in range(rows)], pa.int64())}
    for word in rng.sample(sorted(ARROW_TYPES), rng.randrange(6)):
        kind = ARROW_TYPES[word]
        pool = [value for value in formats.EXTREMES[word] if not isinstance(value, str) or len(value) < 100]
        values = [rng.choice([*pool, None]) for _ in range(rows)]
        is_moment = word in ("date", "datetime")
        whole = pa.int32() if word == "date" else pa.int64()
        columns[f"c {word}"] = pa.array(values, whole).view(kind) if is_moment else pa.array(values, kind)
    return pa.table(columns)


def disguised(rng: random.Random, column: pa.Array) -> pa.Array:
    """Return a column in another of the forms in which Arrow has it."""
    if column.type == pa.string() and rng.random() < 0.3:
        column = column.cast(pa.string_view())
    if rng.random() < 0.3 and column.type != pa.string_view():
        column = column.dictionary_encode()
        if column.type.value_type == pa.string() and rng.random() < 0.5:
            column = pa.DictionaryArray.from_arrays(column.indices, column.dictionary.cast(pa.string_view()))
    return column


def random_data(rng: random.Random, format: str) -> bytes:
    """Return what some publisher might send on his worst day."""
    if rng.random() < 0.05:
        return rng.randbytes(rng.choice((0, 1, 8, 100, 5000)))
    table = random_table(rng)
    if format != "arrow":
        data = formats.WRITERS[format](table)
    else:
        columns = [disguised(rng, column.combine_chunks()) for column in table.columns]
        table = pa.table(columns, table.column_names)
        data = formats.arrow(table, is_file=rng.random() < 0.3, compression=rng.choice((None, "lz4", "zstd")), rows=3)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 4, 20))):
        data = mutated(rng, data)
    return data


def mutated(rng: random.Random, data: bytes) -> bytes:
    """Return the data with one thing wrong."""
    at = rng.randrange(len(data) + 1)
    match rng.randrange(7):
        case 0:  # a flipped bit
            return data[:at] + bytes(byte ^ 1 << rng.randrange(8) for byte in data[at : at + 1]) + data[at + 1 :]
        case 1:  # a number that means a place or a length
            size = rng.choice((1, 2, 4, 8))
            number = rng.choice(NUMBERS) % 2 ** (8 * size)
            at -= at % size if rng.random() < 0.8 else 0
            return data[:at] + number.to_bytes(size, "little") + data[at + size :]
        case 2:  # a part missing
            return data[:at] + data[min(len(data), at + rng.choice((1, 2, 8, 64))) :]
        case 3:  # the end missing
            return data[:at]
        case 4:  # a part twice
            return data[:at] + data[max(0, at - rng.choice((1, 8, 64))) : at] + data[at:]
        case 5:  # a part elsewhere
            other = rng.randrange(len(data) + 1)
            return data[:at] + data[other : other + rng.choice((1, 8, 64))] + data[at:]
        case _:  # a word of the formats
            return data[:at] + rng.choice(WORDS) + data[at:]


def main(seed: int, count: int) -> None:
    """Try `count` entries."""
    pages = int(open("/proc/self/statm").read().split()[0]) if sys.platform == "linux" else 0  # noqa: SIM115
    if pages:
        most = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    pa.set_memory_pool(pa.system_memory_pool())  # the others reserve address space ahead
    carried = refused = 0
    for number in range(count):
        rng = random.Random(f"{seed} {number}")
        format = rng.choice(list(formats.WRITERS))
        op = rng.choice((b"update", b"update", b"replace", b"remove"))
        data = random_data(rng, format)
        fields = [b"op", op, b"format", format.encode(), b"data", data]
        copies = [(b"1-0", fields), (b"2-0", fields)]  # so that neighbours are read together, too
        batch = make_batch(copies, SPEC, Window(), LIMITS)
        for _, reason in batch.refused:
            assert "please report" not in reason, (seed, number, format, reason, data[:500])
            assert len(reason) < 5_000, (seed, number, format)
        for change in batch.changes:
            for table in change.tables:
                assert set(table.schema) <= set(SPEC.arrow_schema), (seed, number, format, table.schema)
                table.validate(full=True)
                encode(table)
        assert len(batch.carried) + len(batch.refused) == 2, (seed, number)
        carried += len(batch.carried) > 0
        refused += len(batch.refused) > 0
    print(json.dumps({"carried": carried, "refused": refused}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))

"""No entry takes more than its share: what is too large, or would inflate, is refused before it is read."""

import struct
import tracemalloc

import pyarrow as pa
import pytest

from coordinator.limits import Limits
from tests import formats
from tests.formats import WRITERS
from tests.test_ingest_formats import carried, entry, refusal


@pytest.mark.parametrize("format", WRITERS)
def test_an_entry_above_the_limit_is_refused_unread(format: str) -> None:
    assert refusal(b"x" * 1001, format, limits=Limits(max_entry_bytes=1000)) == (
        "data is 1001 bytes long; the most is 1000: send it in smaller entries"
    )


def bombs() -> dict[str, tuple[str, bytes]]:
    """Return small entries that stand for much more than 16 MiB: what it is -> (format, data)."""
    large = pa.table({"x": pa.array([0.0] * 4_000_000)})
    long_text = pa.array(["w" * 1_000_000])
    repeated = pa.DictionaryArray.from_arrays(pa.array([0] * 10_000, pa.int8()), long_text)
    view = struct.pack("<i4sii", 1_000_000, b"wwww", 0, 0)  # length, prefix, buffer, place in it
    views = pa.Array.from_buffers(
        pa.string_view(), 10_000, [None, pa.py_buffer(view * 10_000), pa.py_buffer(b"w" * 1_000_000)]
    )
    return {
        "zstd": ("arrow", formats.arrow(large, compression="zstd")),
        "lz4 file": ("arrow", formats.arrow(large, compression="lz4", is_file=True)),
        "one compressed text": ("arrow", formats.arrow(pa.table({"id": ["k" * 80_000_000]}), compression="zstd")),
        "dictionary": ("arrow", formats.arrow(pa.table({"id": repeated}))),
        "views": ("arrow", formats.arrow(pa.table({"id": views}))),
        "compressed dictionary": (
            "arrow",
            formats.arrow(pa.table({"id": pa.DictionaryArray.from_arrays(pa.array([0]), pa.array(["w" * 80_000_000]))}), compression="zstd"),
        ),
        "nulls": ("arrow", formats.arrow(pa.table({"id": pa.nulls(400_000_000), "x": pa.nulls(400_000_000)}))),
        "objects": ("json", b"[" + b"{}," * 1_000_000 + b"{}]"),
        "lists": ("columns", b'{"id":[' + b"[]," * 1_000_000 + b"[]]}"),
        "object lines": ("ndjson", b"{}\n" * 1_000_000),
        "empty lines": ("csv", b"id,n,x,at,day,f\n" + b"\n" * 2_000_000),
        "quotes": ("csv", b"id\n" + b'""\n' * 400_000),
    }  # fmt: skip


BOMBS = (
    *("zstd", "lz4 file", "one compressed text", "dictionary", "compressed dictionary", "views", "nulls"),
    *("objects", "lists", "object lines", "empty lines", "quotes"),
)


@pytest.fixture(scope="module")
def made_bombs() -> dict[str, tuple[str, bytes]]:
    return bombs()


@pytest.mark.parametrize("name", BOMBS)
def test_what_would_inflate_is_refused_without_inflating_it(name: str, made_bombs: dict[str, tuple[str, bytes]]) -> None:
    format, data = made_bombs[name]
    assert len(data) < 3 << 20
    usual, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.system_memory_pool())
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        reason = refusal(data, format, limits=Limits(max_entry_rows_bytes=16 << 20))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(usual)
    assert "of memory; the most is 16 MiB: send it in smaller entries" in reason
    assert peak + (pool.max_memory() or 0) < 16 << 20


def test_compressed_arrow_within_the_limit_is_read() -> None:
    table = pa.table({"id": [str(n) for n in range(100_000)], "x": pa.array([0.5] * 100_000)})
    for is_file in (False, True):
        data = formats.arrow(table, compression="zstd", is_file=is_file, rows=10_000)
        assert carried(entry(data, "arrow")).equals(table)

"""Arrow tables written in every format that a publisher may use, and compared bit for bit."""

import io
import json
import math
from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

import pyarrow as pa
from pyarrow import types

EPOCH_DAY = date(1970, 1, 1)
INT64 = (-(2**63), 2**63 - 1)
ALL_OF_UNICODE = "".join(chr(point) for point in range(1, 0x110000) if not 0xD800 <= point < 0xE000)


def days(year: int, month: int, day: int) -> int:
    """Days from 1970 to a date."""
    return (date(year, month, day) - EPOCH_DAY).days


FLOATS = [0.0, -0.0, 1.5, -1e-45, 3.4028234663852886e38, math.inf, -math.inf, math.nan]  # all are 32-bit floats
EXTREMES: dict[str, list[Any]] = {
    "string": ["", "plain", 'a,b"c"\r\n', " blank ", "NULL", "nan", "\\", "\ufeff\u202e", "x" * 70_000, ALL_OF_UNICODE],
    "integer": [-(2**31), 2**31 - 1, 0],
    "float": [*FLOATS, 5e-324, 1.7976931348623157e308, 0.1, 2.0**53, 1e22],
    "boolean": [True, False],
    "date": [days(1, 1, 1), days(1700, 2, 28), days(2262, 4, 12), days(9999, 12, 31), -1, 0],
    "datetime": [-1, 0, -62135596800000, -8515929600001, 9223372036854, 253402300799999],  # years 1 to 9999
    "int8": [-128, 127],
    "int16": [-(2**15), 2**15 - 1],
    "int32": [-(2**31), 2**31 - 1],
    "int64": [*INT64, 2**53 + 1],
    "uint8": [0, 255],
    "uint16": [0, 2**16 - 1],
    "uint32": [0, 2**32 - 1],
    "uint64": [0, 2**63, 2**64 - 1],
    "float32": FLOATS,
    "float64": [*FLOATS, 5e-324, -1.7976931348623157e308],
}
"""Values that each type must carry, whatever the format; dates as days since 1970, datetimes as milliseconds."""


def bits(table: pa.Table) -> dict[str, list[Any]]:
    """Return every value so that equal means equal bit for bit: floats as their bits, moments as numbers."""
    return {name: _bits(table.column(name).combine_chunks()) for name in table.column_names}


def _bits(column: pa.Array) -> list[Any]:
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    if types.is_floating(column.type) or types.is_timestamp(column.type) or types.is_date32(column.type):
        column = column.view(pa.int64() if column.type.bit_width == 64 else pa.int32())
    found: list[Any] = column.to_pylist()
    return found


def arrow(table: pa.Table, *, is_file: bool = False, compression: str | None = None, rows: int | None = None) -> bytes:
    """Write a table as an Arrow IPC stream or file, in batches of `rows`."""
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with (pa.ipc.new_file if is_file else pa.ipc.new_stream)(sink, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=rows)
    return bytes(sink.getvalue())


def json_rows(table: pa.Table) -> bytes:
    """Write a table as JSON rows."""
    return json.dumps(_rows(table)).encode()


def ndjson(table: pa.Table) -> bytes:
    """Write a table as one JSON object a line."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in _rows(table)).encode()


def columns(table: pa.Table) -> bytes:
    """Write a table as a JSON object of lists."""
    return json.dumps({name: _plain(table.column(name), as_text=False) for name in table.column_names}).encode()


def csv(table: pa.Table) -> bytes:
    """Write a table as CSV: text always quoted, nulls as nothing."""
    out = io.StringIO()
    out.write(",".join(_quoted(name) for name in table.column_names) + "\r\n")
    values = [_plain(table.column(name), as_text=True) for name in table.column_names]
    for row in zip(*values, strict=True):
        out.write(",".join(_csv_value(value) for value in row) + "\r\n")
    return out.getvalue().encode()


WRITERS: dict[str, Callable[[pa.Table], bytes]] = {
    "arrow": arrow,
    "json": json_rows,
    "ndjson": ndjson,
    "columns": columns,
    "csv": csv,
}
"""Format: how a publisher writes it."""


def _rows(table: pa.Table) -> list[dict[str, Any]]:
    values = [_plain(table.column(name), as_text=True) for name in table.column_names]
    return [dict(zip(table.column_names, row, strict=True)) for row in zip(*values, strict=True)]


def _plain(column: pa.ChunkedArray, *, as_text: bool) -> list[Any]:
    """Return the values as JSON has them; times as text where that reaches (years 1 to 9999), or as milliseconds."""
    if types.is_timestamp(column.type):
        numbers = column.cast(pa.int64()).to_pylist()
        return [None if ms is None else _iso(ms) if as_text else ms for ms in numbers]
    if types.is_date32(column.type):
        numbers = column.cast(pa.int32()).to_pylist()
        return [None if day is None else (EPOCH_DAY + timedelta(days=day)).isoformat() for day in numbers]
    found: list[Any] = column.to_pylist()
    return found


def _iso(ms: int) -> str:
    day, rest = divmod(ms, 86_400_000)
    minute, second = divmod(rest, 60_000)
    at = f"{minute // 60:02}:{minute % 60:02}:{second // 1000:02}.{second % 1000:03}"
    return f"{(EPOCH_DAY + timedelta(days=day)).isoformat()}T{at}Z"


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _csv_value(value: Any) -> str:
    if value is None:
        return ""
    return _quoted(value) if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else repr(value)

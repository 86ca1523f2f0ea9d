"""CSV (RFC 4180) to Arrow: the header names the columns, the table's spec gives their types. Nothing is guessed.

An empty value is null; a quoted empty value is the empty text. `true false True False TRUE FALSE 1 0` are booleans, `nan inf
-inf` floats; blanks around numbers do not count. Dates and times are ISO 8601.
"""

import csv as plain_csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv, types

from coordinator.misfit import Misfit, shortened
from coordinator.moments import moments
from parallax.errors import BadEntry
from parallax.replication.spec import TableSpec

AROUND_QUOTED = {b"", b",", b"\r", b"\n"}
HEADER = re.compile(rb'[^"\r\n]*+(?:"[^"]*+"[^"\r\n]*+)*+(?:\r?\n|\r)')
BAD_VALUE = re.compile(r"In CSV column #(\d+): Row #(\d+): CSV conversion error to ([^:]*): (.*)", re.DOTALL)
BAD_ROW = re.compile(r"CSV parse error: Row #(\d+): Expected (\d+ columns), got (\d+)")
WHOLE_NUMBER = re.compile(r"\s*[+-]?\d+\s*", re.ASCII)
INFINITE = re.compile(r"\s*[+-]?inf(inity)?\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class CsvRows:
    """Lines of CSV under one header, not yet parsed."""

    names: list[str]
    header: bytes
    lines: bytes  # each ends with a newline; no quote is open at the end

    def __len__(self) -> int:
        """Return a bound of the number of rows, which is theirs unless values have newlines."""
        return self.lines.count(b"\n")

    def is_like(self, other: object) -> bool:
        """Say whether the two have the same columns."""
        return isinstance(other, CsvRows) and self.names == other.names

    def joined(self, others: Sequence[Self]) -> "CsvRows":
        """Return all rows in their order."""
        return CsvRows(self.names, self.header, b"".join([self.lines, *(other.lines for other in others)]))

    def fit(self, spec: TableSpec) -> list[pa.Table]:
        """Return the one table."""
        data = self.header + self.lines
        schema = pa.schema([field for field in spec.arrow_schema if field.name in self.names])
        is_moment = {field.name: types.is_timestamp(field.type) for field in schema}
        table = _read(
            data, self.names, {field.name: pa.string() if is_moment[field.name] else field.type for field in schema}
        )
        has_hex = b"0x" in self.lines or b"0X" in self.lines
        texts: pa.Table | None = None
        columns = []
        for name in schema.names:
            column = table.column(name)
            if is_moment[name]:
                column = pa.chunked_array([moments(column.combine_chunks(), name)])
            elif _is_doubtful(column, has_hex):
                texts = texts or _read(data, self.names, dict.fromkeys(self.names, pa.string()))
                _check_texts(column, texts.column(name), name)
            columns.append(column)
        return [pa.Table.from_arrays(columns, schema=schema)]

    def place(self, row: int) -> str:
        """Return where a row is: the first after the header is row 0."""
        return f"row {row}"


def read_csv(data: bytes, spec: TableSpec, most_bytes: int) -> CsvRows:
    """Take a CSV text apart into header and lines.

    Raises:
        BadEntry: it is not CSV, or would take more than about `most_bytes` of memory.
        Misfit: a column is not the table's.
    """
    data = data.removeprefix(b"\xef\xbb\xbf").lstrip(b"\r\n")
    if not data.endswith((b"\n", b"\r")):
        data += b"\n"
    _check_size(data, spec, most_bytes)
    if b'"' in data:
        _check_quotes(data)
    header = HEADER.match(data)
    if not header or not header[0].strip():
        raise BadEntry("data is no CSV: it must begin with a line that names the columns")
    return CsvRows(_names(header[0], spec), header[0], data[header.end() :])


def _names(header: bytes, spec: TableSpec) -> list[str]:
    """Return the column names, once they are known to be the table's."""
    if header.count(b",") > sum(name.count(",") + 1 for name in spec.columns):  # before as many names are made of it
        raise BadEntry(f"the first line must name the columns, and has more than the table: {', '.join(spec.columns)}")
    try:
        names = next(plain_csv.reader(io.StringIO(header.decode(), newline=""), strict=True))
    except (plain_csv.Error, UnicodeDecodeError) as error:
        raise BadEntry(f"data is no CSV: its first line cannot be read: {error}") from None
    for number, name in enumerate(names):
        if name not in spec.columns:
            raise Misfit(f"unknown column {shortened(name)!r}; the table has {', '.join(spec.columns)}")
        if name in names[:number]:
            raise Misfit(f"column {name!r} is given twice")
    return names


def _read(data: bytes, names: list[str], column_types: dict[str, pa.DataType]) -> pa.Table:
    try:
        return csv.read_csv(
            pa.BufferReader(data),
            csv.ReadOptions(use_threads=False, block_size=len(data) + 1),  # so that errors name the row
            # Where there is only one column, an empty line is a null.
            csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=len(names) > 1),
            csv.ConvertOptions(
                column_types=column_types, null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False
            ),
        )
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise _explained(error, names) from None


def _explained(error: Exception, names: list[str]) -> Exception:
    """Return pyarrow's error with the place in our words; it counts the header as row 1."""
    text = str(error)
    if found := BAD_VALUE.match(text):
        value = found[4].removeprefix("invalid value '").removesuffix("'")
        reason = "is not UTF-8" if "UTF8" in found[4] else f'"{shortened(value)}" does not fit {found[3]}'
        return Misfit(reason, row=int(found[2]) - 2, column=names[int(found[1])])
    if found := BAD_ROW.match(text):
        return Misfit(f"has {found[3]} values, where the first line names {found[2]}", row=int(found[1]) - 2)
    return BadEntry(f"data is not CSV: {shortened(text, 300)}")


def _check_quotes(data: bytes) -> None:
    """Refuse a quote that is neither around a value nor doubled within one: the parser would take it as text, or lose it."""
    parts = data.split(b'"')
    outside = parts[::2]  # between quoted values; nothing between two of them is a doubled quote
    ends = {part[-1:] for part in outside[:-1]} | {part[:1] for part in outside[1:]}
    if len(parts) % 2 and ends <= AROUND_QUOTED:
        return
    at, is_quoted = 0, False
    for before, after in pairwise(parts):
        at += len(before) + 1
        is_quoted = not is_quoted
        if (before[-1:] if is_quoted else after[:1]) not in AROUND_QUOTED:
            break
    line = data.count(b"\n", 0, at) + 1
    raise BadEntry(f"data is not CSV: line {line} has a quote that is not closed, or not around a whole value")


def _check_size(data: bytes, spec: TableSpec, most_bytes: int) -> None:
    width = sum(5 if types.is_string(kind) else kind.bit_width // 8 + 1 for kind in spec.arrow_schema.types)
    size = 2 * len(data) + width * (data.count(b"\n") + data.count(b"\r")) + 50 * data.count(b'"')
    if size > most_bytes:
        raise BadEntry(
            f"data is CSV that would take about {size >> 20} MiB of memory; the most is {most_bytes >> 20} MiB: "
            "send it in smaller entries, or as Arrow"
        )


def _is_doubtful(column: pa.ChunkedArray, has_hex: bool) -> bool:
    """Say whether a value of a column could be another than was written: hexadecimal, or a float that had to be rounded."""
    if types.is_integer(column.type):
        return has_hex
    if types.is_floating(column.type):
        whole = 2.0**24 if types.is_float32(column.type) else 2.0**53
        return bool(pc.any(pc.greater_equal(pc.abs(column), pa.scalar(whole, column.type))).as_py())
    return False


def _check_texts(column: pa.ChunkedArray, texts: pa.ChunkedArray, name: str) -> None:
    for row, (value, text) in enumerate(zip(column.to_pylist(), texts.to_pylist(), strict=True)):
        if value is not None and not _is_as_written(value, text):
            raise Misfit(f'"{shortened(text)}" does not fit {column.type} exactly', row=row, column=name)


def _is_as_written(value: int | float, text: str) -> bool:
    if isinstance(value, int):
        return "x" not in text.lower()
    if math.isinf(value):
        return INFINITE.fullmatch(text) is not None
    return not WHOLE_NUMBER.fullmatch(text) or int(text) == value

"""Arrow IPC streams and files: refused before they inflate, checked to the last byte, cast only where nothing is lost."""

import re
import struct
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from coordinator.inflation import inflated_bytes
from coordinator.misfit import Misfit, shortened
from parallax.errors import BadEntry
from parallax.replication.spec import TableSpec

FILE_MAGIC = b"ARROW1\0\0"
UNREADABLE = (pa.ArrowException, OSError, ValueError, TypeError, struct.error)


@dataclass(frozen=True, slots=True)
class ArrowRows:
    """Tables of one schema."""

    tables: list[pa.Table]

    def __len__(self) -> int:
        return sum(table.num_rows for table in self.tables)

    def is_like(self, other: object) -> bool:
        """Say whether the two have the same columns and types."""
        return isinstance(other, ArrowRows) and bool(self.tables[0].schema.equals(other.tables[0].schema))

    def joined(self, others: Sequence[Self]) -> "ArrowRows":
        """Return all rows in their order."""
        return ArrowRows([*self.tables, *(table for other in others for table in other.tables)])

    def fit(self, spec: TableSpec) -> list[pa.Table]:
        """Return the one table, brought to the spec's order and types by casts that lose nothing."""
        table = pa.concat_tables(self.tables) if len(self.tables) > 1 else self.tables[0]
        _check_values(table)
        fields = [field for field in spec.arrow_schema if field.name in table.column_names]
        return [pa.Table.from_arrays([_cast(table.column(field.name), field) for field in fields], schema=pa.schema(fields))]

    def place(self, row: int) -> str:
        """Return where a row is."""
        return f"row {row}"


def read_arrow(data: bytes, spec: TableSpec, most_bytes: int) -> ArrowRows:
    """Return the rows of an Arrow IPC stream or file.

    Raises:
        BadEntry: it is not Arrow, or would take more than `most_bytes` of memory.
        Misfit: its columns are not the table's, or a text is not UTF-8.
    """
    # A file is a stream with a head and a footer. Reading it as one means that no batch is met twice, whatever its footer says.
    stream = memoryview(data)[len(FILE_MAGIC) :] if data.startswith(FILE_MAGIC) else memoryview(data)
    try:
        _check_size(inflated_bytes(stream), most_bytes)
        with pa.ipc.open_stream(pa.py_buffer(stream)) as reader:
            is_exact = _check_columns(reader.schema, spec)
            table = reader.read_all()
        table.validate()
    except UNREADABLE as error:
        raise BadEntry(f"data is not a readable Arrow IPC stream or file: {_first_line(error)}") from error
    if not is_exact:  # before the values are checked, which takes as long as what they stand for
        _check_expanded_size(table, spec, most_bytes)
    return ArrowRows([table])


def _check_size(size: int, most_bytes: int) -> None:
    if size > most_bytes:
        raise BadEntry(
            f"data would take {size >> 20} MiB of memory; the most is {most_bytes >> 20} MiB: send it in smaller entries"
        )


def _check_columns(schema: pa.Schema, spec: TableSpec) -> bool:
    """Check that all columns are the table's and can be cast; return whether there is nothing to cast."""
    if schema.equals(spec.arrow_schema):
        return True
    names = schema.names
    wanted = dict(zip(spec.columns, spec.arrow_schema.types, strict=True))
    for number, name in enumerate(names):  # as many as the table has at most: the next is unknown or given twice
        if name not in wanted:
            raise Misfit(f"unknown column {shortened(name)!r}; the table has {', '.join(spec.columns)}")
        if name in names[:number]:
            raise Misfit(f"column {name!r} is given twice")
    kinds = schema.types
    for name, kind in zip(names, kinds, strict=True):
        if not _is_castable(kind, wanted[name]):
            reason = f"its type is {shortened(str(kind))}, but the table's is {wanted[name]}; cast it before publishing"
            raise Misfit(reason, column=name)
    return all(kind == wanted[name] for name, kind in zip(names, kinds, strict=True))


def _is_castable(given: pa.DataType, wanted: pa.DataType) -> bool:
    """Say whether a value-checked cast from `given` to `wanted` keeps every value's meaning."""
    if types.is_dictionary(given):
        given = given.value_type
    if types.is_integer(given):
        return bool(types.is_integer(wanted) or types.is_floating(wanted))
    if types.is_floating(given):
        return bool(types.is_floating(wanted) and given.bit_width <= wanted.bit_width)
    if types.is_timestamp(given):
        return bool(types.is_timestamp(wanted))
    if types.is_date(given):
        return bool(types.is_date(wanted))
    if types.is_large_string(given) or types.is_string_view(given) or types.is_string(given):
        return bool(types.is_string(wanted))
    return bool(types.is_null(given) or given == wanted)


def _check_values(table: pa.Table) -> None:
    """Check what a broken writer gets wrong: offsets, UTF-8, dictionary places."""
    try:
        table.validate(full=True)
    except pa.ArrowException:
        pass
    else:
        return
    for name, column in zip(table.column_names, table.columns, strict=True):
        first = 0
        for chunk in column.chunks:
            try:
                chunk.validate(full=True)
            except pa.ArrowException as error:
                reason = _first_line(error)
                found = re.search(r"UTF8 sequence at string index (\d+)", reason)
                if found and not types.is_dictionary(column.type):
                    raise Misfit("is not UTF-8", row=first + int(found[1]), column=name) from None
                raise Misfit(f"its data is broken: {reason}", column=name) from None
            first += len(chunk)


def _check_expanded_size(table: pa.Table, spec: TableSpec, most_bytes: int) -> None:
    """Check what the rows take in the table's types: a dictionary, views or nulls can stand for far more than they hold."""
    fields = [spec.arrow_schema.field(name) for name in table.column_names]
    size = sum(table.num_rows * (5 if types.is_string(field.type) else field.type.bit_width // 8 + 1) for field in fields)
    _check_size(size, most_bytes)
    for column in table.columns:
        for chunk in column.chunks:
            if types.is_string_view(chunk.type):
                size += _sum(_lengths(chunk))
            elif types.is_dictionary(chunk.type) and not types.is_primitive(chunk.type.value_type):
                counts = chunk.indices.value_counts()
                try:
                    size += _sum(pc.multiply(_lengths(chunk.dictionary).take(counts.field(0)), counts.field(1)))
                except (IndexError, pa.ArrowException) as error:
                    raise BadEntry(f"data is not readable Arrow: its dictionary is broken: {_first_line(error)}") from None
    _check_size(size, most_bytes)


def _lengths(texts: pa.Array) -> pa.Array:
    """Return the length of each text in bytes; the texts are not yet checked."""
    if types.is_string_view(texts.type):  # four 32-bit numbers each, the first of them the length
        numbers = pa.Array.from_buffers(pa.int32(), 4 * (texts.offset + len(texts)), [None, texts.buffers()[1]])
        found = pc.list_element(pa.FixedSizeListArray.from_arrays(numbers, 4).slice(texts.offset), 0)
        found = pc.if_else(texts.is_valid(), found, 0)
    elif types.is_null(texts.type):
        found = pa.nulls(len(texts), pa.int64())
    else:
        found = pc.binary_length(texts)
    return pc.max_element_wise(found.cast(pa.int64()), 0)


def _sum(numbers: pa.Array) -> int:
    return int(pc.sum(numbers).as_py() or 0)


def _cast(column: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    if column.type == field.type:
        return column
    if types.is_dictionary(column.type) and types.is_string_view(column.type.value_type):  # as polars has categories
        column = pa.chunked_array([_without_views(chunk) for chunk in column.chunks], _dictionary_of_strings(column.type))
    plain = column.type.value_type if types.is_dictionary(column.type) else column.type

    def cast(some: pa.ChunkedArray) -> pa.ChunkedArray:
        return some.cast(plain, safe=True).cast(field.type, safe=True)

    try:
        return cast(column)
    except pa.ArrowException as error:
        row = _first_bad(column, cast)
        value = "" if row is None else f"{_shown(column[row])} "
        raise Misfit(f"{value}does not fit {field.type}: {_first_line(error)}", row=row, column=field.name) from None


def _dictionary_of_strings(kind: pa.DictionaryType) -> pa.DictionaryType:
    return pa.dictionary(kind.index_type, pa.string(), kind.ordered)


def _without_views(chunk: pa.DictionaryArray) -> pa.DictionaryArray:
    """Return a dictionary of views with plain strings instead: pyarrow cannot look views up."""
    texts = chunk.dictionary.cast(pa.string())
    return pa.DictionaryArray.from_arrays(chunk.indices, texts, ordered=chunk.type.ordered)


def _shown(value: pa.Scalar) -> str:
    value = value.value if isinstance(value, pa.DictionaryScalar) else value
    return shortened(str(value.cast(pa.string())))  # as text, because Python has no nanoseconds


def _first_bad(column: pa.ChunkedArray, cast: Callable[[pa.ChunkedArray], pa.ChunkedArray]) -> int | None:
    """Return the first row that cannot be cast, found by halving."""

    def fails(rows: int) -> bool:
        try:
            cast(column.slice(0, rows))
        except pa.ArrowException:
            return True
        return False

    row = bisect_left(range(1, len(column) + 1), True, key=fails)
    return row if row < len(column) else None


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return (lines[0] if lines else type(error).__name__)[:300]

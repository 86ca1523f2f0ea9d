"""Files and streams of rows, read piece by piece: what `parallax publish` sends."""

import codecs
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeAlias

import pyarrow as pa
from pyarrow import parquet

from parallax.errors import PublishError
from parallax.publisher_data import Encoded, RowsPayload

FORMATS = ("csv", "json", "ndjson", "arrow", "parquet")
SUFFIXES = {
    ".csv": "csv",
    ".json": "json",
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".arrow": "arrow",
    ".arrows": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
    ".parquet": "parquet",
}
BLOCK_BYTES = 1 << 20
LONGEST_ROW_BYTES = 64 << 20
FOLLOW_SECONDS = 0.2
FILE_MAGIC = b"ARROW1\0\0"

Piece: TypeAlias = "Encoded | RowsPayload | pa.RecordBatch"


def format_of(path: str) -> str | None:
    """Return the format that a file's name tells."""
    return SUFFIXES.get(Path(path).suffix.lower())


def pieces(source: BinaryIO, format: str, *, rows: int, follow: bool, advance: Callable[[int], None]) -> Iterator[Piece]:
    """Read a source to its end (with `follow`, without an end) as pieces of up to `rows` rows.

    `advance` is told of each bytes that are read. Texts are only cut, never converted: the coordinator reads them.

    Raises:
        PublishError: the source is not what its format says.
    """
    match format:
        case "csv":
            return _csv(_blocks(source, follow, advance), rows)
        case "ndjson":
            return _ndjson(_blocks(source, follow, advance), rows)
        case "json":
            return _json(_blocks(source, follow, advance), rows)
        case "arrow":
            return _arrow(_Counted(source, advance))
        case _:
            return _parquet(_Counted(source, advance), rows)


def _blocks(source: BinaryIO, follow: bool, advance: Callable[[int], None]) -> Iterator[bytes]:
    """Yield what is there, at once when it comes from a pipe."""
    descriptor = source.fileno()
    while True:
        block = os.read(descriptor, BLOCK_BYTES)
        if block:
            advance(len(block))
            yield block
        elif follow:
            time.sleep(FOLLOW_SECONDS)
        else:
            return


def _records(blocks: Iterable[bytes], *, has_quotes: bool) -> Iterator[list[bytes]]:
    """Yield lists of whole records, each with its newline; a newline within quotes ends none."""
    rest = b""
    for block in blocks:
        data = rest + block
        lines = data.split(b"\n")
        rest = lines.pop()
        records = [line + b"\n" for line in lines]
        if has_quotes and b'"' in data:
            records, unfinished = _whole(records)
            rest = unfinished + rest
        if len(rest) > LONGEST_ROW_BYTES:
            raise PublishError(f"a row is longer than {LONGEST_ROW_BYTES >> 20} MiB; is a quote not closed?")
        if records:
            yield records
    if rest:
        yield [rest]


def _whole(lines: list[bytes]) -> tuple[list[bytes], bytes]:
    """Join lines whose quotes are open at their end with those that follow; return records and what is unfinished."""
    records = []
    open_lines: list[bytes] = []
    for line in lines:
        is_odd = line.count(b'"') % 2 == 1
        if open_lines or is_odd:
            open_lines.append(line)
            if is_odd and len(open_lines) > 1:
                records.append(b"".join(open_lines))
                open_lines = []
        else:
            records.append(line)
    return records, b"".join(open_lines)


def _csv(blocks: Iterable[bytes], rows: int) -> Iterator[Piece]:
    header = b""
    for records in _records(blocks, has_quotes=True):
        while records and not header:
            header = records.pop(0).removeprefix(codecs.BOM_UTF8).strip(b"\r\n")
            header += b"\n" if header else b""
        for start in range(0, len(records), rows):  # empty lines too: in a table of one column they are nulls
            part = records[start : start + rows]
            yield Encoded("csv", header + b"".join(part), sum(1 for record in part if record.strip()))


def _ndjson(blocks: Iterable[bytes], rows: int) -> Iterator[Piece]:
    for records in _records(blocks, has_quotes=False):
        full = [record for record in records if record.strip()]
        for start in range(0, len(full), rows):
            part = full[start : start + rows]
            yield Encoded("ndjson", b"".join(part), len(part))


def _json(blocks: Iterable[bytes], rows: int) -> Iterator[Piece]:
    """Cut a list of objects, or objects one after the other, into rows, each as it was written."""
    decode = codecs.getincrementaldecoder("utf-8-sig")().decode
    scan = json.JSONDecoder().raw_decode
    text, objects = "", []
    for block in blocks:
        try:
            text += decode(block)
        except UnicodeDecodeError as error:
            raise PublishError(f"the source is not UTF-8: {error}") from None
        at = 0
        while True:
            while at < len(text) and text[at] in " \t\r\n,[]":
                at += 1
            if at == len(text):
                break
            if text[at] != "{":
                raise PublishError(f"expected a row as a JSON object, not {text[at : at + 40]!r}")
            try:
                _, end = scan(text, at)
            except json.JSONDecodeError as error:
                if len(text) - at > LONGEST_ROW_BYTES:
                    raise PublishError(f"not JSON: {error.msg} near {text[at : at + 40]!r}") from None
                break  # the rest of it may be in the next block
            except RecursionError:
                raise PublishError("JSON nested too deeply; rows are flat objects") from None
            objects.append(text[at:end].encode())
            at = end
            if len(objects) >= rows:
                yield RowsPayload(objects)
                objects = []
        text = text[at:]
        if objects:
            yield RowsPayload(objects)
            objects = []
    if text.strip():
        raise PublishError(f"not JSON: it ends within {text[:40]!r}")


class _Counted:
    """A file that tells how much was read of it."""

    closed = False

    def __init__(self, file: BinaryIO, advance: Callable[[int], None]) -> None:
        self._file, self._advance = file, advance

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._advance(len(data))
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return self._file.seekable()

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def flush(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Leave it to the one who opened it."""


def _arrow(file: _Counted) -> Iterator[Piece]:
    start = file.read(len(FILE_MAGIC))
    # A file is a stream with a head and a footer; the footer is not needed to read it from its start.
    rest: object = file if start == FILE_MAGIC else _Prefixed(start, file)
    try:
        with pa.ipc.open_stream(rest) as reader:
            yield from reader
    except (pa.ArrowException, OSError) as error:
        raise PublishError(f"not a readable Arrow IPC stream or file: {error}") from None


class _Prefixed(_Counted):
    """A file whose first bytes were already read."""

    def __init__(self, start: bytes, file: _Counted) -> None:
        self._start, self._rest = start, file

    def read(self, size: int = -1) -> bytes:
        if not self._start:
            return self._rest.read(size)
        if 0 <= size <= len(self._start):
            data, self._start = self._start[:size], self._start[size:]
            return data
        data, self._start = self._start, b""
        return data + self._rest.read(size - len(data) if size >= 0 else -1)

    def seekable(self) -> bool:
        return False


def _parquet(file: _Counted, rows: int) -> Iterator[Piece]:
    if not file.seekable():
        raise PublishError("parquet cannot be read from a pipe: give a file")
    try:
        yield from parquet.ParquetFile(file).iter_batches(batch_size=rows)
    except (pa.ArrowException, OSError) as error:
        raise PublishError(f"not a readable parquet file: {error}") from None

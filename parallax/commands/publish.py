"""`parallax publish` and `parallax host`: a file, or what comes down a pipe, into a table."""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
from pyarrow import csv, parquet
from pyarrow import json as arrow_json

from parallax.commands.progress import Progress
from parallax.errors import ConfigurationError, PublishError
from parallax.publisher import Publisher
from parallax.publisher_files import FORMATS, format_of, pieces
from parallax.publisher_spec import as_arrow

SHOWN_REFUSALS = 10
TAKEN_SECONDS = 600.0


def add_publish_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the arguments of `parallax publish`."""
    command.add_argument("table")
    command.add_argument("file", help="a file, or - for standard input")
    command.add_argument("--format", choices=FORMATS, help="default: told by the file's name")
    command.add_argument("--op", choices=("update", "replace", "remove"), default="update", help="default: update")
    command.add_argument("--follow", action="store_true", help="go on as the file grows, until Ctrl-C (csv, json, ndjson)")
    command.add_argument("--batch-rows", type=_positive, default=10_000, metavar="N", help="rows of one entry, at most")
    command.add_argument(
        "--max-backlog", type=_positive, default=100_000, metavar="N", help="wait while so many are in ingest"
    )
    command.add_argument("--no-wait", action="store_true", help="end once Redis has it, before the coordinator took it")


def add_host_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the arguments of `parallax host`."""
    command.add_argument("name", help="the table to create")
    command.add_argument("file", help="a file, or - for standard input")
    command.add_argument("--format", choices=FORMATS, help="default: told by the file's name")
    kept = command.add_mutually_exclusive_group(required=True)
    kept.add_argument("--index", metavar="COLUMN", help="the primary key's column")
    kept.add_argument("--limit", type=_positive, metavar="N", help="keep only the newest so many rows")
    kept.add_argument("--max-rows", type=_positive, metavar="N", help="neither key nor limit: refuse what goes beyond")
    command.add_argument("--writes", choices=("deny", "forward"), default="deny")
    command.add_argument(
        "--null", action="append", metavar="WORD", help="csv: a word that means null, besides nothing at all"
    )


def publish(arguments: argparse.Namespace) -> int:
    """Publish a file's rows, and say how it went."""
    kind = _format(arguments)
    if arguments.follow and kind in ("arrow", "parquet"):
        raise ConfigurationError([f"--follow cannot read {kind}"])
    with (
        _opened(arguments.file) as source,
        Publisher(arguments.redis, arguments.prefix, max_backlog=arguments.max_backlog) as to,
    ):
        progress = Progress(_size(source))
        operations = {"update": to.update, "replace": to.replace, "remove": to.remove}
        operation = operations[arguments.op]
        try:
            for piece in pieces(source, kind, rows=arguments.batch_rows, follow=arguments.follow, advance=progress.read):
                operation(arguments.table, piece)
                progress.sent(piece.num_rows if isinstance(piece, pa.RecordBatch) else piece.rows)
                if arguments.op == "replace":
                    operation = to.update  # further pieces add to the first
            if arguments.op == "replace" and not progress.entries:
                to.clear(arguments.table)
        except KeyboardInterrupt:
            if not arguments.follow:
                raise
        finally:
            progress.end()
        to.flush()
        refused = [] if arguments.no_wait else to.confirm(TAKEN_SECONDS)
    summary = {
        "table": arguments.table,
        "rows": progress.rows,
        "entries": progress.entries,
        "seconds": round(progress.seconds, 3),
        "rows_per_second": round(progress.rate),
        "refused": len(refused),
    }
    if arguments.json:
        print(json.dumps(summary | {"reasons": [refusal.reason for refusal in refused[:SHOWN_REFUSALS]]}))
    else:
        print(
            f"{arguments.table}: {progress.rows:,} rows in {progress.entries:,} entries, {progress.seconds:.1f} s, "
            f"{progress.rate:,.0f} rows/s" + ("" if not refused else f"; {len(refused)} entries refused")
        )
    for refusal in refused[:SHOWN_REFUSALS]:
        print(f"parallax: refused (entry {refusal.seq}): {refusal.reason}", file=sys.stderr)
    return 1 if refused else 0


def host(arguments: argparse.Namespace) -> int:
    """Create a table from a file, and fill it."""
    kind = _format(arguments)
    progress = Progress()
    with _opened(arguments.file) as source:
        try:
            data = _read_whole(source, kind, arguments.null or [])
        except (pa.ArrowException, ValueError, TypeError) as error:
            raise PublishError(f"{arguments.file} cannot be read as {kind}: {error}") from None
    with Publisher(arguments.redis, arguments.prefix) as publisher:
        spec = publisher.host(
            data,
            name=arguments.name,
            index=arguments.index,
            limit=arguments.limit,
            max_rows=arguments.max_rows,
            writes=arguments.writes,
        )
    progress.sent(data.num_rows)
    progress.end()
    if arguments.json:
        print(json.dumps({"spec": spec.to_json(), "rows": data.num_rows, "seconds": round(progress.seconds, 3)}))
    else:
        columns = ", ".join(f"{column} {word}" for column, word in spec.schema)
        print(f"{spec.name} ({columns}): {data.num_rows:,} rows, {progress.seconds:.1f} s, {progress.rate:,.0f} rows/s")
    return 0


def _read_whole(source: BinaryIO, kind: str, nulls: list[str]) -> pa.Table:
    """Read all rows, with the types that they seem to have: all of them count, not only the first."""
    match kind:
        case "csv":
            options = csv.ConvertOptions(
                null_values=["", *nulls], strings_can_be_null=True, quoted_strings_can_be_null=False
            )
            return csv.read_csv(source, parse_options=csv.ParseOptions(newlines_in_values=True), convert_options=options)
        case "ndjson":
            return arrow_json.read_json(source)
        case "json":
            rows = json.load(source)
            return as_arrow(rows)
        case "arrow":
            data = source.read()
            reader = pa.ipc.open_file(data) if data.startswith(b"ARROW1") else pa.ipc.open_stream(data)
            return reader.read_all()
        case _:
            return parquet.read_table(source if source.seekable() else pa.BufferReader(source.read()))


@contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    if path == "-":
        yield sys.stdin.buffer
        return
    try:
        file = Path(path).open("rb")  # noqa: SIM115 - closed below; the body's own errors are not this one
    except OSError as error:
        raise ConfigurationError([f"{path}: {error.strerror}"]) from None
    with file:
        yield file


def _size(source: BinaryIO) -> int | None:
    return os.fstat(source.fileno()).st_size or None if source.seekable() else None


def _format(arguments: argparse.Namespace) -> str:
    found: str | None = arguments.format or format_of(arguments.file)
    if found is None:
        raise ConfigurationError([f"{arguments.file}: give its --format ({', '.join(FORMATS)}): the name does not tell it"])
    return found


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(f"{text} is not above 0")
    return number

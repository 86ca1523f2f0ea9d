"""JSON to rows or columns: `[{"id": "x", "n": 3}]` (json), one such object a line (ndjson), `{"id": ["x"], "n": [3]}` (columns)."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby
from typing import Any, Self

import pyarrow as pa

from coordinator.cells import Constant, NegativeZero, column_of, shown
from coordinator.misfit import Misfit, shortened
from parallax.errors import BadEntry
from parallax.replication.spec import TableSpec

JsonRow = dict[str, Any]

MINUS_ZERO = re.compile(rb"-0[,}\]\s]")


@dataclass(frozen=True, slots=True)
class JsonRows:
    """Rows as objects. A column that a row does not name keeps its value, so rows that name others are kept apart."""

    rows: list[JsonRow]
    lines: Sequence[int] = field(default=())  # ndjson: the line of each row, counted from 1

    def __len__(self) -> int:
        return len(self.rows)

    def is_like(self, other: object) -> bool:
        """Say whether the two can be joined: rows always can."""
        return isinstance(other, JsonRows)

    def joined(self, others: Sequence[Self]) -> "JsonRows":
        """Return all rows in their order."""
        return JsonRows(list(chain(self.rows, *(other.rows for other in others))))

    def fit(self, spec: TableSpec) -> list[pa.Table]:
        """Return one table for each run of neighbouring rows that have the same columns."""
        tables = []
        first = 0
        for names, run in groupby(self.rows, key=dict.keys):
            rows = list(run)
            try:
                tables.append(_fit({name: [row[name] for row in rows] for name in names}, len(rows), spec))
            except Misfit as misfit:
                raise Misfit(misfit.reason, row=first + (misfit.row or 0), column=misfit.column) from None
            first += len(rows)
        return tables

    def place(self, row: int) -> str:
        """Return where a row is."""
        return f"line {self.lines[row]}" if self.lines else f"row {row}"


@dataclass(frozen=True, slots=True)
class JsonColumns:
    """Columns as lists of one length."""

    columns: dict[str, list[Any]]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def is_like(self, other: object) -> bool:
        """Say whether the two have the same columns."""
        return isinstance(other, JsonColumns) and self.columns.keys() == other.columns.keys()

    def joined(self, others: Sequence[Self]) -> "JsonColumns":
        """Return all rows in their order."""
        return JsonColumns(
            {name: list(chain(values, *(other.columns[name] for other in others))) for name, values in self.columns.items()}
        )

    def fit(self, spec: TableSpec) -> list[pa.Table]:
        """Return the one table."""
        return [_fit(self.columns, len(self), spec)]

    def place(self, row: int) -> str:
        """Return where a row is."""
        return f"row {row}"


def _fit(columns: dict[str, list[Any]], rows: int, spec: TableSpec) -> pa.Table:
    unknown = next((name for name in columns if name not in spec.columns), None)
    if unknown is not None:
        raise Misfit(f"unknown column {shortened(unknown)!r}; the table has {', '.join(spec.columns)}")
    if not columns and rows:
        if spec.index is not None:
            raise Misfit(f"the index column {spec.index!r} is missing; each row needs it")
        raise Misfit(f"an empty object is no row; the table has {', '.join(spec.columns)}")
    fields = [column for column in spec.arrow_schema if column.name in columns]
    return pa.Table.from_arrays([column_of(columns[column.name], column) for column in fields], schema=pa.schema(fields))


def read_json(data: bytes, most_bytes: int) -> JsonRows:
    """Return the rows that the text holds: a list of objects, or one object.

    Raises:
        BadEntry: not JSON, not rows, or it would take more than about `most_bytes` of memory.
    """
    _weigh(data, most_bytes)
    found = _load(data)
    rows = [found] if isinstance(found, dict) else found
    if not isinstance(rows, list):
        raise BadEntry(f"data must be a list of rows or one row, not {shown(rows)}")
    stranger = next((number for number, row in enumerate(rows) if type(row) is not dict), None)
    if stranger is not None:
        raise BadEntry(f'row {stranger} must be an object such as {{"column": value}}, not {shown(rows[stranger])}')
    return JsonRows(rows)


def read_ndjson(data: bytes, most_bytes: int) -> JsonRows:
    """Return the rows of a text that has one object a line; empty lines are skipped.

    Raises:
        BadEntry: a line is not one object, or it would take more than about `most_bytes` of memory.
    """
    _weigh(data, most_bytes)
    lines = [line.strip(b" \t\r") for line in data.split(b"\n")]
    full = [line for line in lines if line]
    numbers = range(1, len(full) + 1) if not any(lines[len(full) :]) else [n for n, line in enumerate(lines, 1) if line]
    # All lines are read as one list. A string cannot go on behind the newline between them, nor can an object whose values
    # are plain, if each line begins with { and ends with }: so as many rows as lines means one row a line.
    if all(line.startswith(b"{") and line.endswith(b"}") for line in full):
        whole = b"[" + b",\n".join(full) + b"]"
        try:
            rows = _load(whole)
        except BadEntry:
            rows = []
        if len(rows) == len(full):
            return JsonRows(rows, numbers)
    rows = []
    for number, line in zip(numbers, full, strict=True):
        try:
            row = _load(line)
        except BadEntry as error:
            raise BadEntry(f"line {number}: {error}") from error
        if type(row) is not dict:
            raise BadEntry(f'line {number} must be an object such as {{"column": value}}, not {shown(row)}')
        rows.append(row)
    return JsonRows(rows, numbers)


def read_columns(data: bytes, most_bytes: int) -> JsonColumns:
    """Return the columns that the text holds: an object of lists of one length.

    Raises:
        BadEntry: not JSON, not columns, or it would take more than about `most_bytes` of memory.
    """
    _weigh(data, most_bytes)
    columns = _load(data)
    if not isinstance(columns, dict):
        raise BadEntry(f'data must be an object of columns such as {{"column": [value, value]}}, not {shown(columns)}')
    lengths = {}
    for name, values in columns.items():
        if not isinstance(values, list):
            raise BadEntry(f"column {shortened(name)!r} must be a list of values, not {shown(values)}")
        lengths[name] = len(values)
    for name, length in lengths.items():
        first = next(iter(lengths))
        if length != lengths[first]:
            raise BadEntry(
                f"columns must be of one length: {shortened(first)!r} has {lengths[first]} values, {shortened(name)!r} {length}"
            )
    return JsonColumns(columns)


def _load(data: bytes) -> Any:
    # `-0` is an integer in JSON, and has a sign only where it becomes a float. Looking at each integer takes long, so:
    whole_number = _whole_number if MINUS_ZERO.search(data) else None
    try:
        return json.loads(data, object_pairs_hook=_object, parse_constant=Constant, parse_int=whole_number)
    except RecursionError:
        raise BadEntry("data is JSON nested too deeply; rows are flat objects") from None
    except ValueError as error:
        raise BadEntry(f"data is not JSON: {error}") from error


def _object(pairs: list[tuple[str, Any]]) -> JsonRow:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    names = [name for name, _ in pairs]
    twice = next(name for number, name in enumerate(names) if name in names[:number])
    raise ValueError(f"an object has {shortened(twice)!r} twice")


def _whole_number(text: str) -> int:
    return NegativeZero() if text == "-0" else int(text)


def _weigh(data: bytes, most_bytes: int) -> None:
    """Refuse JSON whose objects and lists would take more memory than an entry may, judged by its punctuation."""
    if len(data) * 30 <= most_bytes:
        return
    weight = 2 * len(data) + 250 * data.count(b"{") + 64 * (data.count(b"[") + data.count(b","))
    if weight > most_bytes:
        raise BadEntry(
            f"data is JSON that would take about {weight >> 20} MiB of memory; the most is {most_bytes >> 20} MiB: "
            "send it in smaller entries, or as Arrow"
        )

"""What a table must hold after a sequence of operations, in plain Python: no Arrow, no Perspective.

The oracle is deliberately naive. It keeps a dict or a list of rows and follows the sentences of the design one by one, so
that when it and a replica disagree, the replica is wrong or the design is.
"""

import datetime
import math
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

Value = Any  # None, str, int, float, bool, datetime.date, or a naive datetime.datetime in UTC with milliseconds
Row = Mapping[str, Value]


class TableLike(Protocol):
    """The part of a TableSpec that decides what a table holds."""

    @property
    def name(self) -> str: ...
    @property
    def schema(self) -> Sequence[tuple[str, str]]: ...
    @property
    def index(self) -> str | None: ...
    @property
    def limit(self) -> int | None: ...


class NotAllowed(Exception):
    """An operation that this kind of table does not know, or whose rows it must refuse."""


class Oracle:
    """One table, by the book.

    `rows()` is canonical: an indexed table by key, any other oldest first.
    """

    def __init__(self, table: TableLike) -> None:
        self.columns = [name for name, _ in table.schema]
        self._types = dict(table.schema)
        self._index = table.index
        self._limit = table.limit
        self._by_key: dict[Value, dict[str, Value]] = {}  # indexed tables
        self._in_order: list[dict[str, Value]] = []  # limit and plain tables

    def apply(self, op: str, rows: Sequence[Row]) -> None:
        """Apply `update`, `remove`, `replace` or `clear`; `remove` looks only at the index column of its rows."""
        operations: dict[str, Callable[[], None]] = {
            "update": lambda: self.update(rows),
            "remove": lambda: self.remove([row[self._index or ""] for row in rows]),
            "replace": lambda: self.replace(rows),
            "clear": self.clear,
        }
        operations[op]()

    def update(self, rows: Iterable[Row]) -> None:
        """Upsert by key, or append. A missing column keeps its value (a new row: null); an explicit None overwrites."""
        checked = [self._checked(row) for row in rows]
        for row in checked:
            if self._index is None:
                self._in_order.append(dict.fromkeys(self.columns) | row)
            else:
                held = self._by_key.setdefault(row[self._index], dict.fromkeys(self.columns))
                held.update(row)
        if self._limit is not None:
            del self._in_order[: max(0, len(self._in_order) - self._limit)]

    def remove(self, keys: Iterable[Value]) -> None:
        """Forget rows by key; an absent key is no error."""
        if self._index is None:
            raise NotAllowed("remove needs an index")
        for key in keys:
            self._by_key.pop(stored(key, self._types[self._index]), None)

    def replace(self, rows: Iterable[Row]) -> None:
        """Hold exactly what an update with these rows makes of an empty table."""
        rows = [self._checked(row) for row in rows]
        self.clear()
        self.update(rows)

    def clear(self) -> None:
        """Hold nothing."""
        self._by_key.clear()
        self._in_order.clear()

    def rows(self) -> list[tuple[Value, ...]]:
        """Every row as a tuple of comparable values in the order of the schema, canonical row order."""
        held = self._in_order if self._index is None else [self._by_key[key] for key in sorted(self._by_key)]
        return [tuple(comparable(row[name]) for name in self.columns) for row in held]

    def __len__(self) -> int:
        return len(self._in_order) + len(self._by_key)

    def _checked(self, row: Row) -> dict[str, Value]:
        unknown = row.keys() - self._types.keys()
        if unknown:
            raise NotAllowed(f"unknown columns {sorted(unknown)}")
        checked = {name: stored(value, self._types[name]) for name, value in row.items()}
        if self._index is not None:
            key = checked.get(self._index)
            if key is None or key != key:
                raise NotAllowed("a row of an indexed table needs a key")
        return checked


def stored(value: Value, type_word: str) -> Value:
    """The value that a column of this type holds after `value` was written: float32 rounds, all else is exact."""
    if value is None:
        return None
    if type_word == "float32":
        return struct.unpack("f", struct.pack("f", value))[0]
    if type_word in ("float", "float64"):
        return float(value)
    return value


def comparable(value: Value) -> Value:
    """`value`, such that == means the same bits: NaN equals NaN, -0.0 is not 0.0, True is not 1, 1 is not 1.0."""
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, float):
        if math.isnan(value):
            return "float NaN"
        return f"float {value!r}"
    if isinstance(value, datetime.datetime):
        return value.isoformat(timespec="microseconds")
    return value


def comparable_rows(rows: Iterable[Row], columns: Sequence[str]) -> list[tuple[Value, ...]]:
    """Rows of a replica, as dicts, in the form of `Oracle.rows()`; a row with other columns is an error."""
    comparables = []
    for row in rows:
        assert row.keys() == set(columns), f"columns {sorted(row)} instead of {sorted(columns)}"
        comparables.append(tuple(comparable(row[name]) for name in columns))
    return comparables


def difference(expected: Sequence[tuple[Value, ...]], found: Sequence[tuple[Value, ...]]) -> str:
    """Nothing if they are equal, else a few lines on where they part."""
    if list(expected) == list(found):
        return ""
    lines = [f"{len(expected)} rows expected, {len(found)} found"]
    for number, pair in enumerate(zip(expected, found, strict=False)):
        if pair[0] != pair[1]:
            lines += [f"first at row {number}:", f"  expected {pair[0]!r}", f"  found    {pair[1]!r}"]
            break
    expected_set, found_set = set(expected), set(found)
    missing = [row for row in expected if row not in found_set]
    extra = [row for row in found if row not in expected_set]
    lines += [f"{len(missing)} rows missing, such as {missing[:2]!r}", f"{len(extra)} too many, such as {extra[:2]!r}"]
    return "\n".join(lines)

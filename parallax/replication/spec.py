"""What a table is: its columns, its primary key or limit, and who may write to it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, cast

import pyarrow as pa

from parallax.errors import ConfigurationError

ARROW_TYPES: dict[str, pa.DataType] = {
    "string": pa.string(),
    "integer": pa.int32(),
    "float": pa.float64(),
    "boolean": pa.bool_(),
    "date": pa.date32(),
    "datetime": pa.timestamp("ms"),  # an instant in UTC; the engine keeps no zone
    "int8": pa.int8(),
    "int16": pa.int16(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "uint8": pa.uint8(),
    "uint16": pa.uint16(),
    "uint32": pa.uint32(),
    "uint64": pa.uint64(),
    "float32": pa.float32(),
    "float64": pa.float64(),
}
"""The type words of a schema, and the Arrow type that carries each exactly."""

NOT_AN_INDEX = {"boolean", "float", "float32", "float64"}
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,99}")
"""Table names: they become part of Redis keys, so no braces, blanks or colons."""

Writes = Literal["deny", "forward"]
_KEYS = {"schema", "index", "limit", "max_rows", "max_bytes", "writes"}


@dataclass(frozen=True)
class TableSpec:
    """The declaration of one table.

    `schema` holds (column, type word) pairs in order. A table has an `index` (its primary key: not to be confused with a
    place in a log), or a `limit` (it keeps the newest so many rows), or neither; then `max_rows` or `max_bytes` bounds it.
    """

    name: str
    schema: tuple[tuple[str, str], ...]
    index: str | None = None
    limit: int | None = None
    max_rows: int | None = None
    max_bytes: int | None = None
    writes: Writes = "deny"

    @cached_property
    def columns(self) -> list[str]:
        """The column names, in order."""
        return [name for name, _ in self.schema]

    @cached_property
    def arrow_schema(self) -> pa.Schema:
        """The Arrow schema that carries this table exactly."""
        return pa.schema([pa.field(name, ARROW_TYPES[word]) for name, word in self.schema])

    def to_json(self) -> dict[str, Any]:
        """Return this spec as plain JSON values; `from_json` reads it back."""
        values: dict[str, Any] = {"name": self.name, "schema": [list(pair) for pair in self.schema]}
        for key in ("index", "limit", "max_rows", "max_bytes"):
            value = getattr(self, key)
            if value is not None:
                values[key] = value
        values["writes"] = self.writes
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "TableSpec":
        """Read what `to_json` wrote.

        Raises:
            ConfigurationError: the values are no valid spec.
        """
        schema = values.get("schema")
        if isinstance(schema, list):
            schema = {pair[0]: pair[1] for pair in schema if isinstance(pair, list) and len(pair) == 2}
        body = {key: value for key, value in values.items() if key in _KEYS}
        return cls.declare(str(values.get("name")), body | {"schema": schema})

    @classmethod
    def declare(cls, name: str, body: Mapping[str, Any]) -> "TableSpec":
        """Check a declaration as it stands in a tables file and return the spec.

        Raises:
            ConfigurationError: with one line for each thing that is wrong.
        """
        problems = list(_problems(name, body))
        if problems:
            raise ConfigurationError([f"table {name!r}: {problem}" for problem in problems])
        schema = tuple((column, word) for column, word in body["schema"].items())
        numbers = {key: body.get(key) for key in ("limit", "max_rows", "max_bytes")}
        writes = cast(Writes, body.get("writes", "deny"))
        return cls(name, schema, body.get("index"), numbers["limit"], numbers["max_rows"], numbers["max_bytes"], writes)


def _problems(name: str, body: Mapping[str, Any]) -> list[str]:
    found = []
    if not NAME.fullmatch(name):
        found.append("a name is a letter or _, then up to 99 letters, digits, and any of _ . -")
    for key in sorted(set(body) - _KEYS):
        found.append(f"unknown setting {key!r}; known are {', '.join(sorted(_KEYS))}")
    schema = body.get("schema")
    if not isinstance(schema, Mapping) or not schema:
        found.append("needs a schema that maps each column to its type")
        schema = {}
    for column, word in schema.items():
        if not isinstance(column, str) or not column or column.startswith(("__", "psp_")) or "\0" in column:
            found.append(f"column {column!r}: a column name is text that does not begin with '__' or 'psp_'")
        elif word not in ARROW_TYPES:
            found.append(f"column {column!r}: unknown type {word!r}; known are {', '.join(ARROW_TYPES)}")
    index = body.get("index")
    if index is not None and index not in schema:
        found.append(f"index {index!r} is not a column of the schema")
    elif index is not None and schema[index] in NOT_AN_INDEX:
        found.append(f"index {index!r} is of type {schema[index]}, which cannot be a primary key")
    for key in ("limit", "max_rows", "max_bytes"):
        value = body.get(key)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**31):
            found.append(f"{key} must be a whole number from 1 to {2**31 - 1}, not {value!r}")
    if index is not None and body.get("limit") is not None:
        found.append("has an index and a limit; the engine takes only one of them")
    if index is None and all(body.get(key) is None for key in ("limit", "max_rows", "max_bytes")):
        found.append("has no index and no limit, so it would grow for ever: give it max_rows or max_bytes")
    if body.get("writes", "deny") not in ("deny", "forward"):
        found.append(f"writes must be deny or forward, not {body.get('writes')!r}")
    return found

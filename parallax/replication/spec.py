"""What a table is: its columns, its primary key or limit, and who may write to it."""

import hashlib
import json
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

MAX_COLUMNS = 1000

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

    @property
    def shape(self) -> tuple[object, ...]:
        """What cannot change while the table's rows and views stay: columns, index and limit."""
        return (self.schema, self.index, self.limit)

    @cached_property
    def fingerprint(self) -> str:
        """A short text that differs for specs that differ."""
        return hashlib.blake2b(json.dumps(self.to_json()).encode(), digest_size=8).hexdigest()

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
        problems = find_problems(name, body)
        if problems:
            raise ConfigurationError([f"table {name!r}: {problem.text}" for problem in problems])
        schema = tuple((column, word) for column, word in body["schema"].items())
        numbers = {key: body.get(key) for key in ("limit", "max_rows", "max_bytes")}
        writes = cast(Writes, body.get("writes", "deny"))
        return cls(name, schema, body.get("index"), numbers["limit"], numbers["max_rows"], numbers["max_bytes"], writes)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a declaration: where in it (keys, from the outside in), and what."""

    path: tuple[str, ...]
    text: str


def find_problems(name: str, body: Mapping[str, Any]) -> list[Problem]:
    """Return everything that is wrong with a declaration as it stands in a tables file."""
    found: list[Problem] = []

    def say(text: str, *path: str) -> None:
        found.append(Problem(path, text))

    if not NAME.fullmatch(name):
        say("a name is a letter or _, then up to 99 letters, digits, and any of _ . -")
    for key in sorted(set(body) - _KEYS):
        say(f"unknown setting {key!r}; known are {', '.join(sorted(_KEYS))}", key)
    schema = body.get("schema")
    if not isinstance(schema, Mapping) or not schema:
        say("needs a schema that maps each column to its type", "schema")
        schema = {}
    if len(schema) > MAX_COLUMNS:
        say(f"has {len(schema)} columns; at most {MAX_COLUMNS} are allowed", "schema")
    for column, word in schema.items():
        if not isinstance(column, str) or not column or column.startswith(("__", "psp_")) or "\0" in column:
            say(f"column {column!r}: a column name is text that does not begin with '__' or 'psp_'", "schema", str(column))
        elif not isinstance(word, str) or word not in ARROW_TYPES:
            say(f"column {column!r}: unknown type {word!r}; known are {', '.join(ARROW_TYPES)}", "schema", column)
    index, limit = body.get("index"), body.get("limit")
    if index is not None and (not isinstance(index, str) or index not in schema):
        say(f"index {index!r} is not a column of the schema", "index")
    elif index is not None and schema[index] in NOT_AN_INDEX:
        say(f"index {index!r} is of type {schema[index]}, which cannot be a primary key", "index")
    for key, highest in (("limit", 2**31 - 1), ("max_rows", 2**31 - 1), ("max_bytes", 2**40)):
        value = body.get(key)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= highest):
            say(f"{key} must be a whole number from 1 to {highest}, not {value!r}", key)
    if index is not None and limit is not None:
        say("has an index and a limit; the engine takes only one of them", "limit")
    bounds = [key for key in ("max_rows", "max_bytes") if body.get(key) is not None]
    if index is None and limit is None and not bounds:
        say("has no index and no limit, so it would grow for ever: give it max_rows or max_bytes")
    if (index is not None or limit is not None) and bounds:
        say(f"{bounds[0]} is for tables without index and limit, which otherwise only grow", bounds[0])
    if body.get("writes", "deny") not in ("deny", "forward"):
        say(f"writes must be deny or forward, not {body.get('writes')!r}", "writes")
    return found

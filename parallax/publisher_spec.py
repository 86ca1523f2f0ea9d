"""Which table fits given data: a TableSpec from an Arrow schema."""

from typing import Any

import pyarrow as pa
from pyarrow import types

from parallax.errors import ConfigurationError, PublishError
from parallax.replication.spec import TableSpec

EXACT = {
    pa.bool_(): "boolean",
    pa.int8(): "int8",
    pa.int16(): "int16",
    pa.int32(): "integer",
    pa.int64(): "int64",
    pa.uint8(): "uint8",
    pa.uint16(): "uint16",
    pa.uint32(): "uint32",
    pa.uint64(): "uint64",
    pa.float16(): "float32",
    pa.float32(): "float32",
    pa.float64(): "float",
    pa.date32(): "date",
    pa.date64(): "date",
}


def infer_spec(name: str, schema: pa.Schema, **body: Any) -> TableSpec:
    """Return the spec of a table that can hold data of this schema; `body` has its index, limit, max_rows or writes.

    Raises:
        ConfigurationError: with one line for each column that no table can hold, and for all else that is wrong.
    """
    words = {field.name: _word(field.type) for field in schema}
    problems = [
        f"column {name!r} is {schema.field(name).type}, which a Perspective table cannot hold: cast it, or leave it out"
        for name, word in words.items()
        if word is None
    ]
    if len(words) != len(schema):
        problems.append("a column name is given twice")
    declared = {key: value for key, value in body.items() if value is not None}
    try:
        spec = TableSpec.declare(name, declared | {"schema": {column: word or "string" for column, word in words.items()}})
    except ConfigurationError as error:
        problems += error.problems
    if problems:
        raise ConfigurationError(problems)
    return spec


def _word(kind: pa.DataType) -> str | None:
    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return "string"
    if types.is_timestamp(kind):
        return "datetime"
    return EXACT.get(kind)


def as_arrow(data: object) -> object:
    """Return rows or columns as an Arrow table, so that they have a schema; what speaks Arrow stays as it is.

    Raises:
        TypeError, ValueError, pyarrow.ArrowException: the values of a column are not of one type.
    """
    if hasattr(data, "__arrow_c_stream__") or hasattr(data, "__arrow_c_array__"):
        return data
    if isinstance(data, dict):
        return pa.table(data)
    rows = list(data) if not isinstance(data, str | bytes) and hasattr(data, "__iter__") else None
    if rows is None or not all(isinstance(row, dict) for row in rows):
        raise TypeError(f"cannot host {type(data).__name__}: give Arrow, a list of rows, or a dict of columns to lists")
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: [row.get(name) for row in rows] for name in names})


def index_of(spec: TableSpec | None, table: str) -> str:
    """Return the index of a table.

    Raises:
        PublishError: it has none, or nobody declared the table yet.
    """
    if spec is None:
        raise PublishError(f"table {table!r} is not known yet: is a coordinator running?")
    if spec.index is None:
        raise PublishError(f"table {table!r} has no index, so rows cannot be removed by key")
    return spec.index

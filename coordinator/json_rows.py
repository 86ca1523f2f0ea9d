"""JSON rows to Arrow, strictly: `[{"id": "x", "delay": 3}, ...]`, or one such object."""

import json
import math
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from typing import Any

import pyarrow as pa

from parallax.errors import BadEntry
from parallax.replication.spec import TableSpec

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EPOCH_DAY = date(1970, 1, 1)
MILLISECOND = timedelta(milliseconds=1)


JsonRow = dict[str, Any]


def read_json(data: bytes) -> list[JsonRow]:
    """Return the rows that the text holds.

    Raises:
        BadEntry: not JSON, or not rows.
    """
    try:
        rows = json.loads(data, object_pairs_hook=_row, parse_constant=_constant)
    except RecursionError:
        raise BadEntry("data is JSON nested too deeply; rows are flat objects") from None
    except ValueError as error:
        raise BadEntry(f"data is not JSON: {error}") from error
    if isinstance(rows, dict):
        rows = [rows]
    if not isinstance(rows, list):
        raise BadEntry(f"data must be a list of rows or one row, not {type(rows).__name__}")
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise BadEntry(f'row {number} must be an object such as {{"column": value}}, not {_shown(row)}')
    return rows


def fit_json(rows: list[JsonRow], spec: TableSpec) -> list[pa.Table]:
    """Return one table for each run of neighbouring rows that have the same columns.

    Raises:
        BadEntry: a value that its column cannot hold exactly, or an unknown column; with the row and the column.
    """
    columns = set(spec.columns)
    tables = []
    first = 0
    for names, run in groupby(rows, key=dict.keys):
        values = list(run)
        if not names <= columns:
            unknown = next(name for name in names if name not in columns)
            raise BadEntry(f"row {first}: unknown column {unknown[:80]!r}; the table has {', '.join(spec.columns)}")
        fields = [field for field in spec.arrow_schema if field.name in names]
        if not fields:
            if spec.index is not None:
                raise BadEntry(f"row {first}: the index column {spec.index!r} is missing; each row needs it")
            raise BadEntry(f"row {first}: an empty object is no row; the table has {', '.join(spec.columns)}")
        arrays = [_column([row[field.name] for row in values], field, first) for field in fields]
        tables.append(pa.Table.from_arrays(arrays, schema=pa.schema(fields)))
        first += len(values)
    return tables


class _Constant(float):
    """NaN, Infinity or -Infinity, spelled out; an infinity that is not one of these was a number too large for a float."""


def _constant(word: str) -> float:
    return _Constant(word)


def _row(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"an object has {twice[:80]!r} twice")
    return row


def _column(values: list[Any], field: pa.Field, first_row: int) -> pa.Array:
    """Return the values as the field's type, each exactly as sent."""
    check: Callable[[Any], Any] = _CHECKS.get(str(field.type), _integer)
    kinds = set(map(type, values))
    plain = _PLAIN.get(str(field.type), {int, type(None)})
    if not kinds <= plain:
        checked = []
        for number, value in enumerate(values):
            try:
                checked.append(None if value is None else check(value))
            except (ValueError, OverflowError) as error:
                raise BadEntry(f"row {first_row + number}, column {field.name!r}: {_shown(value)} {error}") from error
        values = checked
    if pa.types.is_floating(field.type):
        values = _floats(values, field, first_row)
    try:
        return pa.array(values, type=field.type, from_pandas=False)
    except (pa.ArrowException, OverflowError, UnicodeError, ValueError, TypeError):
        raise _find_culprit(values, field, first_row) from None


def _floats(values: list[Any], field: pa.Field, first_row: int) -> list[float | None]:
    """Return the values as floats; whole numbers only where the type holds them exactly, and none that would become infinite."""
    highest = 3.4028235677973366e38 if pa.types.is_float32(field.type) else math.inf
    whole = 2**24 if pa.types.is_float32(field.type) else 2**53
    floats: list[float | None] = []
    for number, value in enumerate(values):
        if value is None:
            floats.append(None)
            continue
        try:
            converted = float(value)
        except OverflowError:
            converted = math.inf
        is_kept = type(value) is float or abs(value) <= whole or (whole > 2**24 and converted == value)
        if type(value) is not _Constant and not (is_kept and abs(converted) < highest):
            raise BadEntry(
                f"row {first_row + number}, column {field.name!r}: {_shown(value)} does not fit {field.type} exactly"
            )
        floats.append(converted)
    return floats


def _find_culprit(values: list[Any], field: pa.Field, first_row: int) -> BadEntry:
    for number, value in enumerate(values):
        try:
            pa.array([value], type=field.type, from_pandas=False)
        except (pa.ArrowException, OverflowError, UnicodeError, ValueError, TypeError):
            return BadEntry(f"row {first_row + number}, column {field.name!r}: {_shown(value)} does not fit {field.type}")
    return BadEntry(f"column {field.name!r}: the values do not fit {field.type}")


def _integer(value: Any) -> int:
    if type(value) is int:
        return value
    if type(value) is float and value.is_integer() and abs(value) <= 2**53:
        return int(value)
    raise ValueError("is not a whole number")


def _float(value: Any) -> float:
    if type(value) in (int, float, _Constant):
        return value  # type: ignore[no-any-return]
    raise ValueError("is not a number")


def _boolean(value: Any) -> bool:
    if type(value) is bool:
        return value
    raise ValueError("is not true or false")


def _string(value: Any) -> str:
    if type(value) is str:
        return value
    raise ValueError("is not text")


def _datetime(value: Any) -> int:
    """Return milliseconds since 1970 in UTC; text without a zone is UTC."""
    if type(value) is int:
        return value
    if type(value) is not str:
        raise ValueError(
            'is not a time: give ISO 8601 text such as "2013-01-01T10:00:00Z", or milliseconds since 1970 (UTC)'
        )
    try:
        instant = datetime.fromisoformat(value)
    except ValueError:
        raise ValueError('is not a time in ISO 8601, such as "2013-01-01T10:00:00Z"') from None
    since = (instant if instant.tzinfo else instant.replace(tzinfo=UTC)) - EPOCH
    if since % MILLISECOND:
        raise ValueError("is finer than a millisecond, which is what the table keeps")
    return since // MILLISECOND


def _date(value: Any) -> int:
    """Return days since 1970."""
    if type(value) is str:
        try:
            return (date.fromisoformat(value) - EPOCH_DAY).days
        except ValueError:
            pass
    raise ValueError('is not a date such as "2013-01-31"')


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "string": _string,
    "bool": _boolean,
    "double": _float,
    "float": _float,
    "timestamp[ms]": _datetime,
    "date32[day]": _date,
}
_NONE = type(None)
_PLAIN: dict[str, set[type]] = {
    "string": {str, _NONE},
    "bool": {bool, _NONE},
    "double": {float, int, _Constant, _NONE},
    "float": {float, int, _Constant, _NONE},
    "timestamp[ms]": {int, _NONE},
    "date32[day]": {_NONE},
}
"""Python types that need no look at each value."""


def _shown(value: Any) -> str:
    shown = json.dumps(value) if not isinstance(value, int) or abs(value) < 10**40 else "a number of over 40 digits"
    return shown if len(shown) <= 80 else shown[:77] + "..."

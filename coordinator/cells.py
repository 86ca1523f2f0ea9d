"""Values as JSON has them, to Arrow columns: each exactly as sent, or a Misfit that says which is not."""

import json
import math
from collections.abc import Callable, Sequence
from datetime import date
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from coordinator.misfit import Misfit, shortened
from coordinator.moments import date_of, dates, moment_of, moments

ARROW_ERRORS = (pa.ArrowException, OverflowError, UnicodeError, ValueError, TypeError)
"""What pyarrow raises for values that it cannot convert."""


class Constant(float):
    """NaN, Infinity or -Infinity, spelled out; another infinity was a number too large for a float."""


class NegativeZero(int):
    """The number `-0`, which is an integer in JSON, and has a sign where it becomes a float."""


def column_of(values: Sequence[Any], field: pa.Field) -> pa.Array:
    """Return JSON values as the field's type.

    Raises:
        Misfit: a value that the type cannot hold exactly; its row is the place in `values`.
    """
    kinds = set(map(type, values)) - {type(None)}
    if pa.types.is_floating(field.type):
        return _float_column(values, kinds, field)
    if kinds == {str} and (pa.types.is_timestamp(field.type) or pa.types.is_date32(field.type)):
        texts = _array(values, pa.string(), field)
        return moments(texts, field.name) if pa.types.is_timestamp(field.type) else dates(texts, field.name)
    check = _CHECKS.get(field.type, _integer)
    if not kinds <= _PLAIN.get(field.type, {int}):
        values = _checked(values, check, field)
    return _array(values, field.type, field)


def _checked(values: Sequence[Any], check: Callable[[Any], Any], field: pa.Field) -> list[Any]:
    checked = []
    for row, value in enumerate(values):
        try:
            checked.append(None if value is None else check(value))
        except (ValueError, OverflowError) as error:
            raise Misfit(f"{shown(value)} {error}", row=row, column=field.name) from None
    return checked


def _array(values: Sequence[Any], kind: pa.DataType, field: pa.Field) -> pa.Array:
    try:
        made = pa.array(values, type=kind, from_pandas=False)
        return made.combine_chunks() if isinstance(made, pa.ChunkedArray) else made
    except ARROW_ERRORS:
        pass
    for row, value in enumerate(values):
        try:
            pa.array([value], type=kind, from_pandas=False)
        except ARROW_ERRORS:
            raise Misfit(f"{shown(value)} does not fit {field.type}", row=row, column=field.name) from None
    raise Misfit(f"the values do not fit {field.type}", column=field.name)


def _float_column(values: Sequence[Any], kinds: set[type], field: pa.Field) -> pa.Array:
    """Return the values as floats: whole numbers only where the type holds them exactly, none that would become infinite."""
    whole = 2**24 if pa.types.is_float32(field.type) else 2**53
    is_plain = kinds <= {float, int}
    if is_plain and int in kinds:
        integers = [value for value in values if type(value) is int]
        is_plain = -whole <= min(integers) and max(integers) <= whole
    if is_plain:
        made = _array(values, field.type, field)
        if not pc.any(pc.is_inf(made)).as_py():
            return made
    highest = 3.4028235677973366e38 if pa.types.is_float32(field.type) else math.inf

    def convert(value: Any) -> float:
        if type(value) in (Constant, NegativeZero):
            return float(value) if type(value) is Constant else -0.0
        if type(value) not in (int, float):
            raise ValueError("is not a number")
        try:
            converted = float(value)
        except OverflowError:
            converted = math.inf
        if not abs(converted) < highest:
            raise ValueError(f"does not fit {field.type}: it is too large")
        if type(value) is int and abs(value) > whole and _rounded(converted, field.type) != value:
            raise ValueError(f"does not fit {field.type} exactly")
        return converted

    return _array(_checked(values, convert, field), field.type, field)


def _rounded(value: float, kind: pa.DataType) -> float:
    """Return what a column of this type keeps of `value`."""
    return value if pa.types.is_float64(kind) else float(pa.scalar(value, kind).as_py())


def _integer(value: Any) -> int:
    if type(value) in (int, NegativeZero):
        return int(value)
    if type(value) is float and value.is_integer() and abs(value) <= 2**53:
        return int(value)
    raise ValueError("is not a whole number")


def _boolean(value: Any) -> bool:
    if type(value) is bool:
        return value
    raise ValueError("is not true or false")


def _string(value: Any) -> str:
    if type(value) is str:
        return value
    raise ValueError("is not text")


def _moment(value: Any) -> int:
    if type(value) is int:
        return value
    if type(value) is str:
        return moment_of(value)
    raise ValueError('is not a time: give ISO 8601 text such as "2013-01-01T10:00:00Z", or milliseconds since 1970 (UTC)')


def _date(value: Any) -> date:
    if type(value) is str:
        return date_of(value)
    raise ValueError('is not a date such as "2013-01-31"')


_CHECKS: dict[pa.DataType, Callable[[Any], Any]] = {
    pa.string(): _string,
    pa.bool_(): _boolean,
    pa.timestamp("ms"): _moment,
    pa.date32(): _date,
}
_PLAIN: dict[pa.DataType, set[type]] = {pa.string(): {str}, pa.bool_(): {bool}, pa.date32(): set()}
"""Python types that need no look at each value; for all other types: int."""


def shown(value: Any) -> str:
    """Return a value as a message shows it."""
    if isinstance(value, int) and abs(value) >= 10**40:
        return "a number of over 40 digits"
    if isinstance(value, str):
        return shortened(json.dumps(value[:100]))
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    return shortened(json.dumps(value))

"""Dates and times from text, ISO 8601: `2013-01-31`, `2013-01-31T10:00:00.250Z`, `2013-01-31 10:00+01:00`.

Text without a zone is UTC. A time finer than a millisecond is refused, unless the finer digits are zeros.
"""

import re
from collections.abc import Callable
from datetime import date, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from coordinator.misfit import Misfit, shortened

EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - offsets are applied as numbers: an instant may lie before year 1
MILLISECOND = timedelta(milliseconds=1)
FIRST_DAY = (date.min - EPOCH.date()).days
LAST_DAY = (date.max - EPOCH.date()).days
YEAR_ONE_MS = (FIRST_DAY + 1) * 86_400_000

ZONE = re.compile(r"[Zz]$|:.*[+-]")
DATE = re.compile(r"(\d{4})-(\d\d)-(\d\d)", re.ASCII)
TIME = re.compile(
    DATE.pattern + r"(?:[Tt ](\d\d)(?::(\d\d)(?::(\d\d)(?:[.,](\d+))?)?)?(?:[Zz]|([+-])(\d\d)(?::?(\d\d))?)?)?", re.ASCII
)


def moments(texts: pa.StringArray, column: str) -> pa.Array:
    """Return times as milliseconds since 1970.

    Raises:
        Misfit: a text that is no time, or finer than a millisecond.
    """
    # Arrow's own parser takes a subset of what `moment_of` does, many times faster, if all have a zone as the first has, or none.
    first = next((text for text in texts if text.is_valid), None)
    has_zone = first is not None and ZONE.search(first.as_py()) is not None
    try:
        made = texts.cast(pa.timestamp("ms", "UTC") if has_zone else pa.timestamp("ms")).cast(pa.timestamp("ms"))
    except pa.ArrowException:
        return pa.array(_each(texts, moment_of, column), pa.timestamp("ms"))
    lowest = pc.min(made.cast(pa.int64())).as_py()
    if lowest is not None and lowest < YEAR_ONE_MS:  # Arrow knows a year 0
        return pa.array(_each(texts, moment_of, column), pa.timestamp("ms"))
    return made


def dates(texts: pa.StringArray, column: str) -> pa.Array:
    """Return dates as days since 1970.

    Raises:
        Misfit: a text that is no date.
    """
    try:
        made = texts.cast(pa.date32())
    except pa.ArrowException:
        return pa.array(_each(texts, date_of, column), pa.date32())
    return made


def _each(texts: pa.StringArray, read: Callable[[str], object], column: str) -> list[object]:
    found: list[object] = []
    for row, text in enumerate(texts.to_pylist()):
        try:
            found.append(None if text is None else read(text))
        except ValueError as error:
            raise Misfit(f'"{shortened(text)}" {error}', row=row, column=column) from None
    return found


def date_of(text: str) -> date:
    """Return the date that a text says.

    Raises:
        ValueError: it says none; the words go on after the text itself.
    """
    found = DATE.fullmatch(text)
    try:
        if found:
            return date(*map(int, found.groups()))
    except ValueError:
        pass
    raise ValueError('is not a date such as "2013-01-31"')


def moment_of(text: str) -> int:
    """Return the milliseconds from 1970 (UTC) to the instant that a text says.

    Raises:
        ValueError: it says none, or one finer than a millisecond; the words go on after the text itself.
    """
    found = TIME.fullmatch(text)
    if not found:
        raise ValueError('is not a time in ISO 8601, such as "2013-01-01T10:00:00Z"')
    *parts, fraction, sign, hours, minutes = found.groups()
    year, month, day, hour, minute, second = (int(part or 0) for part in parts)
    try:
        local = datetime(year, month, day, hour, minute, second)  # noqa: DTZ001 - as above
    except ValueError as error:
        raise ValueError(f"is not a time: {error}") from None
    offset = int(hours or 0) * 60 + int(minutes or 0)
    if offset >= 24 * 60 or int(minutes or 0) >= 60:
        raise ValueError("is not a time: its zone is not within 24 hours of UTC")
    if (fraction or "")[3:].strip("0"):
        raise ValueError("is finer than a millisecond, which is what the table keeps")
    milliseconds = int((fraction or "")[:3].ljust(3, "0"))
    since = (local - EPOCH) // MILLISECOND + milliseconds
    return since - (offset * 60_000 if sign == "+" else -offset * 60_000)

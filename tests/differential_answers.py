"""When two answers of Perspective's protocol say the same, whatever ids they carry and in whatever order maps come."""

import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from node.gateway import messages
from parallax.wire import SERVER_ERROR, Envelope


class Different(AssertionError):
    """The gateway and Perspective do not say the same."""


def compare(number: int, answer: Envelope, stock: Envelope | None) -> None:
    """Compare two answers to a request of this kind, whatever their ids."""
    if stock is None or answer.number != stock.number:
        raise Different(f"request {number} is answered by {answer}, and by {stock}")
    read = READERS.get(number) if answer.number != SERVER_ERROR else None
    if read is not None:
        same_values(read(answer.body), read(stock.body), f"request {number}")
    elif answer.number != SERVER_ERROR and answer.body != stock.body:
        raise Different(f"request {number}: {answer.body!r} is not {stock.body!r}")


def same_values(mine: Any, stock: Any, where: str) -> None:
    """Compare values, floats within a billionth."""
    if isinstance(mine, float) and isinstance(stock, float):
        if mine == stock or (mine != mine and stock != stock) or abs(mine - stock) <= 1e-9 * max(1.0, abs(mine), abs(stock)):
            return
    elif isinstance(mine, list) and isinstance(stock, list):
        if len(mine) != len(stock):
            raise Different(f"{where}: {len(mine)} instead of {len(stock)}: {mine} is not {stock}")
        for at, (one, other) in enumerate(zip(mine, stock, strict=True)):
            same_values(one, other, f"{where}, {at}")
        return
    elif isinstance(mine, dict) and isinstance(stock, dict):
        same_values(list(mine), list(stock), f"{where}, names")
        for name in mine:
            same_values(mine[name], stock[name], f"{where}, {name!r}")
        return
    elif mine == stock:
        return
    raise Different(f"{where}: {mine!r} is not {stock!r}")


def fields(body: bytes) -> list[tuple[int, Any]]:
    """Read any message: its fields' numbers and raw values, in order."""
    found: list[tuple[int, Any]] = []
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = body[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(body):
        tag = varint()
        size = {1: 8, 5: 4}.get(tag & 7)
        if tag & 7 == 0:
            found.append((tag >> 3, varint()))
            continue
        if tag & 7 == 2:
            size = varint()
        assert size is not None
        found.append((tag >> 3, body[at : at + size]))
        at += size
    return found


def payload(body: bytes) -> bytes:
    """Return the first field."""
    return bytes(fields(body)[0][1]) if body else b""


def arrow_of(body: bytes) -> dict[str, list[Any]]:
    """Read an Arrow stream: columns, with their types among the names."""
    table = pa.ipc.open_stream(payload(body)).read_all()
    columns = [table.column(at) for at in range(table.num_columns)]
    return {f"{name}: {column.type}": plain(column) for name, column in zip(table.column_names, columns, strict=True)}


def plain(column: pa.ChunkedArray) -> list[Any]:
    """Return a column's values, dates and moments as numbers: some aggregates of them lie beyond the calendar."""
    if pa.types.is_temporal(column.type):
        column = column.cast(pa.int32() if pa.types.is_date32(column.type) else pa.int64())
    values: list[Any] = column.to_pylist()
    return values


def rows_of(body: bytes) -> Any:
    """Read what a subscriber for rows is sent."""
    content = payload(body)
    return [arrow_of(body), fields(body)[1:]] if content else fields(body)


def csv_of(body: bytes) -> list[Any]:
    """Read CSV as lines of cells, numbers as numbers."""

    def cell(text: str) -> Any:
        try:
            return float(text)
        except ValueError:
            return text

    return [[cell(text) for text in line.split(",")] for line in payload(body).decode().splitlines()]


def entries(body: bytes) -> list[Any]:
    """Read a message that holds a map: in any order."""
    return sorted(fields(body))


def config_of(body: bytes) -> list[Any]:
    """Read a configuration: the maps in it (expressions, aggregates, windows) come in any order."""
    found = fields(payload(body))
    return [field for field in found if field[0] not in (6, 7, 11)] + sorted(
        field for field in found if field[0] in (6, 7, 11)
    )


READERS: dict[int, Callable[[bytes], Any]] = {
    7: lambda body: entries(payload(body)),
    13: entries,
    14: config_of,
    15: entries,
    16: arrow_of,
    24: lambda body: json.loads(payload(body)),
    25: csv_of,
    26: lambda body: json.loads(payload(body)),
    36: lambda body: [json.loads(line) for line in payload(body).splitlines()],
    41: lambda body: messages.parse("Description", body),
}

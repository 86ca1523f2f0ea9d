"""Viewers' edits, read into what a publisher would have sent.

A datagrid names the row that it changed by `__INDEX__`, which stands for the table's index column.
"""

import json
from collections.abc import Awaitable, Callable
from typing import Any

from node.auth import Access
from node.gateway import messages
from parallax.replication.record import Op
from parallax.replication.spec import TableSpec
from parallax.wire import Refused

REMOVE, REPLACE, UPDATE = 31, 32, 33
EDITS = {REMOVE: Op.REMOVE, REPLACE: Op.REPLACE, UPDATE: Op.UPDATE}
NAMES = {REMOVE: "TableRemove", REPLACE: "TableReplace", UPDATE: "TableUpdate"}
KEY = "__INDEX__"
FORMATS = {"rows": "json", "cols": "columns", "ndjson": "ndjson", "csv": "csv", "arrow": "arrow"}

Publish = Callable[[str, Op, str, bytes], Awaitable[None]]
"""Publishes (table, operation, format, data), and returns when readers here see it. Raises Refused."""


async def publish(number: int, body: bytes, spec: TableSpec, access: Access, to: Publish) -> None:
    """Publish an edit, if the table takes any, and from this viewer.

    Raises:
        Refused: it takes none, or this is none for it; or as `to`.
    """
    if spec.writes != "forward":
        raise Refused(f"{NAMES[number]} is refused: tables are read-only for viewers, unless they declare `writes: forward`")
    if not access.may_write(spec.name):
        raise Refused(f"{NAMES[number]} is refused: the viewer's token does not let him write this table")
    await to(spec.name, *read(number, body, spec))


def read(number: int, body: bytes, spec: TableSpec) -> tuple[Op, str, bytes]:
    """Return the operation, the format and the data of an edit.

    Raises:
        Refused: it means nothing for this table, or is not data.
    """
    data = messages.parse("Edit", body).data
    kind = data.WhichOneof("data")
    if kind is None:
        raise Refused("an edit without data")
    op, content = EDITS[number], getattr(data, kind)
    if op is Op.REMOVE and spec.index is None:
        raise Refused(f"table {spec.name!r} has no index: no row of it can be named, and none be removed")
    if kind == "arrow":
        if KEY.encode() in content:
            raise Refused(f"arrow data name the index column itself, not {KEY}")
        return op, "arrow", content
    if kind == "csv":
        head, line_end, rest = content.partition("\n")
        return op, "csv", (head.replace(KEY, _index(spec)) if KEY in head else head).encode() + (line_end + rest).encode()
    if kind == "rows" and content.strip() == "[]":
        return (Op.CLEAR, "", b"") if op is Op.REPLACE else (op, "json", b"[]")
    if KEY in content or op is Op.REMOVE:
        content = _named(kind, content, spec)
    return op, FORMATS[kind], content.encode()


def _index(spec: TableSpec) -> str:
    if spec.index is None:
        raise Refused(f"table {spec.name!r} has no index: {KEY} names no row that others have, too")
    return spec.index


def _named(kind: str, content: str, spec: TableSpec) -> str:
    try:
        if kind == "ndjson":
            return "\n".join(json.dumps(_row(json.loads(line), spec)) for line in content.splitlines() if line.strip())
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Refused(f"this is no JSON: {error}") from None
    if kind == "rows" and isinstance(value, list):
        return json.dumps([_row(row, spec) for row in value])
    return json.dumps(_row(value, spec))


def _row(row: Any, spec: TableSpec) -> Any:
    """Return a row, or columns, under the index column's own name; keys alone are rows of it."""
    if not isinstance(row, dict):
        return {_index(spec): row}
    if KEY not in row:
        return row
    if _index(spec) in row and row[_index(spec)] != row[KEY]:
        raise Refused(f"{KEY} and {spec.index!r} name two rows")
    return {(_index(spec) if name == KEY else name): value for name, value in row.items()}

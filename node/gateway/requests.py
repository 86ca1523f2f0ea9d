"""The requests that there are, by their numbers, and what is known of each beforehand."""

from functools import lru_cache
from typing import Any

from node.gateway import edits, messages, safety

TABLE_SCHEMA, TABLE_SIZE = 7, 8
FEATURES, HOSTED, HOSTED_END, MAKE_PORT, MAKE_VIEW, VIEW_DELETE = 3, 4, 37, 5, 6, 11
VALIDATE, DESCRIBE, SYSTEM_INFO = 9, 41, 17
COLUMN_PATHS, DIMENSIONS, VIEW_CONFIG, TO_COLUMNS, TO_ROWS, ON_UPDATE, ON_REMOVE = 10, 12, 14, 24, 26, 21, 39
CHANGE_STATE = {18, 19, 23}  # collapse, expand, depth
OF_ROWS = {18, 19}  # those of them that name a row
TABLE_READS = {TABLE_SCHEMA: "Empty", TABLE_SIZE: "Empty", VALIDATE: "ValidateExpressions", DESCRIBE: "Describe"}
VIEW_READS = {
    10: "ColumnPaths",
    12: "Empty",
    13: "Empty",
    14: "Empty",
    15: "Empty",
    16: "ToArrow",
    18: "RowIndex",
    19: "RowIndex",
    20: "MinMax",
    23: "Depth",
    24: "ToText",
    25: "ToCsv",
    26: "ToText",
    36: "ToText",
}
DATA = frozenset({16, 24, 25, 26, 36})  # those of them whose answer shows rows
SUBSCRIBE = {ON_UPDATE: "OnUpdate", ON_REMOVE: "Empty"}  # to a view
UNSUBSCRIBE = {22: ON_UPDATE, 40: ON_REMOVE}
ON_DELETE = {29: 30, 34: 35}  # of a table, of a view; and what ends it
ENDS_ON_DELETE = {30: 29, 35: 34}
WRITES = {27: "MakeTable", 38: "MakeJoinTable", 28: "TableDelete"} | edits.NAMES
OF_TABLES = {MAKE_PORT, *TABLE_READS, 29, *edits.EDITS}
NAMES = {
    3: "GetFeatures",
    4: "GetHostedTables",
    5: "TableMakePort",
    6: "TableMakeView",
    7: "TableSchema",
    8: "TableSize",
    9: "TableValidateExpr",
    10: "ViewColumnPaths",
    11: "ViewDelete",
    12: "ViewDimensions",
    13: "ViewExpressionSchema",
    14: "ViewGetConfig",
    15: "ViewSchema",
    16: "ViewToArrow",
    17: "ServerSystemInfo",
    18: "ViewCollapse",
    19: "ViewExpand",
    20: "ViewGetMinMax",
    21: "ViewOnUpdate",
    22: "ViewRemoveOnUpdate",
    23: "ViewSetDepth",
    24: "ViewToColumnsString",
    25: "ViewToCsv",
    26: "ViewToRowsString",
    29: "TableOnDelete",
    30: "TableRemoveDelete",
    34: "ViewOnDelete",
    35: "ViewRemoveDelete",
    36: "ViewToNdjson",
    37: "RemoveHostedTablesUpdate",
    39: "ViewOnRemove",
    40: "ViewRemoveOnRemove",
    41: "TableDescribe",
    **WRITES,
}
PORT = b"\x08\x01"
SYSTEM_INFO_ANSWER = b"\x08\x00\x10\x00"

CHEAP = frozenset({TABLE_SCHEMA, TABLE_SIZE, DIMENSIONS, 13, VIEW_CONFIG, 15})
"""Reads that take the engine microseconds, whatever a table holds."""
CHEAP_CELLS = 5_000
"""Cells that the engine writes out in a few milliseconds."""


@lru_cache(maxsize=4096)
def _short(name: str, body: bytes) -> bytes:
    message = messages.parse(name, body)
    safety.cut_numbers(message)
    return messages.encode(message)


def canonical(name: str, body: bytes) -> bytes:
    """Return a request's body in our own encoding, its numbers cut to what the engine can count.

    Raises:
        DecodeError, UnknownFields: as `messages.parse`.
    """
    return _short(name, body) if len(body) <= 64 else _short.__wrapped__(name, body)


def is_cheap(number: int, body: bytes, config: Any, columns: int) -> bool:
    """Say whether a read, its body in canonical form, takes the engine less time than to wait for a turn.

    `columns` is how many the table has.
    """
    if number in CHEAP:
        return True
    if number not in (TO_COLUMNS, TO_ROWS) or config.split_by:
        return False
    shown = len(config.columns.columns.columns) if config.HasField("columns") else columns + len(config.expressions)
    return _rows(body) * shown <= CHEAP_CELLS


@lru_cache(maxsize=4096)
def _rows(body: bytes) -> int:
    viewport: Any = messages.parse("ToText", body).viewport
    return max(0, int(viewport.end_row) - int(viewport.start_row)) if viewport.HasField("end_row") else CHEAP_CELLS + 1

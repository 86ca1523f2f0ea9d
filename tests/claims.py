"""Every request that there is, as a client would send it who means it, and what a viewer is told, so that it can be compared."""

from typing import Any

import pyarrow as pa

from node.gateway import edits, messages, requests
from parallax.replica.engine import to_ipc
from parallax.replication.spec import TableSpec
from parallax.wire import SERVER_ERROR, Envelope, decode
from tests.differential_requests import identity
from tests.test_gateway import make
from tests.viewers import Viewer

SCHEMA = {"id": "string", "n": "integer"}
PLACEHOLDER = "?"
DATA: dict[str, Any] = {
    "rows": '[{"id": "a", "n": 7}]',
    "cols": '{"id": ["a"], "n": [7]}',
    "ndjson": '{"id": "a", "n": 7}\n',
    "csv": "id,n\na,7\n",
    "arrow": to_ipc(pa.table({"id": ["a"], "n": pa.array([7], pa.int32())})),
}
"""One row, in each format in which clients send rows."""

KINDS = sorted(
    {
        *requests.NAMES,
        *requests.TABLE_READS,
        *requests.VIEW_READS,
        *requests.SUBSCRIBE,
        *requests.UNSUBSCRIBE,
        *requests.ON_DELETE,
        *requests.ENDS_ON_DELETE,
        *requests.WRITES,
        *requests.OF_TABLES,
        *requests.CHANGE_STATE,
    }
)
"""All kinds of requests that the gateway knows of."""
UNKNOWN = [
    number for number in (0, *range(3, 64), 1 << 20) if number not in KINDS
]  # 1 and 2 are the envelope's own; 0: no body


def declared(name: str, **more: Any) -> TableSpec:
    """Declare a table of those columns."""
    return TableSpec.declare(name, {"schema": SCHEMA, "index": "id"} | more)


def edit(kind: str) -> bytes:
    """Encode an edit whose data are in one of the formats."""
    message = messages.new("Edit")
    setattr(message.data, kind, DATA[kind])
    return messages.encode(message)


def _encoded(name: str, **fields: Any) -> bytes:
    message = messages.new(name)
    for field, value in fields.items():
        setattr(message, field, value)
    return messages.encode(message)


def _string(field: int, text: str) -> bytes:
    return bytes([field << 3 | 2, len(text)]) + text.encode()


def bodies(view: str, table: str, msg_id: int) -> dict[int, list[bytes]]:
    """Return good bodies of each kind of request. `view` is made, `table` named where one can be, `msg_id` ended."""
    text, ids = messages.new("ToText"), [identity(msg_id)]
    text.viewport.start_row, text.viewport.end_row = 0, 9
    texts, row = [b"", messages.encode(text)], [_encoded("RowIndex", row_index=index) for index in (0, 1)]
    described, validated = messages.new("Describe"), messages.new("ValidateExpressions")
    for message in (described.config, validated):
        message.expressions["e"] = '"n" + 1'
    described.config.columns.columns.columns.append("n")
    options = [b"", b"\x08\x01"]  # of subscribing to the hosted tables; a deletion at once
    return (
        {
            3: [b""],
            4: options,
            5: [b""],
            6: [make(view), make(view, group_by=["id"], columns=["n"]), make(view, expressions={"e": '"n" + 1'})],
            7: [b""],
            8: [b""],
            9: [b"", messages.encode(validated)],
            10: [b"", _encoded("ColumnPaths", start_col=0, end_col=1)],
            11: [b""],
            12: [b""],
            13: [b""],
            14: [b""],
            15: [b""],
            16: [b"", _encoded("ToArrow", compression="lz4")],
            17: [b""],
            18: row,
            19: row,
            20: [_encoded("MinMax", column_name="n")],
            21: [b"", _encoded("OnUpdate", mode=0)],
            22: ids,
            23: [_encoded("Depth", depth=1), _encoded("Depth", depth=0)],
            24: texts,
            25: [b""],
            26: texts,
            27: [_string(1, table), b""],
            28: options,
            29: [b""],
            30: ids,
            31: [edit(kind) for kind in DATA],
            32: [edit(kind) for kind in DATA],
            33: [edit(kind) for kind in DATA],
            34: [b""],
            35: ids,
            36: texts,
            37: ids,
            38: [_string(1, table) + _string(2, table) + _string(3, "id"), _string(2, table)],
            39: [b""],
            40: ids,
            41: [b"", messages.encode(described)],
        }
        | {0: [b""]}
        | {number: [b"", b"\x08\x01", _string(1, table)] for number in UNKNOWN if number}
    )


Told = list[tuple[int, str, int, bytes | str]]


def comparable(said: list[Envelope], name: str) -> Told:
    """Return what a viewer was told, with a name that he used himself left out."""

    def body(one: Envelope) -> bytes | str:
        if one.number == SERVER_ERROR:
            message: str = messages.parse("Error", one.body).message
            return message.replace(repr(name), PLACEHOLDER)
        return one.body

    return [(one.msg_id, PLACEHOLDER if one.entity_id == name else one.entity_id, one.number, body(one)) for one in said]


async def told(viewer: Viewer, number: int, body: bytes, name: str) -> Told:
    """Ask, and return what came."""
    return comparable(await viewer.ask(number, body, name), name)


def heard(viewer: Viewer) -> list[tuple[int, str, int]]:
    """Return what a viewer heard since this was asked last: message id, entity and kind."""
    said, viewer.frames[:] = [decode(frame) for frame in viewer.frames], []
    return [(one.msg_id, one.entity_id, one.number) for one in said]


def formats() -> set[str]:
    """Return the formats of edits that the gateway knows of, from both places that say so."""
    (data,) = [field.message_type for field in messages.new("Edit").DESCRIPTOR.fields if field.name == "data"]
    return {field.name for field in data.fields} | edits.FORMATS.keys()

"""What a viewer says, as bytes: recorded from Perspective's own client, so that none of it is guessed here.

A request is `field 1: msg_id | field 2: entity_id | field N: body`. What is recorded is N and the body.
"""

from typing import Any

import perspective
import pyarrow as pa

from loadtests.plan import Dialogue
from loadtests.protocol import Body, decode

VIEWPORT_ROWS = 50
"""Rows that a viewer reads at each refresh: what fits on a screen."""


def record(schema: pa.Schema, **view: Any) -> Dialogue:
    """Return what Perspective's client sends for a view of a table with this schema."""
    sent: list[Body] = []
    server = perspective.Server()
    session = server.new_session(lambda frame: client.handle_response(frame))

    def send(frame: bytes) -> None:
        sent.append(decode(bytes(frame))[2:])
        session.handle_request(frame)

    client = perspective.Client(send, lambda: None)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema):
        pass
    table = client.table(bytes(sink.getvalue()), name="recorded", index=schema.names[0])

    def said(do: Any) -> Body:
        sent.clear()
        do()
        return sent[0]

    views: list[Any] = []
    made = said(lambda: views.append(table.view(**view)))
    shown = views[0]
    kinds = {
        "dimensions": said(shown.dimensions),
        "schema": said(shown.schema),
        "rows": said(lambda: shown.to_columns(start_row=0, end_row=VIEWPORT_ROWS, id=True)),
        "config": said(shown.get_config),
        "arrow": said(lambda: shown.to_arrow(start_row=0, end_row=VIEWPORT_ROWS)),
        "whole": said(shown.to_arrow),
    }
    return Dialogue(
        config=_config(made[1]),
        subscribe=said(lambda: shown.on_update(lambda *_: None)),
        refresh=(*[kinds["dimensions"]] * 4, kinds["schema"], kinds["rows"]),
        kinds=kinds,
    )


def _config(make: bytes) -> bytes:
    """Return a TableMakeView's body without the view id, which comes first."""
    assert make[0] == 0x0A
    return make[2 + make[1] :]

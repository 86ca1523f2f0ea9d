"""Well-formed requests that Perspective 5.6.1 does not survive. Run as a program, it plays one of them on the bare engine."""

import io
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import perspective
import pyarrow as pa
from google.protobuf import text_format

from node.gateway import messages
from parallax.replication.spec import TableSpec
from parallax.wire import Envelope

COLUMNS = {"id": "string", "c": "string", "f": "boolean", "a": "integer", "d": "date", "x": "float"}
SPEC = TableSpec.declare("t", {"schema": COLUMNS, "max_rows": 1000})

FILL = "fill"
"""A step that appends rows; any other is (entity, request number, message name, the message as text)."""

Step = str | tuple[str, int, str, str]


def view(config: str, view_id: str = "v") -> Step:
    """A step that makes a view."""
    return ("t", 6, "MakeView", f'view_id: "{view_id}" config {{ {config} }}')


@dataclass(frozen=True, slots=True)
class Trap:
    """What ends the process, or never ends. `is_refused`: the gateway must answer the last step with an error."""

    steps: tuple[Step, ...]
    is_refused: bool = True
    hangs: bool = False


AVERAGE = (
    'group_by: "c" columns {{ columns {{ columns: "{0}" }} }} aggregates {{ key: "{0}" value {{ aggregations: "{1}" }} }}'
)
NOTHING = ' filter { column: "c" op: "==" value { string: "nothing" } }'
TREE = 'group_by: "c" columns { columns { columns: "a" } }'
FILLED = (FILL, FILL)
NULLS = 'group_by: "c" split_by: "f" filter { column: "f" op: "!=" value { bool: true } }'

TRAPS = {
    "a filter without a value": Trap((FILL, view('filter { column: "a" op: "==" }'))),
    "a null filter without a value": Trap((FILL, view('filter { column: "a" op: "is null" }')), is_refused=False),
    "a date that is no number": Trap((FILL, view('filter { column: "d" op: "==" value { float: nan } }'))),
    "high minus low of nothing": Trap((FILL, view(AVERAGE.format("a", "high minus low") + NOTHING))),
    "the average of dates": Trap((FILL, view(AVERAGE.format("d", "avg")), *FILLED * 4, ("v", 24, "ToText", ""))),
    "a pivot that passes nulls": Trap((FILL, view(NULLS), *FILLED * 4, ("v", 16, "ToArrow", "")), is_refused=False),
    "an aggregate of another type": Trap((FILL, view(AVERAGE.format("c", "mean")), *FILLED * 4, ("v", 24, "ToText", ""))),
    "row deltas of two splits": Trap((view('split_by: "c" split_by: "a"'), ("v", 21, "OnUpdate", "mode: 0"), *FILLED)),
    "the depth of a flat roll-up": Trap((view(TREE + " group_rollup_mode: 1"), ("v", 23, "Depth", "depth: 1"))),
    "collapsing a row beyond all": Trap(
        (FILL, view(TREE), ("v", 18, "RowIndex", "row_index: 2147483648")), is_refused=False
    ),
    "expanding a row beyond all": Trap((FILL, view(TREE), ("v", 19, "RowIndex", "row_index: 2147483648")), is_refused=False),
    "columns beyond all": Trap(
        (FILL, view(""), ("v", 16, "ToArrow", "viewport { start_col: 2147483648 end_col: 2147483648 }")), is_refused=False
    ),
    "paths that begin after their end": Trap(
        (view(""), ("v", 10, "ColumnPaths", "start_col: 2 end_col: 1")), is_refused=False, hangs=True
    ),
    "paths that begin beyond the columns": Trap(
        (view(""), ("v", 10, "ColumnPaths", "start_col: 9")), is_refused=False, hangs=True
    ),
}


def frames(trap: Trap) -> Iterator[bytes | None]:
    """Give the trap's requests as frames, None for rows to be appended. The message id is the step's number."""
    for number, step in enumerate(trap.steps, 1):
        if isinstance(step, str):
            yield None
        else:
            entity, kind, name, text = step
            body = messages.encode(text_format.Parse(text, messages.new(name)))
            yield Envelope(number, entity, kind, body).encode()


def rows() -> pa.Table:
    """A few rows, with nulls."""
    values = {
        "id": ["k1", "k2", "k3", "k4"],
        "c": ["p", "q", None, "r"],
        "f": [True, None, False, True],
        "a": [3, None, -2, 7],
        "d": pa.array([18262, None, 18263, 18264], pa.int32()).cast(pa.date32()),
        "x": [0.5, 1.5, None, -2.0],
    }
    return pa.table(values, schema=SPEC.arrow_schema)


def play(trap: Trap) -> None:
    """Play a trap on the engine itself."""

    def ipc(content: pa.Table) -> bytes:
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, content.schema) as writer:
            writer.write_table(content)
        return sink.getvalue()

    server = perspective.Server(on_poll_request=lambda *_: None)
    session = server.new_session(lambda _: None)
    table = server.new_local_client().table(ipc(SPEC.arrow_schema.empty_table()), name="t")
    for frame in frames(trap):
        if frame is None:
            table.update(ipc(rows()))
            server.poll()
        else:
            session.handle_request(frame)
    table.update(ipc(rows()))
    server.poll()
    session.close()


if __name__ == "__main__":
    play(TRAPS[sys.argv[1]])
    print("survived")

"""What is said to the engine, and heard from it, in Arrow and in its own protocol."""

import pyarrow as pa

from parallax.replication.spec import TableSpec


def to_ipc(table: pa.Table) -> bytes:
    """Return a table as an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def typed(spec: TableSpec, columns: list[str], data: bytes) -> pa.Table:
    """Return what the engine exported in the table's own types: it gives texts as dictionaries."""
    return pa.ipc.open_stream(data).read_all().cast(pa.schema([spec.arrow_schema.field(name) for name in columns]))


def delete_view(view_id: str) -> bytes:
    """Encode a ViewDelete (field 11): message id, entity id, empty body."""
    name = view_id.encode()
    return b"\x08\xff\xff\xff\xff\x0f\x12" + bytes([len(name)]) + name + b"\x5a\x00"

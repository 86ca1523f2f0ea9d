"""Perspective as it comes, without a facade: what Parallax's own engine is held against."""

from typing import Any

import perspective
import pyarrow as pa

from parallax.replication.spec import TableSpec
from tests.encodings import arrow_streams
from tests.operations import Operation
from tests.oracle import comparable_rows


class RawEngine:
    """One table on a server of its own in deferred mode; nothing is polled unless told."""

    def __init__(self, spec: TableSpec, *, poll_first: tuple[str, ...] = ("replace", "clear")) -> None:
        self.spec = spec
        self._poll_first = poll_first
        self._server = perspective.Server(on_poll_request=lambda *_: None)
        self._client = self._server.new_local_client()
        self._create(spec.arrow_schema.empty_table())

    def _create(self, content: pa.Table) -> None:
        kind: dict[str, Any] = {"index": self.spec.index, "limit": self.spec.limit}
        kind = {word: value for word, value in kind.items() if value is not None}
        self.table = self._client.table(ipc(content), name=self.spec.name, **kind)
        self._view = self.table.view()

    def poll(self) -> None:
        self._server.poll()

    def apply(self, operation: Operation) -> None:
        """Apply as records would: one Arrow payload for each run of rows with the same columns."""
        if operation.op in self._poll_first:
            self.poll()
        streams = arrow_streams(self.spec, operation.rows)
        if operation.op == "clear" or (operation.op == "replace" and not streams):
            self.table.clear()
        elif operation.op == "replace":
            self.table.replace(streams.pop(0))
        for stream in streams:
            if operation.op == "remove":
                self.table.remove(stream)
            else:
                self.table.update(stream)

    def apply_record(self, op: str, payload: bytes) -> None:
        """Apply what a record carries."""
        if op in self._poll_first:
            self.poll()
        if op == "clear":
            self.table.clear()
        else:
            {"update": self.table.update, "remove": self.table.remove, "replace": self.table.replace}[op](payload)

    def update(self, **columns: list[Any]) -> None:
        self.apply(self.operation("update", columns))

    def remove(self, *keys: Any) -> None:
        self.apply(self.operation("remove", {str(self.spec.index): list(keys)}))

    def replace(self, **columns: list[Any]) -> None:
        self.apply(self.operation("replace", columns))

    @staticmethod
    def operation(op: str, columns: dict[str, list[Any]]) -> Operation:
        rows = tuple(dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))
        return Operation(op, rows, "arrow", b"")

    def export(self) -> pa.Table:
        self.poll()
        return pa.ipc.open_stream(self._view.to_arrow()).read_all().cast(self.spec.arrow_schema)

    def dicts(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.export().to_pylist()
        return rows

    def rows(self) -> list[tuple[Any, ...]]:
        return comparable_rows(self.dicts(), self.spec.columns)

    def reload(self, *, in_place: bool) -> None:
        """Start again from the export, as a replica does from a snapshot."""
        content = self.export()
        if in_place:
            self.table.replace(ipc(content, rows_in_a_batch=37))
        else:
            self.close()
            self._create(content)

    def close(self) -> None:
        self._view.delete()
        self.table.delete()


def ipc(content: pa.Table, rows_in_a_batch: int | None = None) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, content.schema) as writer:
        writer.write_table(content, max_chunksize=rows_in_a_batch)
    return bytes(sink.getvalue())

"""One entry of a table's history, and its bytes.

    magic "PX" | version u8 | 0 u8 | length of the header u32 LE | header (JSON) | payload

The same bytes stand in the log and travel on the feed. The payload of `update` and `replace` is an Arrow IPC stream whose
columns are a subset of the table's schema with exactly its types; that of `remove` has the index column only.
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from parallax.errors import BadRecord, ConfigurationError
from parallax.replication import versions
from parallax.replication.position import Position
from parallax.replication.spec import TableSpec

MAGIC = b"PX"
FIELD = b"r"
"""The one field of a log entry."""

_PREFIX = struct.Struct("<2sBBI")


class Op(StrEnum):
    """What a record does to its table."""

    BEGIN = "begin"  # a leader's first record in its term; carries the spec
    UPDATE = "update"
    REMOVE = "remove"
    REPLACE = "replace"
    CLEAR = "clear"
    VERIFY = "verify"  # every replica reports the digest of its table at this very position
    DROP = "drop"


CHANGES = frozenset({Op.UPDATE, Op.REMOVE, Op.REPLACE, Op.CLEAR})
"""The operations that a publisher may ask for."""


@dataclass(frozen=True, slots=True)
class Blob:
    """A payload that is stored beside the log, in chunks: pub/sub cuts off subscribers to whom too much is sent."""

    name: str  # part of the chunks' keys, unique to each blob ever written
    chunks: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Record:
    """One ordered operation on one table.

    `prev` is the position that a replica must stand at to apply it; None means that no replica may, and all load the
    snapshot that was set with it. `producers` maps each producer whose writes are in here to its highest sequence number.
    """

    op: Op
    position: Position
    prev: Position | None
    payload: bytes = b""
    rows: int = 0
    spec: TableSpec | None = None  # present if and only if op is BEGIN
    producers: Mapping[str, int] = field(default_factory=dict)
    blob: "Blob | None" = None  # where the payload is, if it is too large to travel with the record
    # Both by Redis's clock, 0 if unknown: for people and metrics, never for decisions.
    time_ms: int = 0  # when the coordinator sequenced it, as far as it knows that clock
    accepted_ms: int = 0  # when the oldest entry of its batch was added to ingest; the batch's first record has it

    def encode(self, version: int | None = None) -> bytes:
        """Return the record's bytes, of the newest version unless another is asked for."""
        header: dict[str, Any] = {"op": self.op, "pos": str(self.position), "prev": self.prev and str(self.prev)}
        if self.rows:
            header["rows"] = self.rows
        if self.spec is not None:
            header["spec"] = self.spec.to_json()
        if self.producers:
            header["producers"] = dict(self.producers)
        if self.blob is not None:
            header["blob"] = [self.blob.name, self.blob.chunks, self.blob.size_bytes]
        if self.time_ms:
            header["ms"] = self.time_ms
        if self.accepted_ms:
            header["in"] = self.accepted_ms
        text = json.dumps(header, separators=(",", ":")).encode()
        return b"".join((_PREFIX.pack(MAGIC, version or versions.NEWEST, 0, len(text)), text, self.payload))

    @classmethod
    def decode(cls, data: bytes) -> "Record":
        """Read a record's bytes.

        Raises:
            BadRecord: they are not a record, or one of a version that this program does not know.
        """
        try:
            magic, version, _, length = _PREFIX.unpack_from(data)
            if magic != MAGIC:
                raise BadRecord(f"not a record: it begins with {data[:4]!r}")
            if not versions.is_readable(version):
                raise BadRecord(versions.complaint("record", version))
            end = _PREFIX.size + length
            header = json.loads(data[_PREFIX.size : end])
            prev = header["prev"]
            spec = header.get("spec")
            record = cls(
                op=Op(header["op"]),
                position=Position.parse(header["pos"]),
                prev=None if prev is None else Position.parse(prev),
                payload=data[end:],
                rows=int(header.get("rows", 0)),
                spec=None if spec is None else TableSpec.from_json(spec),
                producers={str(key): int(value) for key, value in header.get("producers", {}).items()},
                blob=Blob(*header["blob"]) if "blob" in header else None,
                time_ms=int(header.get("ms", 0)),
                accepted_ms=int(header.get("in", 0)),
            )
        except (struct.error, ValueError, KeyError, TypeError, AttributeError, ConfigurationError) as error:
            raise BadRecord(f"not a readable record: {error}") from error
        if (record.op is Op.BEGIN) != (record.spec is not None):
            raise BadRecord(f"a {record.op} record {'without' if record.spec is None else 'with'} a spec")
        return record


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What the leader publishes on the feed each second: the log's true top, as Redis saw it in that call."""

    top: Position
    sender: str  # "<coordinator>:<count>"

    PREFIX = b"PH "

    @classmethod
    def decode(cls, data: bytes) -> "Heartbeat":
        """Read what `append.lua` publishes when it is called without a record: `PH <top> <sender>`."""
        try:
            _, top, sender = data.decode().split(" ", 2)
            return cls(Position.parse(top), sender)
        except ValueError as error:
            raise BadRecord(f"not a readable heartbeat: {error}") from error


def decode_message(data: bytes) -> Record | Heartbeat:
    """Read one message of the feed.

    Raises:
        BadRecord: it is neither a record nor a heartbeat that this program can read.
    """
    return Heartbeat.decode(data) if data.startswith(Heartbeat.PREFIX) else Record.decode(data)

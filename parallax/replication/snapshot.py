"""What describes a snapshot: a whole table at one position, stored in chunks."""

import json
from dataclasses import dataclass

from parallax.errors import BadRecord, ConfigurationError
from parallax.replication import versions
from parallax.replication.position import Position
from parallax.replication.spec import TableSpec


@dataclass(frozen=True, slots=True)
class Manifest:
    """The newest snapshot of a table. The chunks, joined, are one Arrow IPC stream of the whole table."""

    position: Position
    spec: TableSpec
    snapshot: str  # part of the chunks' keys, unique to each snapshot ever written
    chunks: int
    size_bytes: int
    rows: int
    digest: str  # of the table at `position`
    window: tuple[tuple[str, int], ...]  # (producer, highest seq), the longest unseen first

    def encode(self, version: int | None = None) -> bytes:
        """Return the manifest's bytes, of the newest version unless another is asked for."""
        values = {
            "version": version or versions.NEWEST,
            "position": str(self.position),
            "spec": self.spec.to_json(),
            "snapshot": self.snapshot,
            "chunks": self.chunks,
            "size_bytes": self.size_bytes,
            "rows": self.rows,
            "digest": self.digest,
            "window": self.window,
        }
        return json.dumps(values, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, data: bytes) -> "Manifest":
        """Read a manifest.

        Raises:
            BadRecord: the bytes are not a manifest of a version that this program knows.
        """
        try:
            values = json.loads(data)
            if not versions.is_readable(values["version"]):
                raise BadRecord(versions.complaint("manifest", values["version"]))
            return cls(
                position=Position.parse(values["position"]),
                spec=TableSpec.from_json(values["spec"]),
                snapshot=str(values["snapshot"]),
                chunks=int(values["chunks"]),
                size_bytes=int(values["size_bytes"]),
                rows=int(values["rows"]),
                digest=str(values["digest"]),
                window=tuple((str(producer), int(seq)) for producer, seq in values["window"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError, ConfigurationError) as error:
            raise BadRecord(f"not a readable manifest: {error}") from error

"""What publishers write to ingest: one stream entry, its fields checked but its data not yet read."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from parallax.errors import BadEntry
from parallax.replication.record import CHANGES, Op
from parallax.replication.spec import TableSpec

FIELDS = ("op", "format", "data", "producer", "seq")
MAX_NAME_BYTES = 200


class Format(StrEnum):
    """How an entry's data is written."""

    ARROW = "arrow"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of ingest. `producer` and `seq`, where given, make a second copy of it known as a duplicate."""

    op: Op
    format: Format | None  # None exactly for CLEAR, which has no data
    data: bytes
    producer: str | None = None
    seq: int = 0

    @classmethod
    def read(cls, parts: Sequence[bytes], spec: TableSpec) -> "Entry":
        """Read the fields of a stream entry (name, value, name, value, ...).

        Raises:
            BadEntry: a field is missing, unknown or not what it must be, or the table does not allow the operation.
        """
        fields: dict[str, bytes] = {}
        for name, value in zip(parts[::2], parts[1::2], strict=True):
            word = name.decode("utf-8", "replace")
            if word not in FIELDS:
                raise BadEntry(f"unknown field {word[:80]!r}; known are {', '.join(FIELDS)}")
            if word in fields:
                raise BadEntry(f"field {word!r} is given twice")
            fields[word] = value
        op = _word("op", fields.get("op", b"update"), [str(change) for change in CHANGES])
        if op in (Op.REMOVE,) and spec.index is None:
            raise BadEntry(f"op remove needs a table with an index; {spec.name!r} has none")
        producer, seq = _producer(fields)
        if op == Op.CLEAR:
            if fields.get("data"):
                raise BadEntry("op clear takes no data; to put other rows in place of all, use op replace")
            return cls(Op.CLEAR, None, b"", producer, seq)
        if "data" not in fields:
            raise BadEntry("field 'data' is missing")
        chosen = _word("format", fields.get("format", b"json"), [str(known) for known in Format])
        return cls(Op(op), Format(chosen), fields["data"], producer, seq)


def _word(field: str, value: bytes, allowed: list[str]) -> str:
    word = value.decode("utf-8", "replace")
    if word not in allowed:
        raise BadEntry(f"unknown {field} {word[:80]!r}; known are {', '.join(sorted(allowed))}")
    return word


def _producer(fields: dict[str, bytes]) -> tuple[str | None, int]:
    if ("producer" in fields) != ("seq" in fields):
        raise BadEntry("producer and seq go together: give both or neither")
    if "producer" not in fields:
        return None, 0
    name, seq = fields["producer"], fields["seq"]
    if not 0 < len(name) <= MAX_NAME_BYTES:
        raise BadEntry(f"producer must be 1 to {MAX_NAME_BYTES} bytes long, not {len(name)}")
    if not seq.isdigit() or int(seq[:20]) >= 2**63 or len(seq) > 20:
        raise BadEntry(f"seq must be a whole number from 0 to {2**63 - 1}, not {seq[:40].decode('utf-8', 'replace')!r}")
    try:
        return name.decode(), int(seq)
    except UnicodeDecodeError:
        raise BadEntry("producer must be UTF-8") from None

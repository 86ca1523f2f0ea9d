"""What publishers write to ingest: one stream entry, its fields checked but its data not yet read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from parallax.errors import BadEntry
from parallax.replication.record import CHANGES, Op
from parallax.replication.spec import TableSpec

FIELDS = {b"op", b"format", b"data", b"producer", b"seq"}
MAX_NAME_BYTES = 200


class Format(StrEnum):
    """How an entry's data is written."""

    ARROW = "arrow"  # an IPC stream or file
    JSON = "json"  # [{"column": value, ...}, ...], or one such object
    COLUMNS = "columns"  # {"column": [value, ...], ...}
    NDJSON = "ndjson"  # {"column": value, ...}, one on each line
    CSV = "csv"  # the first line names the columns


OPS = {change.encode(): change for change in CHANGES}
FORMATS = {known.encode(): known for known in Format}


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
        fields = dict(zip(parts[::2], parts[1::2], strict=True))
        if not fields.keys() <= FIELDS:
            unknown = min(fields.keys() - FIELDS)[:80].decode("utf-8", "replace")
            raise BadEntry(f"unknown field {unknown!r}; known are {', '.join(sorted(map(bytes.decode, FIELDS)))}")
        if 2 * len(fields) != len(parts):
            names = list(parts[::2])
            raise BadEntry(f"field {next(name for name in names if names.count(name) > 1).decode()!r} is given twice")
        op = OPS.get(fields.get(b"op", b"update"))
        if op is None:
            raise BadEntry(_unknown("op", fields[b"op"], OPS))
        if op is Op.REMOVE and spec.index is None:
            raise BadEntry(f"op remove needs a table with an index; {spec.name!r} has none")
        producer, seq = _producer(fields) if b"producer" in fields or b"seq" in fields else (None, 0)
        if op is Op.CLEAR:
            if fields.get(b"data"):
                raise BadEntry("op clear takes no data; to put other rows in place of all, use op replace")
            return cls(op, None, b"", producer, seq)
        if b"data" not in fields:
            raise BadEntry("field 'data' is missing")
        chosen = FORMATS.get(fields.get(b"format", b"json"))
        if chosen is None:
            raise BadEntry(_unknown("format", fields[b"format"], FORMATS))
        return cls(op, chosen, fields[b"data"], producer, seq)


def _unknown(field: str, value: bytes, known: Mapping[bytes, object]) -> str:
    words = ", ".join(sorted(map(bytes.decode, known)))
    return f"unknown {field} {value[:80].decode('utf-8', 'replace')!r}; known are {words}"


def _producer(fields: Mapping[bytes, bytes]) -> tuple[str | None, int]:
    if b"producer" not in fields or b"seq" not in fields:
        raise BadEntry("producer and seq go together: give both or neither")
    name, seq = fields[b"producer"], fields[b"seq"]
    if not 0 < len(name) <= MAX_NAME_BYTES:
        raise BadEntry(f"producer must be 1 to {MAX_NAME_BYTES} bytes long, not {len(name)}")
    if not seq.isdigit() or int(seq[:20]) >= 2**63 or len(seq) > 20:
        raise BadEntry(f"seq must be a whole number from 0 to {2**63 - 1}, not {seq[:40].decode('utf-8', 'replace')!r}")
    try:
        return name.decode(), int(seq)
    except UnicodeDecodeError:
        raise BadEntry("producer must be UTF-8") from None

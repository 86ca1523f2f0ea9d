"""What every position stands for, in any history, and where every entry is: what `tests/model.py` holds the fleet to."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import pyarrow as pa

from parallax.replica.snapshot import decode_snapshot
from parallax.replication.keys import TableKeys
from parallax.replication.position import ORIGIN, Position
from parallax.replication.record import Op, Record
from parallax.replication.snapshot import Manifest
from parallax.replication.spec import TableSpec
from parallax.replication.verdict import Digest
from parallax.replication.window import Window
from tests.model_redis import Command, Store

COLUMN = "n"
"""The column with the number of each row: an entry has one row, and no other entry has its number."""


class Violation(AssertionError):
    """What must never be was."""


class ChunkMissing(Violation):
    """A manifest stands for chunks that are not there."""


@dataclass(frozen=True, slots=True)
class State:
    """What a table is at one position."""

    spec: TableSpec | None = None
    rows: tuple[int, ...] = ()
    window: tuple[tuple[str, int], ...] = ()
    history: tuple[int, ...] = field(default=(), compare=False)
    """Every number that was ever applied on the way here; those of a table dropped since, too."""


@dataclass(slots=True)
class Entry:
    """One number that was written to ingest, perhaps more than once."""

    producer: bytes | None
    first: int
    """Where in the journal its first copy is; -1: Redis forgot it."""
    is_bad: bool
    """Whether it is to be refused."""
    ids: set[bytes] = field(default_factory=set)


class Truth:
    """Follow what is written to Redis, and say what that means."""

    def __init__(self, store: Store, keys: TableKeys) -> None:
        self.states: dict[Position, State] = {ORIGIN: State()}
        self.entries: dict[int, Entry] = {}
        self.is_damaged = False
        """Whether somebody deleted by hand what no replica may have any more: then it may be lost, but still not doubled."""
        self.is_log_lost = False
        """Whether Redis ever kept entries and forgot the log that had taken them in, from its beginning. The state comes back from the
        leader, the entries from ingest; of those without a producer nobody knows that they are the same."""
        self._store = store
        self._keys = keys
        self._digests: dict[Position, str] = {}
        self._records: dict[Position, bytes] = {}
        self._manifest: bytes | None = None

    # What happens ----------------------------------------------------------------------------------------------------

    def ran(self, command: Command, answer: Any) -> None:
        """Take in a command of a publisher's that Redis has done."""
        if command[0] != "XADD" or command[1] != self._keys.ingest:
            return
        fields = dict(zip(command[3::2], command[4::2], strict=True))
        data = fields["data"]
        entry = Entry(fields.get("producer"), len(self._store.journal) - 1, "x" in data)
        entry = self.entries.setdefault(number_in(data), entry)
        entry.ids.add(answer)

    def appended(self, data: bytes) -> None:
        """Take in a record that was appended to the log."""
        record = Record.decode(data)
        position = record.position
        if self._records.setdefault(position, data) != data:
            raise Violation(f"{position} stands for two contents")
        if position in self.states:
            raise Violation(f"{position} was appended twice")
        self.states[position] = self._given(record) if record.prev is None else self._following(record)

    def _following(self, record: Record) -> State:
        assert record.prev is not None
        before = self.states.get(record.prev)
        if before is None:
            raise Violation(f"{record.position} follows {record.prev}, which never was")
        window = Window(before.window)
        window.advance(record.producers)
        spec, rows, history = before.spec, before.rows, before.history
        if record.op is Op.UPDATE:
            new = numbers(record.payload)
            before_them = set(history)
            twice = [number for number in new if number in before_them and not self._may_come_again(number)]
            if twice or len(set(new)) < len(new):
                raise Violation(f"{record.position} applies {twice or new} again")
            rows, history = rows + new, history + new
        elif record.op is Op.DROP:
            spec, rows = None, ()
        elif record.op is Op.BEGIN:
            spec = record.spec
        return State(spec, rows, tuple(window.entries()), history)

    def _given(self, record: Record) -> State:
        """Return the state of a begin without prev: it is that of the manifest, which was set with it."""
        raw = self._store.ask("XREVRANGE", self._keys.log, f"({record.position}", "-", "COUNT", 1)
        before = self.states[Position.parse(raw[0][0])] if raw else State()
        manifest, rows = self._snapshot()
        if manifest.position != record.position:
            raise Violation(f"{record.position} has no prev, and the manifest is that of {manifest.position}")
        found = numbers_of(rows)
        if before.spec is not None and found != before.rows and not self.is_damaged:
            raise Violation(f"{record.position} makes {found} of {before.rows}")
        # Who deletes keys by hand may take the window with them: then what a dropped table once held may come again.
        is_known = found == before.rows and (manifest.window == before.window or not self.is_damaged)
        return State(record.spec, found, manifest.window, before.history if is_known else found)

    def _may_come_again(self, number: int) -> bool:
        return (self.is_log_lost or self.is_damaged) and self.entries[number].producer is None

    def look_at_manifest(self) -> None:
        """Check the manifest, if it is new."""
        body = self._store.ask("HGET", self._keys.manifest, "body")
        if body is None or body == self._manifest:
            return
        self._manifest = body
        try:
            manifest, rows = self._snapshot()
        except ChunkMissing:
            if self.is_damaged:
                return
            raise
        at = str(manifest.position)
        if manifest.position != self.top() and not self._store.ask("XRANGE", self._keys.log, at, at) and not self.is_damaged:
            raise Violation(f"the snapshot at {at} was published, and the log does not hold it")
        found = State(manifest.spec, numbers_of(rows), manifest.window)
        self.check_state(f"the snapshot {manifest.snapshot}", manifest.position, found)

    def _snapshot(self) -> tuple[Manifest, pa.Table]:
        manifest = Manifest.decode(self._store.ask("HGET", self._keys.manifest, "body"))
        chunks = [self._store.ask("GET", chunk) for chunk in self._keys.chunks(manifest.snapshot, manifest.chunks)]
        if None in chunks:
            raise ChunkMissing(f"the manifest at {manifest.position} was published without its chunks")
        return manifest, decode_snapshot("t", manifest, b"".join(chunks))

    def forgot(self) -> None:
        """Take in that Redis forgot all that is not in its journal."""
        kept = len(self._store.journal)
        self.is_log_lost = self.is_log_lost or (self.top() == ORIGIN and not self.is_ingested())
        for entry in self.entries.values():
            if entry.first >= kept:
                entry.first = -1
        self._manifest = self._store.ask("HGET", self._keys.manifest, "body")

    # What must be ----------------------------------------------------------------------------------------------------

    def check_state(self, who: str, position: Position, found: State) -> None:
        """A position stands for one state, whoever holds it."""
        expected = self.states.get(position)
        if expected is None:
            raise Violation(f"{who} is at {position}, which never was")
        if found != expected:
            parts = [name for name in ("spec", "rows", "window") if getattr(found, name) != getattr(expected, name)]
            differences = [f"{name} {getattr(found, name)}, not {getattr(expected, name)}" for name in parts]
            if "rows" in parts:
                differences.append(
                    f"too many {sorted(set(found.rows) - set(expected.rows))}, missing {sorted(set(expected.rows) - set(found.rows))}"
                )
            raise Violation(f"{who} holds at {position} {'; '.join(differences)}")

    def check_digest(self, who: str, digest: Digest | None) -> None:
        """All who compute the digest at one position find the same."""
        if digest is not None and self._digests.setdefault(digest.position, digest.value) != digest.value:
            raise Violation(f"{who} has another digest at {digest.position} than others")

    def check_entries(self) -> None:
        """Each entry that Redis has not forgotten is in exactly one of ingest, the history, and rejected."""
        ingest = {entry_id: number_in(_field(fields, b"data")) for entry_id, fields in self._range(self._keys.ingest)}
        rejected = {_field(fields, b"entry") for _, fields in self._range(self._keys.rejected)}
        history = self.states[self.top()].history
        applied = set(history)
        for entry_id, number in ingest.items():
            if number in applied and self.entries[number].producer is None and not self._may_come_again(number):
                raise Violation(f"{number} is in the history, and as {entry_id!r} in ingest again")
        if self.is_damaged:
            return
        waiting = set(ingest.values())
        for number, entry in self.entries.items():
            is_rejected = bool(entry.ids & rejected)
            is_somewhere = number in waiting or number in applied or is_rejected
            # A refusal that Redis forgot comes again, unless a state that was given back knows of later writes of the producer.
            if entry.first >= 0 and not is_somewhere and not (entry.is_bad and self.is_log_lost):
                raise Violation(f"{number} is lost")
            if entry.is_bad and number in applied:
                raise Violation(f"{number} had to be refused")
            if is_rejected and number in applied and len(entry.ids) == 1:
                raise Violation(f"{number} is rejected, and in the history")
        for name in {entry.producer for entry in self.entries.values()} - {None}:
            own = [number for number in history if self.entries[number].producer == name]
            if own != sorted(own):
                raise Violation(f"{name!r} wrote in order, and was read as {own}")

    def top(self) -> Position:
        """Return the log's top."""
        if not self._store.ask("EXISTS", self._keys.log):
            return ORIGIN
        info = self._store.ask("XINFO", "STREAM", self._keys.log)
        return Position.parse(info[info.index(b"last-generated-id") + 1])

    def is_ingested(self) -> bool:
        """Say whether nothing waits in ingest."""
        return not self._store.ask("XLEN", self._keys.ingest)

    def _range(self, key: str) -> Iterable[tuple[bytes, list[bytes]]]:
        found: list[tuple[bytes, list[bytes]]] = self._store.ask("XRANGE", key, "-", "+")
        return found


def _field(fields: Sequence[bytes], name: bytes) -> bytes:
    return fields[fields.index(name) + 1]


def number_in(data: str | bytes) -> int:
    """Return the number that stands in an entry's data, whether it is right or not."""
    text = data.decode() if isinstance(data, bytes) else data
    return int("".join(filter(str.isdigit, text)))


@lru_cache(4096)
def numbers(payload: bytes) -> tuple[int, ...]:
    """Return the numbers of a record's rows."""
    return numbers_of(pa.ipc.open_stream(payload).read_all()) if payload else ()


def numbers_of(rows: pa.Table) -> tuple[int, ...]:
    """Return the numbers of rows, in their order."""
    return tuple(rows.column(COLUMN).to_pylist())

"""What happens to a follower, and what it wants done: events in the past tense, commands in the imperative."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from parallax.replication.position import ORIGIN, Position
from parallax.replication.record import Record
from parallax.replication.snapshot import Manifest

# Events: what happened ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Subscribed:
    """The subscription to the feed was confirmed, for the first time or again: anything may have been missed before."""


@dataclass(frozen=True, slots=True)
class RecordArrived:
    """A record came over the feed."""

    record: Record


@dataclass(frozen=True, slots=True)
class BeatArrived:
    """A heartbeat came over the feed."""

    top: Position


@dataclass(frozen=True, slots=True)
class PageRead:
    """The log answered, in one atomic read: its last-generated ID (None: there is no log), and entries from the asked
    position on, inclusive; as many as fit a page, at least two where there are two."""

    records: Sequence[Record]
    top: Position | None


@dataclass(frozen=True, slots=True)
class ManifestRead:
    """The manifest, None if there is none, and whether the log holds its position."""

    manifest: Manifest | None
    is_held: bool


@dataclass(frozen=True, slots=True)
class SnapshotLoaded:
    """The replica now holds exactly the state at `position`."""

    position: Position


@dataclass(frozen=True, slots=True)
class SnapshotFailed:
    """The snapshot could not be loaded; `is_intact` says whether the replica still holds the state it had before."""

    is_intact: bool


@dataclass(frozen=True, slots=True)
class ApplyFailed:
    """The engine refused a record; what the replica holds is no longer the state at any position."""


@dataclass(frozen=True, slots=True)
class PayloadMissing:
    """A record's payload beside the log could not be read, so it and those after it were not applied; the replica still holds
    exactly the state at `held`. `is_gone`: it will not come back."""

    held: Position
    is_gone: bool


@dataclass(frozen=True, slots=True)
class ReadFailed:
    """Redis could not be asked."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """The log, feed or snapshot holds bytes that this version cannot read."""


@dataclass(frozen=True, slots=True)
class DivergenceFound:
    """Other replicas hold another state at the same position: this one must load a snapshot, and for a while only one that was
    taken at `since` or later, since those before may be as wrong as it is itself."""

    since: Position = ORIGIN


@dataclass(frozen=True, slots=True)
class Ticked:
    """Time passed."""


Event: TypeAlias = (
    Subscribed
    | RecordArrived
    | BeatArrived
    | PageRead
    | ManifestRead
    | SnapshotLoaded
    | SnapshotFailed
    | ApplyFailed
    | PayloadMissing
    | ReadFailed
    | Unreadable
    | DivergenceFound
    | Ticked
)


# Commands: what to do ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Apply:
    """Apply the record. Answer only if it fails: ApplyFailed or PayloadMissing; then the Apply commands that were given after
    it are void."""

    record: Record


@dataclass(frozen=True, slots=True)
class ReadLog:
    """Read a page of the log. Answer: PageRead, ReadFailed or Unreadable."""

    start: Position


@dataclass(frozen=True, slots=True)
class ReadManifest:
    """Read the manifest. Answer: ManifestRead, ReadFailed or Unreadable."""


@dataclass(frozen=True, slots=True)
class LoadSnapshot:
    """Replace what the replica holds. Answer: SnapshotLoaded, SnapshotFailed, ReadFailed or Unreadable."""

    manifest: Manifest


@dataclass(frozen=True, slots=True)
class SetWant:
    """Ask the leader for a snapshot. No answer."""


@dataclass(frozen=True, slots=True)
class Resubscribe:
    """Give up the feed's subscription and make a new one. Answer, in its time: Subscribed."""


Command: TypeAlias = Apply | ReadLog | ReadManifest | LoadSnapshot | SetWant | Resubscribe
Question: TypeAlias = ReadLog | ReadManifest | LoadSnapshot

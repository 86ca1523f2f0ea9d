"""The state machine that keeps one replica on its table's log. It does no IO: events go in, commands come out.

The rule: *apply a record only if its prev is my position; otherwise ask the log for what follows my exact position; if the
log does not hold it, load the snapshot.* Positions are compared for equality and membership, never by size: a fresh Redis
may start below where a replica stands.

The shell around it (`parallax.replica.replica`) performs the commands in order, hands every outcome back as an event, and
decides nothing.
"""

from collections import OrderedDict
from collections.abc import Sequence
from enum import StrEnum

from parallax.replication.events import (
    Apply,
    ApplyFailed,
    BeatArrived,
    Command,
    DivergenceFound,
    Event,
    LoadSnapshot,
    ManifestRead,
    PageRead,
    PayloadMissing,
    Question,
    ReadFailed,
    ReadLog,
    ReadManifest,
    RecordArrived,
    Resubscribe,
    SetWant,
    SnapshotFailed,
    SnapshotLoaded,
    Subscribed,
    Ticked,
    Unreadable,
)
from parallax.replication.position import ORIGIN, Position
from parallax.replication.record import Op, Record
from parallax.replication.snapshot import Manifest

BEAT_SECONDS = 1.0
SILENT_BEATS = 3
"""So many missed heartbeats make a replica ask the log, and subscribe afresh."""
RETRY_SECONDS = (0.1, 10.0)
"""First and longest wait before a question to Redis is asked again."""
SILENCE_SECONDS = (SILENT_BEATS * BEAT_SECONDS, 30.0)
FAILURES = 3
"""So many unusable snapshots, or records that the engine refused, in a row make a replica FAILED. It keeps trying."""
DISTRUST_SECONDS = 30.0
"""So long a replica that diverged waits for a snapshot that was taken since, before it loads an older one: there may be no leader
to take one, or the log was replaced by one whose positions are below."""
RECENT = 16_384
"""Positions remembered as applied, to know late and doubled messages for what they are. Not less than the shell's queue."""


class State(StrEnum):
    """How a replica stands to its log."""

    SYNCING = "syncing"  # holds nothing yet
    RECOVERING = "recovering"  # holds a true state that may be behind
    LIVE = "live"  # was at the top, and has followed the feed since
    FAILED = "failed"  # cannot take what the log holds; serves the last state it had and keeps trying


class Follower:
    """Keep one replica on its log. `handle` takes an event and returns the commands to perform, in order."""

    def __init__(self) -> None:
        self.state = State.SYNCING
        self.position = ORIGIN
        """Where the replica stands once the commands given so far are performed; ORIGIN: it holds nothing."""
        self.top: Position | None = None
        """The newest position known to be in the log."""
        self.behind_since: float | None = None
        """When the replica was first known to be behind `top`; None exactly while position == top or top is unknown."""
        self.highest = ORIGIN
        """The highest position at which it ever stood, which a log that lost its end does not reach; for the record only."""
        self.diverged_at: float | None = None
        """When a divergence was last found that is not healed yet."""
        self.resyncs = 0
        self._question: Question | None = None  # the one that is out; at most one at a time
        self._recent: OrderedDict[Position, None] = OrderedDict()  # applied, ending at position; at most RECENT
        self._retry_at: float | None = None  # no question is asked before it; None: at any time
        self._retries = 0
        self._failures = 0
        self._heard_at: float | None = None  # the last sign of life on the feed
        self._silences = 0
        self._must_resync = False  # what the replica holds is not to be built upon
        self._trusted_since = ORIGIN  # after a divergence: no snapshot from before it is loaded, for a while
        self._is_manifest_missing = False  # so the question that is out asks the log whether the table was dropped
        self._is_off_the_log = False  # the last page read did not lead on from position, nor end at it
        self._is_behind_unread = False  # the last question about the log found what this program cannot read
        self._is_cut_off = False  # the last page read held position, and nothing that follows it, but not as its end
        self.is_stranded = False
        """Whether the last look at everything in Redis showed that nothing there leads to the log's top. Neither then nor ever
        is a log that holds what we cannot read, or what the engine refuses, taken for one that leads nowhere."""

    @property
    def is_empty(self) -> bool:
        """Say whether the replica holds nothing."""
        return self.position == ORIGIN

    @property
    def lag_records(self) -> int:
        """How many records the replica is behind the newest that it knows of; 0 if that cannot be told."""
        return max(0, self.top.offset - self.position.offset) if self.top else 0

    def handle(self, event: Event, *, now: float, luck: float = 0.5) -> list[Command]:
        """Take in what happened at monotonic time `now` (seconds); `luck` in [0, 1) spreads the waits of many replicas."""
        match event:
            case RecordArrived(record):
                commands = self._record_arrived(record, now)
            case BeatArrived(top):
                commands = self._beat_arrived(top, now)
            case Ticked():
                commands = self._ticked(now, luck)
            case Subscribed():
                self._heard_at = now
                commands = self._ask()
            case PageRead(records, top):
                from_origin = self._question == ReadLog(ORIGIN)
                self._question = None
                commands = self._page_read(records, top, from_origin, now, luck)
            case ManifestRead(manifest, is_held):
                self._question = None
                commands = self._manifest_read(manifest, is_held, now, luck)
            case SnapshotLoaded(position):
                self._question = None
                commands = self._snapshot_loaded(position, now)
            case SnapshotFailed(is_intact):
                self._question = None
                self.is_stranded = is_intact
                if not is_intact:
                    self._lose_state()
                commands = self._failed(now, luck)
            case ApplyFailed():
                self.is_stranded = False
                self._lose_state()
                commands = self._failed(now, luck)
            case PayloadMissing(held, is_gone):
                self._go_back(held)
                self._must_resync = self._must_resync or is_gone
                commands = self._failed(now, luck) if is_gone else self._back_off(now, luck)
            case Unreadable():
                # Behind what cannot be read there may be a snapshot that can: a leader who learns of us writes what we read.
                self._is_behind_unread = isinstance(self._question, ReadLog)
                self._question = None
                self.is_stranded = False
                commands = self._failed(now, luck)
            case ReadFailed():
                self._question = None
                self.is_stranded = False
                commands = self._back_off(now, luck)
            case DivergenceFound(since):
                self._must_resync = True
                self.diverged_at, self._trusted_since = now, since
                self._leave_live()
                commands = self._ask()
        self._note_lag(now)
        return commands

    # The feed ------------------------------------------------------------------------------------------------------

    def _record_arrived(self, record: Record, now: float) -> list[Command]:
        self._heard_at = now
        if record.position in self._recent:
            return []  # late or doubled
        self.top = record.position
        if record.prev == self.position and not self._must_resync:
            return [self._apply(record)]
        self._leave_live()
        return self._ask()

    def _beat_arrived(self, top: Position, now: float) -> list[Command]:
        self._heard_at = now
        self._silences = 0
        if top == ORIGIN:
            return []  # an empty log tells a replica nothing
        self.top = top
        if top == self.position and not self._must_resync:
            self._arrived()
            return []
        self._leave_live()
        if not self._failures:
            self._retry_at = None  # the leader is there: one question a beat costs Redis little
        return self._ask()

    def _ticked(self, now: float, luck: float) -> list[Command]:
        commands: list[Command] = []
        if self._heard_at is None:
            self._heard_at = now
        if now - self._heard_at >= _wait(SILENCE_SECONDS, self._silences, 0.0 if self._silences == 0 else luck):
            self._heard_at = now
            self._silences += 1
            commands = [Resubscribe(), *self._ask()]
        if self._retry_at is not None and now >= self._retry_at:
            self._retry_at = None
            commands += self._ask()
        return commands

    # Questions and answers -----------------------------------------------------------------------------------------

    def _ask(self) -> list[Command]:
        """Ask the one question that this replica has now, unless it is out already or has to wait."""
        if self._question is not None or self._retry_at is not None:
            return []
        return self._put(
            ReadManifest() if self.is_empty or self._must_resync or self._is_behind_unread else ReadLog(self.position)
        )

    def _put(self, question: Question) -> list[Command]:
        self._question = question
        return [question]

    def _page_read(
        self, records: Sequence[Record], top: Position | None, from_origin: bool, now: float, luck: float
    ) -> list[Command]:
        if self._must_resync:
            return self._page_read_in_need(records, top, now, luck)
        if top is None:
            return self._back_off(now, luck)  # no log: keep what is there, stale
        self.top = top
        if top != self.position:
            self._leave_live()
        if from_origin and records and records[0].prev == ORIGIN:
            self._lose_state()  # the whole history is here, from a begin that starts with no rows
        following = self._following(records)
        self._is_off_the_log = following is None and top != self.position
        if following is None and top != self.position:
            if self.is_empty or from_origin:  # the log does not begin at the origin: only a snapshot tells what was before
                return self._strand(now, luck)
            return self._put(ReadManifest())
        commands: list[Command] = []
        self._is_cut_off = False
        for record in following or ():
            if record.prev != self.position:  # another history begins here
                self._is_cut_off = True
                return [*commands, *self._put(ReadManifest())]
            commands.append(self._apply(record))
        if self.position == top:
            self._arrived()
        elif commands:
            commands += self._put(ReadLog(self.position))
        else:  # the entries behind my position were deleted by hand
            self._is_cut_off = True
            commands += self._put(ReadManifest())
        return commands

    def _page_read_in_need(self, records: Sequence[Record], top: Position | None, now: float, luck: float) -> list[Command]:
        """Take in a page while what is held is not to be built upon: only that the table was dropped can be told from it."""
        if records and records[-1].op is Op.DROP and records[-1].position == top:
            self.top = top
            self._must_resync = False
            commands: list[Command] = [self._apply(records[-1])]
            self._arrived()
            return commands
        if self._is_manifest_missing:
            self._is_manifest_missing = False
            return [SetWant(), *self._back_off(now, luck)]
        return self._put(ReadManifest())

    def _following(self, records: Sequence[Record]) -> Sequence[Record] | None:
        """Return what follows my position in a page, or None if the page does not lead on from it."""
        for number, record in enumerate(records):
            if record.prev == self.position:
                return records[number:]
            if record.position == self.position:
                return records[number + 1 :]
        return None

    def _manifest_read(self, manifest: Manifest | None, is_held: bool, now: float, luck: float) -> list[Command]:
        is_behind_unread, self._is_behind_unread = self._is_behind_unread, False
        if manifest is None and (self.is_empty or self._is_off_the_log) and not self._must_resync and not is_behind_unread:
            return self._put(ReadLog(ORIGIN))
        if manifest is None and not self.is_empty and self._must_resync:
            self._is_manifest_missing = True
            return self._put(ReadLog(self.position))
        if manifest is not None and (is_held or self.is_empty):
            # If we have passed it and the log holds our position, it would bring us back here. If the log went back behind
            # us, it is the way back.
            leads_on = manifest.position not in self._recent or self._is_off_the_log
            if (leads_on or self._must_resync) and not self._is_distrusted(manifest.position, now):
                return self._put(LoadSnapshot(manifest))
        if (self._is_off_the_log or self._is_cut_off or self.is_empty) and not is_behind_unread:
            return self._strand(now, luck)
        return [SetWant(), *self._back_off(now, luck)]

    def _is_distrusted(self, position: Position, now: float) -> bool:
        """Say whether a snapshot may be as wrong as the state that is to be healed. Positions of one log have an order; that it
        may be another log is what DISTRUST_SECONDS is for."""
        diverged_at = self.diverged_at
        return diverged_at is not None and position < self._trusted_since and now < diverged_at + DISTRUST_SECONDS

    def _snapshot_loaded(self, position: Position, now: float) -> list[Command]:
        self.resyncs += 1
        self._is_off_the_log = self.is_stranded = False
        self.position = position
        self.highest = max(self.highest, position)
        self._must_resync = self._is_distrusted(position, now)  # the divergence was found while it was being loaded
        self._recent.clear()
        self._recent[position] = None
        self._retries = 0
        if self.state is not State.FAILED:
            self.state = State.RECOVERING
        return self._put(ReadLog(position))

    # Changes of state ----------------------------------------------------------------------------------------------

    def _apply(self, record: Record) -> Apply:
        self.is_stranded = False
        self.position = record.position
        self.highest = max(self.highest, record.position)
        self._recent[record.position] = None
        if len(self._recent) > RECENT:
            self._recent.popitem(last=False)
        if self.state is State.SYNCING:
            self.state = State.RECOVERING
        return Apply(record)

    def _arrived(self) -> None:
        self.state = State.LIVE
        self.is_stranded = False
        self.diverged_at = None
        self._retries = self._failures = 0

    def _leave_live(self) -> None:
        if self.state is State.LIVE:
            self.state = State.RECOVERING

    def _lose_state(self) -> None:
        self.position = ORIGIN
        self._recent.clear()
        if self.state is not State.FAILED:
            self.state = State.SYNCING

    def _go_back(self, held: Position) -> None:
        """Stand at a position that was passed already in the commands given, because they were not performed."""
        if held == ORIGIN:
            self._lose_state()
            return
        while self._recent and next(reversed(self._recent)) != held:
            self._recent.popitem()
        self._recent[held] = None
        self.position = held
        self._leave_live()

    def _strand(self, now: float, luck: float) -> list[Command]:
        self.is_stranded = True
        return [SetWant(), *self._back_off(now, luck)]

    def _failed(self, now: float, luck: float) -> list[Command]:
        self._failures += 1
        if self._failures >= FAILURES:
            self.state = State.FAILED
        return [SetWant(), *self._back_off(now, luck)]

    def _back_off(self, now: float, luck: float) -> list[Command]:
        """Ask again after a while that grows with each attempt in vain."""
        self._leave_live()
        self._retry_at = now + _wait(RETRY_SECONDS, self._retries, luck)
        self._retries += 1
        return []

    def _note_lag(self, now: float) -> None:
        if self.top is None or self.top == self.position:
            self.behind_since = None
        elif self.behind_since is None:
            self.behind_since = now

    def validate(self) -> None:
        """Check what must hold after every step; for tests."""
        assert len(self._recent) <= RECENT
        assert self.is_empty == (not self._recent), "what was applied ends at the position"
        assert self.is_empty or next(reversed(self._recent)) == self.position
        assert self.is_empty <= (self.state in (State.SYNCING, State.FAILED)), "only who holds something is beyond SYNCING"
        assert (self.state is State.SYNCING) <= self.is_empty
        assert (self.state is State.LIVE) <= (self._question is None or self.top == self.position)


def _wait(bounds: tuple[float, float], attempt: int, luck: float) -> float:
    """Return seconds to wait: doubling between the bounds, up to half more by luck."""
    first, longest = bounds
    return float(min(first * 2 ** min(attempt, 16), longest) * (1 + luck / 2))

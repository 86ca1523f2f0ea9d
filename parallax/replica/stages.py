"""Where updates are on their way: how long each stage took, seen with one record at a time.

accepted by Redis -> *sequenced* by the coordinator -> *received* over the feed -> *applied* to the engine -> *notified*: the poll
that shows it was told to those who subscribed -> *fetched*: the first viewer has an answer that shows it.

A record says when its oldest entry was accepted and when it was sequenced, by Redis's clock; from there on it is this process's
monotonic clock. What is observed of one record adds up to its whole way. Records that come while one is on its way are not
looked at, nor those that are read from the log after a loss: how late these are is in the table's lag.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from parallax.replication.position import Position
from parallax.replication.record import Record

STAGES = ("sequenced", "received", "applied", "notified", "fetched")
LONGEST_SECONDS = 60.0
"""Who asks later than that was not told of it, or has stopped looking."""

Observe = Callable[[str, float], None]
"""Takes a stage's name and how long it took (s)."""


@dataclass(slots=True)
class _Underway:
    position: Position
    sequenced_seconds: float
    received_seconds: float
    received_at: float  # time.monotonic(), as below
    applied_at: float | None = None


class Stages:
    """Of one table. `redis_time(moment)` says what a moment of time.monotonic() is by Redis's clock."""

    def __init__(self, redis_time: Callable[[float], float], observe: Observe) -> None:
        self._redis_time, self._observe = redis_time, observe
        self._underway: _Underway | None = None
        self._is_heard = False  # whether the last poll had anything to tell to anybody
        self._told_at = 0.0  # when that was
        self._notified_at: float | None = None  # of the last one that was heard, while nobody has fetched it

    @property
    def is_awaited(self) -> bool:
        """Say whether what was notified was not fetched yet."""
        return self._notified_at is not None

    def received(self, record: Record, at: float) -> None:
        """A record came over the feed, at a moment of time.monotonic()."""
        if self._underway is None and record.accepted_ms:
            # No clock is exact. What of these two is wrong, is not in their sum.
            both = max(0.0, self._redis_time(at) - record.accepted_ms / 1000)
            sequenced = min(both, max(0.0, (record.time_ms - record.accepted_ms) / 1000))
            self._underway = _Underway(record.position, sequenced, both - sequenced, at)

    def applied(self, records: Iterable[Record], at: float, *, is_visible: bool) -> None:
        """Records were handed to the engine, by a moment of time.monotonic(), and are visible there, or will be with the next poll."""
        underway = self._underway
        if underway is None or underway.applied_at is not None:
            return
        if any(record.position == underway.position for record in records):
            underway.applied_at = max(at, underway.received_at)  # earlier, if none of them changed rows
            if is_visible:  # perhaps since a poll in the same turn
                self._end(self._told_at if self._told_at >= underway.applied_at else time.monotonic())

    def given_up(self) -> None:
        """What was received and not applied will not be applied as it came."""
        if self._underway is not None and self._underway.applied_at is None:
            self._underway = None

    def notified(self, *, is_heard: bool) -> None:
        """A poll of all that was applied is over, and those who subscribed were told, if there are any."""
        self._is_heard, self._told_at = is_heard, time.monotonic()
        self._end(self._told_at)

    def _end(self, now: float) -> None:
        underway = self._underway
        if underway is None or underway.applied_at is None:
            return
        self._underway, self._notified_at = None, now if self._is_heard else None
        self._observe("sequenced", underway.sequenced_seconds)
        self._observe("received", underway.received_seconds)
        self._observe("applied", underway.applied_at - underway.received_at)
        self._observe("notified", now - underway.applied_at)

    def fetched(self) -> None:
        """An answer that shows it went to a viewer; after a long time it is one who was not waiting for it."""
        if self._notified_at is not None:
            seconds = time.monotonic() - self._notified_at
            self._notified_at = None
            if seconds <= LONGEST_SECONDS:
                self._observe("fetched", seconds)

"""Keep the books of a load test: what viewers saw and when, as plain objects without any IO.

Latencies count from the instant at which an update was due, whenever it was really sent: whoever waits for a slow system is
late for all that was due meanwhile, and the books say so (Gil Tene calls what else happens coordinated omission).
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hdrh.histogram import HdrHistogram

from loadtests.schedule import Schedule

LONGEST_US = 3_600_000_000
DIGITS = 3


class Freshness:
    """What one viewer has seen of the updates. Each is counted once, at the first answer that shows it or a newer one."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self.newest: int | None = None
        """The newest update on the screen."""
        self.backwards = 0
        """How often an answer was older than the one before."""

    def see(self, newest: int, now_us: int) -> list[int]:
        """Take in an answer; return the latencies (in microseconds) of the updates that it shows for the first time.

        The first answer counts for none: what it shows was published before the viewer came.
        """
        before, self.newest = self.newest, newest
        if before is None:
            return []
        if newest < before:
            self.backwards += 1
            self.newest = before
        return [max(0, now_us - self._schedule.due_us(seq)) for seq in range(before + 1, newest + 1)]

    def shows(self, due_us: int) -> bool:
        """Say whether all that was due before an instant is on the screen."""
        return self.newest is not None and (
            self.newest >= self._schedule.count or self._schedule.due_us(self.newest + 1) > due_us
        )

    @property
    def missing(self) -> int:
        """How many updates of the whole schedule have not come."""
        return self._schedule.count - (self.newest or 0)


class Deltas:
    """What one subscriber to row deltas got: the rows of each update, once, in order. An update comes in one piece."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._turn = schedule.rows // schedule.symbols  # so many updates later the same rows are written over
        self._base = 0
        self.newest: int | None = None
        """The newest update that came."""
        self.lost = 0
        """Rows that never came."""
        self.doubled = 0
        """Rows that came again."""

    def begin(self, seqs: Iterable[int]) -> None:
        """Take in the whole table, read after the subscription began; a delta adds to it only what is newer."""
        rows = Counter(seqs)
        self._base = max(rows, default=0)
        known = self._base - 1 if self.newest is None else self.newest
        for seq in range(max(0, known, self._base - self._turn) + 1, self._base + 1):
            self.lost += self._schedule.symbols - rows[seq]
        self.newest = max(self._base, self.newest or 0)

    def add(self, seqs: Iterable[int]) -> None:
        """Take in a delta."""
        assert self.newest is not None, "first the table, then what changed"
        found = sorted(Counter(seqs).items())
        for seq, rows in found:
            if seq > self.newest:
                known = max(self.newest, found[-1][0] - self._turn)
                self.lost += max(0, seq - known - 1) * self._schedule.symbols + max(0, self._schedule.symbols - rows)
                self.doubled += max(0, rows - self._schedule.symbols)
                self.newest = seq
            elif seq > self._base:
                self.doubled += rows

    def end(self) -> None:
        """Count what has not come although nothing more will."""
        self.lost += (self._schedule.count - (self.newest or 0)) * self._schedule.symbols


@dataclass(slots=True)
class Books:
    """Histograms in microseconds, and counts. Those of many processes add up."""

    histograms: dict[str, HdrHistogram] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def record(self, name: str, microseconds: int, times: int = 1) -> None:
        """Record a value; what lies beyond an hour counts as an hour."""
        self._of(name).record_value(min(max(microseconds, 0), LONGEST_US), times)

    def add(self, other: "Books") -> None:
        """Add another's books to these."""
        for name, histogram in other.histograms.items():
            self._of(name).add(histogram)
        self.counts.update(other.counts)

    def to_json(self) -> dict[str, Any]:
        """Return all of it as something that can be sent."""
        return {
            "histograms": {name: histogram.encode().decode() for name, histogram in self.histograms.items()},
            "counts": dict(self.counts),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Books":
        """Undo `to_json`."""
        histograms = {name: HdrHistogram.decode(text.encode()) for name, text in data["histograms"].items()}
        return cls(histograms, Counter(data["counts"]))

    def count(self, name: str) -> int:
        """Return how many values a histogram holds."""
        return self.histograms[name].get_total_count() if name in self.histograms else 0

    def ms(self, name: str, percentile: float) -> float | None:
        """Return a percentile in milliseconds, None if nothing was recorded."""
        if not self.count(name):
            return None
        value: float = self.histograms[name].get_value_at_percentile(percentile)
        return value / 1000

    def _of(self, name: str) -> HdrHistogram:
        if name not in self.histograms:
            self.histograms[name] = HdrHistogram(1, LONGEST_US, DIGITS)
        return self.histograms[name]

"""How long scheduled updates take until a viewer has them: each counted once, from the instant at which it was due.

An answer that shows update n shows all that were due before it, too, so that one slow answer weighs by the updates that it held
up, and a generator that waits for a slow server forgets none ("coordinated omission").
"""

from collections.abc import Iterable, Sequence
from math import ceil, floor

from hdrh.histogram import HdrHistogram

LONGEST_MS = 60_000
DIGITS = 3
SLACK = 1e-3
"""Of a period: instants come as decimals."""


class Seen:
    """What one viewer saw of updates that are due at a steady rate. All instants are those of time.time(), in ms."""

    def __init__(self, period_ms: float) -> None:
        self._period = period_ms
        self._last: float | None = None
        """When the newest update that was seen was due."""
        self._began = self._ends = float("inf")
        self._latencies: list[float] = []

    def begin(self, now: float) -> None:
        """Count updates that are due from now on."""
        self._began = now
        self._latencies.clear()

    def end(self, now: float) -> None:
        """Count no updates that are due after now; those that are still on their way may come."""
        self._ends = now

    def answer(self, newest: float, now: float) -> None:
        """Note an answer whose newest update was due at `newest`."""
        if self._last is None:  # it shows all that were due since counting began
            since = min(self._began, newest)
            self._last = newest - self._period * (1 + floor((newest - since) / self._period + SLACK))
        count = round((newest - self._last) / self._period)
        for number in range(count):
            due = newest - number * self._period
            if self._began - SLACK * self._period <= due <= self._ends + SLACK * self._period:
                self._latencies.append(now - due)
        if count > 0:
            self._last = newest

    def missing(self, now: float) -> list[float]:
        """Return when the updates were due that should have been seen by now, of those that count."""
        ends = min(now, self._ends)
        if self._last is None:  # never saw one: when they are due is not known, only how often
            return [ends - number * self._period for number in range(int((ends - self._began) / self._period))]
        first = max(1, ceil((self._began - self._last) / self._period - SLACK))
        last = floor((ends - self._last) / self._period + SLACK)
        return [self._last + number * self._period for number in range(first, last + 1)]

    def latencies(self, now: float) -> list[float]:
        """Return the latency of each update of the window, in ms; one that is missing has taken as long as until now."""
        return self._latencies + [now - due for due in self.missing(now)]


def histogram(latencies_ms: Iterable[float]) -> HdrHistogram:
    """Return an HDR histogram of latencies, in microseconds."""
    made = HdrHistogram(1, LONGEST_MS * 1000, DIGITS)
    for latency in latencies_ms:
        made.record_value(min(LONGEST_MS * 1000, max(1, round(latency * 1000))))
    return made


def merged(encoded: Sequence[str]) -> HdrHistogram:
    """Return the histogram of the union of encoded ones."""
    made = histogram(())
    for one in encoded:
        made.decode_and_add(one.encode())
    return made


def summary(found: HdrHistogram) -> dict[str, float]:
    """Return the percentiles that are reported, in ms, and how many values there are."""
    if not found.total_count:
        return {}
    shares = {"p50": 50.0, "p99": 99.0, "p999": 99.9, "worst": 100.0}
    return {name: found.get_value_at_percentile(share) / 1000 for name, share in shares.items()} | {
        "count": found.total_count
    }

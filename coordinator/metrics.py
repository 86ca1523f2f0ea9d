"""What /metrics of a coordinator says."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from coordinator.backlog import Backlogs
from coordinator.leadership import Leadership
from parallax.memory import resident_bytes
from parallax.metrics import lags, text_of
from parallax.replica.replica import Replica

SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 30.0)
RANDOM_BITS = 20
"""Of a term."""
COUNTED = {
    "entries": "Entries of ingest that were sequenced or refused",
    "refused": "Entries that were refused",
    "records": "Records that were appended to logs",
    "rows": "Rows in them",
    "bytes": "Bytes of them, about",
    "begins": "Begins that this coordinator appended: once when it takes over, and after every doubt",
    "forks": "Appends that found another log than the leader knew",
    "lost": "Records that Redis was found to have lost",
    "snapshots": "Snapshots that were written",
    "channel_messages": "Messages of fire-and-forget publishers that were moved into ingest",
    "channel_dropped": "Messages of fire-and-forget publishers that were lost because they came too fast",
}


@dataclass(frozen=True, slots=True)
class Watched:
    """What is measured."""

    leadership: Leadership
    backlogs: Backlogs
    replicas: Iterable[Replica]


class Metrics(Collector):
    """Prometheus metrics of one coordinator. All but the times are read off its parts when they are asked for."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._watched: Watched | None = None
        self._times = {
            what: Histogram(f"parallax_coordinator_{what}_seconds", text, ["table"], buckets=SECONDS, registry=self.registry)
            for what, text in (
                ("sequence", "From when Redis took an entry until it had its place in a record: the oldest of each batch"),
                ("append", "How long a call of append took, heartbeats too"),
            )
        }

    def watch(self, leadership: Leadership, backlogs: Backlogs, replicas: Iterable[Replica]) -> None:
        """Report on a coordinator's parts."""
        self._watched = Watched(leadership, backlogs, replicas)
        self.registry.register(self)

    def observe(self, table: str, what: str, seconds: float) -> None:
        """Take note of how long something took: `sequence` or `append`."""
        self._times[what].labels(table=table).observe(seconds)

    def text(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        return text_of(self.registry)

    def collect(self) -> Iterator[Metric]:
        """Read the parts. Runs on the event loop's thread, whose processor time is the loop's."""
        if self._watched is None:
            return
        leadership, backlogs = self._watched.leadership, self._watched.backlogs
        yield GaugeMetricFamily("parallax_coordinator_leader", "1: it leads, 0: it stands by", value=leadership.is_leader)
        yield GaugeMetricFamily("parallax_coordinator_memory_bytes", "Memory of the process", value=resident_bytes())
        busy = "Processor time of the event loop's thread"
        yield CounterMetricFamily("parallax_coordinator_event_loop_busy_seconds", busy, value=time.thread_time())
        # Zeros for tables that it never led: Prometheus sees no increase in what begins above it.
        totals = {replica.keys.table: Counter[str]() for replica in self._watched.replicas} | leadership.totals()
        for name, text in COUNTED.items():
            counter = CounterMetricFamily(f"parallax_coordinator_{name}", text, labels=["table"])
            for table, counts in sorted(totals.items()):
                counter.add_metric([table], counts[name])
            yield counter
        terms = {
            table: float(sequencer.head.term >> RANDOM_BITS)
            for table, sequencer in leadership.sequencers.items()
            if sequencer.head is not None
        }
        waits = backlogs.tables
        for name, text, values in (
            ("term", "The term in which it leads, without its random bits: it grows with each", terms),
            ("backlog_entries", "Entries that wait in ingest", {table: found.entries for table, found in waits.items()}),
            ("backlog_seconds", "How long the oldest has waited", {table: found.seconds for table, found in waits.items()}),
            ("log_entries", "Records that the log holds", {table: found.log_entries for table, found in waits.items()}),
        ):
            gauge = GaugeMetricFamily(f"parallax_coordinator_{name}", text, labels=["table"])
            for table, value in sorted(values.items()):
                gauge.add_metric([table], value)
            yield gauge
        yield from lags("parallax_coordinator", self._watched.replicas)

"""What /metrics of a node says."""

import math
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from node.auth import REASONS
from node.gateway import Gateway
from node.gateway.requests import NAMES
from parallax.clock import RedisClock
from parallax.memory import resident_bytes
from parallax.metrics import lags, text_of
from parallax.replica.engine import Engine
from parallax.replica.replica import Replica
from parallax.replica.stages import STAGES, Stages
from parallax.replication.verdict import Verdict

SECONDS = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0)
STAGE_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 30.0)
UNKNOWN = 0
"""Stands for the numbers of requests that there are not."""
SHARERS = (1, 2, 5, 10, 50, 100, 500, 1000)


class Latency:
    """How many requests of one kind took how long: as prometheus_client's histogram, at a fifth of what it costs a request."""

    def __init__(self) -> None:
        self.counts = [0] * (len(SECONDS) + 1)
        self.seconds = 0.0


class Metrics(Collector):
    """Prometheus metrics of one node. All but the latencies are read off the gateway when they are asked for."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._gateway: Gateway | None = None
        self._engine: Engine | None = None
        self._replicas: Iterable[Replica] = ()
        self._clock: RedisClock | None = None
        self._latency = {number: Latency() for number in (*NAMES, UNKNOWN)}
        self._stages = Histogram(
            "parallax_node_stage_seconds",
            "How long updates took from one stage of their way to the next, seen with one at a time",
            ["table", "stage"],
            buckets=STAGE_SECONDS,
            registry=self.registry,
        )

    def watch(
        self, gateway: Gateway, engine: Engine, replicas: Iterable[Replica] = (), clock: RedisClock | None = None
    ) -> None:
        """Report on a gateway, its engine and its replicas, and on how well Redis's clock is known."""
        self._gateway, self._engine, self._replicas, self._clock = gateway, engine, replicas, clock
        self.registry.register(self)

    def observe(self, number: int, started: float) -> None:
        """Take note of a request that was answered; `started` is time.monotonic() when it came."""
        seconds = time.monotonic() - started
        latency = self._latency[number if number in NAMES else UNKNOWN]
        latency.seconds += seconds
        latency.counts[bisect_left(SECONDS, seconds)] += 1

    def stages(self, table: str, redis_time: Callable[[float], float]) -> Stages:
        """Return what watches a table's updates on their way, and observes how long they take."""
        observers = {stage: self._stages.labels(table=table, stage=stage).observe for stage in STAGES}
        return Stages(redis_time, lambda stage, seconds: observers[stage](seconds))

    def text(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        return text_of(self.registry)

    def collect(self) -> Iterator[Metric]:
        """Read the gateway. Runs on the event loop's thread, whose processor time is the loop's."""
        gateway, engine = self._gateway, self._engine
        if gateway is None or engine is None:
            return
        counts = gateway.counts
        yield GaugeMetricFamily("parallax_node_sessions", "Viewers connected", value=gateway.sessions)
        yield GaugeMetricFamily("parallax_node_views", "Views that the viewers have", value=gateway.views)
        yield GaugeMetricFamily("parallax_node_subscriptions", "Subscriptions of the viewers", value=gateway.subscriptions)
        yield GaugeMetricFamily("parallax_node_cache_bytes", "Bytes of answers that are kept", value=gateway.budget.used)
        yield GaugeMetricFamily("parallax_node_outbox_bytes", "Bytes that wait for the viewers", value=gateway.waiting_bytes)
        yield GaugeMetricFamily("parallax_node_quarantined", "Views that are quarantined", value=gateway.quarantine.views)
        yield GaugeMetricFamily("parallax_node_memory_bytes", "Memory of the process", value=resident_bytes())
        error = math.inf if self._clock is None else self._clock.error_seconds
        text = "By how much Redis's clock may be taken wrong, either way"
        yield GaugeMetricFamily("parallax_node_clock_error_seconds", text, value=error)
        yield self._requests()
        yield from self._per_table(gateway)
        yield from lags("parallax_node", self._replicas)
        verdicts = CounterMetricFamily(
            "parallax_node_verdicts",
            "Comparisons of a table's replicas, by how this node's stood",
            labels=["table", "verdict"],
        )
        for replica in self._replicas:
            for verdict in Verdict:
                verdicts.add_metric([replica.keys.table, verdict], replica.verdicts[verdict])
        yield verdicts
        answers = CounterMetricFamily(
            "parallax_node_answers",
            "Answers to reads, by where they came from: the engine, or one that was there",
            labels=["from"],
        )
        answers.add_metric(["engine"], counts.computed)
        answers.add_metric(["shared"], counts.shared)
        yield answers
        refusals = CounterMetricFamily(
            "parallax_node_auth_refusals", "Connections that were refused for want of a good token", labels=["reason"]
        )
        for reason in REASONS:
            refusals.add_metric([reason], counts.auth_refusals[reason])
        yield refusals
        for name, text, value in (
            ("notifications", "Notifications that were sent", counts.notified),
            (
                "notifications_conflated",
                "Notifications left out, since the viewer had not got the last one",
                counts.conflated,
            ),
            ("slow_closes", "Viewers that were closed because they took in too little", counts.slow_closes),
            ("idle_closes", "Viewers that were closed because they asked and heard nothing", counts.idle_closes),
            ("silent_closes", "Viewers that were closed because they answered no ping", counts.silent_closes),
            ("expired_closes", "Viewers that were closed because their token had expired", counts.expired_closes),
            ("full_refusals", "Viewers that were refused because the node was full", counts.full_refusals),
            ("shed_closes", "Viewers that were let go to nodes with fewer", counts.shed),
            ("overdue_views", "Views that took the engine longer than they may", counts.overdue),
            ("quarantined_refusals", "Views that were refused because they are quarantined", gateway.quarantine.refusals),
            ("throttled_requests", "Requests after which a viewer's next one had to wait", counts.throttled),
            ("refused_requests", "Requests that were answered by an error of the gateway", counts.refused),
            ("event_loop_busy_seconds", "Processor time of the event loop's thread", time.thread_time()),
            ("engine_busy_seconds", "Time that the tables' lanes were at work, all together", engine.busy_seconds),
        ):
            yield CounterMetricFamily(f"parallax_node_{name}", text, value=value)

    def _requests(self) -> Metric:
        family = HistogramMetricFamily(
            "parallax_node_request_seconds",
            "From the arrival of a viewer's request until its answer was put into the outbox",
            labels=["request"],
        )
        for number, latency in self._latency.items():
            so_far = accumulate(latency.counts)
            buckets = [(str(most), float(count)) for most, count in zip((*SECONDS, "+Inf"), so_far, strict=True)]
            family.add_metric([NAMES.get(number, "unknown")], buckets, sum_value=latency.seconds)
        return family

    def _per_table(self, gateway: Gateway) -> Iterator[Metric]:
        views = GaugeMetricFamily(
            "parallax_node_engine_views", "Views of the engine, by who may join them", labels=["table", "kind"]
        )
        sharing = HistogramMetricFamily(
            "parallax_node_viewers_per_view", "How many views of viewers each engine view stands for", labels=["table"]
        )
        for hosted in gateway.hosted:
            for kind in ("shared", "private"):
                count = sum((view.key is None) == (kind == "private") for view in hosted.views)
                views.add_metric([hosted.name, kind], count)
            counts = [view.references for view in hosted.views]
            buckets = [(str(float(most)), float(sum(count <= most for count in counts))) for most in SHARERS]
            sharing.add_metric([hosted.name], [*buckets, ("+Inf", float(len(counts)))], sum_value=float(sum(counts)))
        yield views
        yield sharing

"""What the /metrics of nodes and coordinators have in common."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from tornado.web import RequestHandler

from parallax.replica.replica import Replica


class _MetricsHandler(RequestHandler):
    def initialize(self, text: Callable[[], bytes]) -> None:
        self._text = text

    def get(self) -> None:
        self.set_header("Content-Type", CONTENT_TYPE_LATEST)
        self.finish(self._text())


def metrics_routes(text: Callable[[], bytes]) -> list[Any]:
    """Return the route of /metrics, which answers `text()`."""
    return [(r"/metrics", _MetricsHandler, {"text": text})]


def text_of(registry: CollectorRegistry) -> bytes:
    """Return all metrics in Prometheus's text format."""
    return generate_latest(registry)


def lags(prefix: str, replicas: Iterable[Replica]) -> Iterator[Metric]:
    """Yield how far the replicas of a process are behind."""
    known = [replica for replica in replicas if not replica.is_dropped]
    for name, text, values in (
        ("lag_seconds", "For how long there has been something newer than what it holds", [r.lag_seconds for r in known]),
        ("lag_records", "How many records it is known to be behind", [float(r.follower.lag_records) for r in known]),
        ("silence_seconds", "How long nothing came over the feed", [r.silence_seconds for r in known]),
    ):
        gauge = GaugeMetricFamily(f"{prefix}_{name}", text, labels=["table"])
        for replica, value in zip(known, values, strict=True):
            gauge.add_metric([replica.keys.table], value)
        yield gauge

"""Fixtures that many tests share."""

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, settings

from parallax.demo import ports

RUNNERS = 4

pytest.register_assert_rewrite("tests.cluster", "tests.oracle", "tests.processes")  # so that they say what was compared

settings.register_profile("parallax", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("parallax")  # how fast this machine is at the moment is not what the tests are about

# Each of several runners side by side chooses from ports of its own: between the choice and the start nobody may take one.
_RUNNER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % RUNNERS
_LOW, _HIGH = ports.OTHER_PORTS
_SHARE = (_HIGH - _LOW) // RUNNERS
ports.OTHER_PORTS = (_LOW + _RUNNER * _SHARE, _LOW + (_RUNNER + 1) * _SHARE)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell started us in the background; what we start must hear it
    signal.signal(signal.SIGINT, signal.default_int_handler)

if TYPE_CHECKING:
    from parallax.replication.spec import TableSpec
    from tests.browser import Browser
    from tests.cluster import Cluster
    from tests.page_node import Node
    from tests.relay import Relay


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that start processes: they take longest, and side by side the last one decides."""
    long = {item.path for item in items if item.get_closest_marker("cluster") or item.get_closest_marker("browser")}
    items.sort(key=lambda item: item.path not in long)


@pytest.fixture
async def relay(node: "Node") -> "AsyncIterator[Relay]":
    """A line to the `node` of the test's module."""
    from tests.relay import relay_to

    port = urlsplit(node.url).port
    assert port is not None
    async with relay_to(port) as relay:
        yield relay


@pytest.fixture
async def make_cluster(tmp_path: Path) -> "AsyncIterator[Callable[..., Awaitable[Cluster]]]":
    """`await make_cluster(specs, **settings of tests.cluster.Cluster)`: a fleet of real processes, ended with the test.

    What its processes said is shown when the test fails.
    """
    from tests.cluster import Cluster  # here, so that tests without processes need not load its parts

    clusters: list[Cluster] = []

    async def make(specs: "Sequence[TableSpec]", **options: Any) -> Cluster:
        directory = tmp_path / f"cluster-{len(clusters)}"
        directory.mkdir()
        cluster = Cluster(directory, specs, **options)
        clusters.append(cluster)
        await cluster.start()
        return cluster

    yield make
    for cluster in clusters:
        await cluster.close()
        print(cluster.logs())


@pytest.fixture
async def browser() -> "AsyncIterator[Browser]":
    """A real Chromium: `tab = await browser.open(url)`; `tab.complaints` says what went wrong on the page."""
    from tests.browser import running_browser

    async with running_browser() as running:
        yield running

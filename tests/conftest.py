"""Fixtures that many tests share."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from parallax.replication.spec import TableSpec
    from tests.cluster import Cluster


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

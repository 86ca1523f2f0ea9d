"""Every value of every type, published in every format, comes back bit for bit from every node: live, after a join from the
snapshot, and after a leader change."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pyarrow as pa
import pytest

from parallax.replication.snapshot import Manifest
from parallax.replication.spec import TableSpec
from tests.cluster import Cluster
from tests.formats import WRITERS, bits
from tests.processes import PATIENCE, until
from tests.test_ingest_formats import TYPES, extremes

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120 * PATIENCE)]

SPECS = {form: replace(TYPES, name=f"types_{form}") for form in WRITERS}


async def rows_of(cluster: Cluster, name: str, spec: TableSpec) -> pa.Table:
    """Read a table through a node's websocket, as any client does."""
    async with asyncio.timeout(20 * PATIENCE), cluster.viewer(name) as client:
        view = await (await client.open_table(spec.name)).view()
        found = pa.ipc.open_stream(await view.to_arrow()).read_all()
        await view.delete()
    return found.select(spec.columns).cast(spec.arrow_schema)


async def assert_exact(cluster: Cluster, expected: pa.Table) -> None:
    for name in (name for name in cluster.running if name.startswith("node")):
        for form, spec in SPECS.items():
            found = bits(await rows_of(cluster, name, spec))
            wrong = [column for column, values in bits(expected).items() if found[column] != values]
            assert not wrong, f"{name}, published as {form}: {wrong}"


async def test_every_value_of_every_type_in_every_format(make_cluster: Callable[..., Awaitable[Cluster]]) -> None:
    cluster = await make_cluster(list(SPECS.values()), nodes=2)
    table = extremes()
    for form, spec in SPECS.items():
        await cluster.publish(spec.name, op="update", format=form, data=WRITERS[form](table))
    await cluster.converged()
    for spec in SPECS.values():
        assert await cluster.rejected(spec.name) == []
    await assert_exact(cluster, table)

    # A snapshot of just this state, and a node that begins with it.
    async def is_in_a_snapshot() -> bool:
        for spec in SPECS.values():
            body = await cluster.redis.hget(f"parallax:{{{spec.name}}}:manifest", "body")
            await cluster.redis.set(f"parallax:{{{spec.name}}}:want", "1", ex=10)
            assert Manifest.decode(body).rows == table.num_rows, spec.name
        return True

    await until(is_in_a_snapshot, 20, "the snapshots hold the rows")
    joined = await cluster.add_node()
    status = await cluster.status(joined)
    assert all(status["tables"][spec.name]["resyncs"] == 1 for spec in SPECS.values())
    await assert_exact(cluster, table)

    await cluster[await cluster.leader()].kill()
    await cluster.leader()
    for form, spec in SPECS.items():
        await cluster.publish(spec.name, op="replace", format=form, data=WRITERS[form](table))
    await cluster.converged()
    await assert_exact(cluster, table)

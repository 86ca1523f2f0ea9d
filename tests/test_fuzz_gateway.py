"""Whatever frames come, a node lives, serves the others, and keeps nothing of it."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable

import pytest

from parallax.replica.engine import to_ipc
from tests.cluster import Cluster
from tests.differential import SPECS, arrow
from tests.differential_requests import COLUMNS, Requests
from tests.fuzz_gateway import Sent, fuzz
from tests.processes import PATIENCE, until
from tests.sockets import measured, resident_bytes

pytestmark = [pytest.mark.cluster]
SETTINGS = {"MAX_REQUESTS_PER_SECOND": "1000000", "LINGER_SECONDS": "0"}


async def survive(cluster: Cluster, seeds: range, frames: int) -> tuple[Sent, list[int]]:
    """Fuzz a node with ticks going on; return what was sent, and how much memory the node had after each seed."""
    source, whole = Requests(0), Sent()
    node = cluster["node-1"]
    for name in SPECS:
        await cluster.publish(name, op="update", format="arrow", data=to_ipc(arrow(source.rows(40, list(COLUMNS)))))
    await cluster.at_rest()
    sizes: list[int] = []
    heard: list[float] = []
    waits: list[float] = []
    stop = asyncio.Event()

    async def ticks() -> None:
        for number, name in enumerate(itertools.cycle(SPECS)):
            if stop.is_set():
                break
            # The table without a bound stays as small as the others: what it holds would be taken for what frames leave behind.
            op, count = ("replace", 40) if name == "all" and number % 60 < len(SPECS) else ("update", 3)
            await cluster.publish(name, op=op, format="arrow", data=to_ipc(arrow(source.rows(count, list(COLUMNS)))))
            await asyncio.sleep(0.02)

    async with cluster.viewer("node-1") as good:
        view = await (await good.open_table("keyed")).view(columns=["n"], sort=[["n", "asc"]])
        await view.on_update(lambda *_: heard.append(time.monotonic()))

        async def looks() -> None:
            while not stop.is_set():
                asked = time.monotonic()
                await view.to_columns(start_row=0, end_row=5)
                waits.append(time.monotonic() - asked)
                await asyncio.sleep(0.05)

        async with asyncio.TaskGroup() as group:
            group.create_task(ticks())
            group.create_task(looks())
            for seed in seeds:
                found = await fuzz(cluster.url("node-1", "/websocket").replace("http", "ws"), seed, frames)
                whole.frames += found.frames
                whole.readable += found.readable
                whole.answers += found.answers
                whole.closed += found.closed
                whole.ways += found.ways
                assert node.pid == cluster["node-1"].pid
                assert await view.num_rows() > 0, "the good viewer is not served"
                sizes.append(resident_bytes(cluster))
            stop.set()
    longest = max(later - earlier for earlier, later in itertools.pairwise(heard))
    print(f"{whole}\nthe good viewer: longest pause {longest:.3f} s, longest wait {max(waits):.3f} s")
    print(f"resident MiB: {[size >> 20 for size in sizes]}")
    assert max(waits) < 2 * PATIENCE, "he waits for an answer"
    assert longest < 10 * PATIENCE  # Redis and the coordinator are in it, too

    async def is_clean() -> bool:
        found = await measured(cluster)
        assert found("sessions") == 0
        for table in SPECS:
            for kind in ("shared", "private"):
                assert found("engine_views", table=table, kind=kind) == 0
        return True

    await until(is_clean, 20, "nothing is left of it")
    await cluster.converged()
    return whole, sizes


async def test_a_node_survives_frames_that_no_client_sends(make_cluster: Callable[..., Awaitable[Cluster]]) -> None:
    cluster = await make_cluster(list(SPECS.values()), coordinators=1, nodes=1, settings=SETTINGS)
    sent, _ = await survive(cluster, range(4), 5000)
    assert sent.readable > sent.frames / 2
    assert sent.answers > sent.frames / 4
    assert len(sent.ways) > 20


@pytest.mark.deep
@pytest.mark.timeout(3600 * PATIENCE)
async def test_a_node_survives_a_million_of_them(make_cluster: Callable[..., Awaitable[Cluster]]) -> None:
    cluster = await make_cluster(list(SPECS.values()), coordinators=1, nodes=1, settings=SETTINGS)
    sent, sizes = await survive(cluster, range(100, 150), 20_000)
    assert sent.frames == 1_000_000
    # On two busy cores: 136 MiB after 20,000 frames, 154 after half of them, 161 after all.
    assert sizes[-1] - sizes[24] < 24 << 20, "the second half of the frames leaves next to nothing"
    assert sent.readable > sent.frames / 2

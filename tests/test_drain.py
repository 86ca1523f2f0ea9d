"""How a node hands its viewers over."""

import asyncio

from node.gateway import Gateway
from node.settings import NodeSettings
from parallax.tasks import Tasks
from tests.viewers import Viewer

SYSTEM_INFO = 17


async def test_who_comes_while_a_node_leaves_is_let_in_and_goes_last() -> None:
    gateway = Gateway(NodeSettings())
    early = [Viewer(gateway) for _ in range(3)]
    async with Tasks() as tasks:
        leaving = tasks.start(gateway.drain(1.0), name="drain")
        await asyncio.sleep(0)
        late = Viewer(gateway)
        (answer,) = await late.ask(SYSTEM_INFO)
        assert answer.number == SYSTEM_INFO
        assert late.closed == []
        await leaving
    assert {viewer.closed[0][0] for viewer in [*early, late]} == {1012}
    await gateway.close()


async def test_they_go_in_small_lots() -> None:
    gateway = Gateway(NodeSettings())
    viewers = [Viewer(gateway) for _ in range(100)]
    async with Tasks() as tasks:
        leaving = tasks.start(gateway.drain(2.0), name="drain")
        gone = []
        while not leaving.done():
            gone.append(sum(bool(viewer.closed) for viewer in viewers))
            await asyncio.sleep(0.01)
    assert 0 < gone[5] < 50
    assert len(set(gone)) > 10
    assert all(viewer.closed for viewer in viewers)
    await gateway.close()

"""The engine's table is made anew now and then, while viewers look at it: they must not notice, however often it happens."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from node.gateway import Gateway
from node.settings import NodeSettings
from parallax.replica.engine import Engine, EngineTable
from parallax.replication.record import Op
from parallax.replication.spec import TableSpec
from tests.processes import PATIENCE
from tests.test_filling import encode
from tests.viewers import Viewer

SPEC = TableSpec.declare("t", {"schema": {"id": "integer", "k": "string", "j": "date", "n": "integer"}, "limit": 7})
NULLS = encode(SPEC, [{"id": 1, "k": None, "j": None, "n": 3}], ["id", "k", "n"])
"""A table with a limit that was cleared is made anew to take these in, see `parallax.replica.filling`."""


@pytest.fixture
async def hosted() -> AsyncIterator[tuple[Gateway, EngineTable]]:
    engine = Engine(frame_seconds=0.001)
    table = engine.table("t")
    await table.load(SPEC, SPEC.arrow_schema.empty_table())
    await table.apply([(Op.UPDATE, NULLS)])
    gateway = Gateway(NodeSettings())
    gateway.add_table("t", table)
    yield gateway, table
    await gateway.close()
    await engine.close()


async def make_anew(gateway: Gateway, table: EngineTable) -> None:
    before = table.generation
    await table.apply([(Op.CLEAR, b""), (Op.UPDATE, NULLS)])
    assert table.generation > before
    gateway.add_table("t", table)  # as a node does then
    await asyncio.sleep(0)


async def test_views_outlive_a_table_that_is_made_anew_again_and_again(hosted: tuple[Gateway, EngineTable]) -> None:
    gateway, table = hosted
    viewer = Viewer(gateway)
    opened = await (await viewer.connect()).open_table("t")
    views = [await opened.view(columns=["n"], filter=[["n", ">", -number]]) for number in range(8)]
    heard = []
    for number, view in enumerate(views):
        await view.on_update(lambda *_, number=number: heard.append(number))
    for _ in range(40):
        await make_anew(gateway, table)
    assert [await view.to_columns() for view in views] == [{"n": [3]}] * 8
    heard.clear()
    await table.apply([(Op.UPDATE, NULLS)])
    await table.flush()
    await viewer.settled()
    assert [await view.to_columns() for view in views] == [{"n": [3, 3]}] * 8
    assert set(heard) == set(range(8)), "they still hear of changes"
    await viewer.close()


async def test_a_view_whose_table_is_made_anew_just_when_it_is_made_hears_of_changes(
    hosted: tuple[Gateway, EngineTable], monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway, table = hosted
    viewer = Viewer(gateway)
    opened = await (await viewer.connect()).open_table("t")
    first = gateway.find("t")
    assert first is not None
    acquire = first.acquire

    async def acquire_and_then(*arguments: Any, **options: Any) -> Any:
        view = await acquire(*arguments, **options)
        await make_anew(gateway, table)
        return view

    monkeypatch.setattr(first, "acquire", acquire_and_then)
    view = await opened.view(columns=["n"])
    heard = asyncio.Event()
    await view.on_update(lambda *_: heard.set())
    await viewer.settled()
    await table.apply([(Op.UPDATE, NULLS)])
    await table.flush()
    async with asyncio.timeout(5 * PATIENCE):
        await heard.wait()
    await viewer.close()

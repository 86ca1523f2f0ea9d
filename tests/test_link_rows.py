"""Streams of changed rows (`on_update(mode="row")`) through connections that are lost, of `parallax.connect` and of link.js."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from random import Random
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from playwright.async_api import expect

import parallax
from node.gateway.answers import Answer
from node.gateway.shared_view import PLAIN, REMOVED, ROWS
from node.gateway.views import View
from parallax.replication.spec import TableSpec
from parallax.tasks import Tasks
from tests.browser import Browser
from tests.page_node import Node
from tests.processes import PATIENCE, until
from tests.test_link import CONNECTS

COUNTED = TableSpec("rows", (("k", "integer"), ("n", "integer")), index="k")
UPDATES = 600
FOLLOWS = f"""async () => {{
    {CONNECTS}
    const view = await (await link.client.open_table("rows")).view();
    window.deltas = [];
    await view.on_update(({{ delta }}) => deltas.push(Array.from(delta)), {{ mode: "row" }});
    await view.num_rows(); // answered after the subscription, which has no answer, was taken in
}}"""


@pytest.mark.parametrize(("kind", "expected"), [(PLAIN, 1), (ROWS, 2), (REMOVED, 2)])
async def test_who_hears_of_rows_gets_no_answer_that_is_older_than_they_are(kind: str, expected: int) -> None:
    """The engine's answer of version 1 was on its way while it told the rows of version 2."""
    given = [Answer(16, b"old", 1), Answer(16, b"new", 2)]

    async def read(*_: Any, **__: Any) -> Answer:
        return given.pop(0)

    hosted: Any = SimpleNamespace(read=read, table=SimpleNamespace(version=2))
    shared: Any = SimpleNamespace(answers=None)
    subscription: Any = SimpleNamespace(kind=kind)
    view = View(hosted, None, shared, subscriptions={1: subscription})
    assert (await view.read(16, b"")).version == expected


@asynccontextmanager
async def busy() -> AsyncIterator[Node]:
    node = Node()
    try:
        await node.host(COUNTED, [{"k": 0, "n": 0}])
        yield node
    finally:
        await node.close()


async def feed(node: Node) -> None:
    """Let each update raise the number of the first row and add a row; lose the connection at any time, again and again."""
    random = Random(7)

    async def update() -> None:
        for number in range(1, UPDATES + 1):
            await node.update(COUNTED, [{"k": 0, "n": number}, {"k": number, "n": number}])
            await asyncio.sleep(0.005)

    async with Tasks() as tasks:
        updating = tasks.start(update(), name="updates")
        while not updating.done():
            await asyncio.sleep(random.uniform(0.05, 0.3))
            await node.hand_over()


def check(deltas: Iterable[bytes]) -> int:
    """Check that nothing is lost, doubled, or goes back, by the rules that docs/clients.md gives; return how often all rows came.

    After a loss all rows come as the next delta, and then those that are newer.
    """
    last = counter = wholes = 0
    for delta in deltas:
        rows = {row["k"]: row["n"] for row in pa.ipc.open_stream(delta).read_all().to_pylist()}
        assert rows[0] >= counter, f"{rows[0]} after {counter}"
        counter = rows.pop(0)
        keys = sorted(rows)
        if keys[0] == 1 and last > 0:
            wholes += 1
            assert keys[-1] >= last, f"all rows up to {keys[-1]}, but {last} was there before"
        else:
            assert keys[0] == last + 1, f"{keys[0]} after {last}"
        assert keys == list(range(keys[0], keys[-1] + 1)), f"rows are missing within a delta: {keys}"
        last = keys[-1]
    assert (last, counter) == (UPDATES, UPDATES)
    return wholes


async def test_a_python_program_loses_and_doubles_none() -> None:
    deltas: list[bytes] = []
    async with busy() as node, asyncio.timeout(90 * PATIENCE), parallax.connect(node.url) as client:
        view = await (await client.open_table("rows")).view()
        await view.on_update(lambda _, delta: deltas.append(delta), mode="row")
        await view.num_rows()  # answered after the subscription, which has no answer, was taken in
        await feed(node)

        async def has_all() -> bool:
            check(deltas)
            return True

        await until(has_all, 20, "the last row has come")
        assert check(deltas) > 5


@pytest.mark.browser
async def test_a_page_loses_and_doubles_none(browser: Browser) -> None:
    async with busy() as node, asyncio.timeout(120 * PATIENCE):
        tab = await browser.open(node.url + "?table=none")
        await expect(tab.page.locator("#empty")).to_be_visible()
        await tab.page.evaluate(FOLLOWS)
        await feed(node)

        async def has_all() -> bool:
            check(map(bytes, await tab.page.evaluate("deltas")))
            return True

        await until(has_all, 20, "the last row has come")
        assert check(map(bytes, await tab.page.evaluate("deltas"))) > 5
        assert [
            line for line in tab.complaints if "/websocket' failed" not in line
        ] == []  # a busy machine's handshakes take long

"""Answers that are kept, and what becomes of them when nobody can ask for them any more."""

import asyncio

import pyarrow as pa

from node.gateway import Gateway, messages
from node.gateway.answers import Answer, Answers, Budget
from node.settings import NodeSettings
from parallax.replica.engine import Engine
from parallax.replication.spec import TableSpec

SPEC = TableSpec.declare("t", {"schema": {"n": "integer"}, "limit": 9})
ARROW = 16


async def test_nothing_is_kept_of_a_view_that_was_let_go_while_it_was_read() -> None:
    engine = Engine(frame_seconds=0.001)
    gateway = Gateway(NodeSettings(linger_seconds=0))
    table = engine.table("t")
    await table.load(SPEC, pa.table({"n": pa.array([1, 2], pa.int32())}))
    gateway.add_table("t", table)
    (hosted,) = gateway.hosted
    view = await hosted.acquire(messages.new("Config"), is_private=True)
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(hosted.read(view.answers, ARROW, b""))
        while not view.answers.flights:  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0)
        hosted.release(view)
    assert reading.result().number == ARROW, "who waits is still answered"
    assert gateway.budget.used == 0
    await gateway.close()
    await engine.close()


def test_what_was_closed_keeps_nothing() -> None:
    budget = Budget(limit=10_000, largest=1000)
    answers, others = Answers("view-1", budget), Answers("view-2", budget)
    for one in (answers, others):
        one.keep((12, b""), Answer(12, b"1234"), 1)
    answers.close()
    answers.keep((12, b""), Answer(12, b"1234"), 2)
    assert answers.get((12, b""), 2) is None
    assert budget.used == 204, "of the other one"
    assert others.get((12, b""), 1) == Answer(12, b"1234")

"""Viewers' edits: through ingest and the log, like anybody's; the one who made them sees them when he is answered."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pyarrow as pa
import pytest
import pytest_asyncio

from node.gateway import edits, messages
from parallax.replica.engine import to_ipc
from parallax.replication.record import Op
from parallax.replication.spec import TableSpec
from parallax.wire import Refused
from tests.cluster import Cluster
from tests.processes import until

COLUMNS = {"id": "int64", "name": "string", "n": "integer"}
OPEN = TableSpec.declare("open", {"schema": COLUMNS, "index": "id", "writes": "forward"})
FEED = TableSpec.declare("feed", {"schema": COLUMNS, "max_rows": 100, "writes": "forward"})
CLOSED = TableSpec.declare("closed", {"schema": COLUMNS, "index": "id"})
HUGE = 2**53 + 1


def body(**data: Any) -> bytes:
    message = messages.new("Edit")
    for kind, value in data.items():
        setattr(message.data, kind, value)
    return messages.encode(message)


@pytest.mark.parametrize(
    ("number", "data", "expected"),
    [
        (33, {"rows": '[{"__INDEX__":1,"n":2}]'}, (Op.UPDATE, "json", '[{"id": 1, "n": 2}]')),
        (33, {"rows": f'[{{"__INDEX__":{HUGE}}}]'}, (Op.UPDATE, "json", f'[{{"id": {HUGE}}}]')),
        (33, {"rows": '[{"id":1,  "n":2}]'}, (Op.UPDATE, "json", '[{"id":1,  "n":2}]')),
        (33, {"cols": '{"__INDEX__":[1],"n":[2]}'}, (Op.UPDATE, "columns", '{"id": [1], "n": [2]}')),
        (33, {"ndjson": '{"__INDEX__":1}\n{"id":2}\n'}, (Op.UPDATE, "ndjson", '{"id": 1}\n{"id": 2}')),
        (33, {"csv": "__INDEX__,n\n1,2"}, (Op.UPDATE, "csv", "id,n\n1,2")),
        (33, {"arrow": b"whatever"}, (Op.UPDATE, "arrow", "whatever")),
        (31, {"rows": f"[1, {HUGE}]"}, (Op.REMOVE, "json", f'[{{"id": 1}}, {{"id": {HUGE}}}]')),
        (31, {"rows": '[{"id": 1}]'}, (Op.REMOVE, "json", '[{"id": 1}]')),
        (32, {"rows": '[{"id":1}]'}, (Op.REPLACE, "json", '[{"id":1}]')),
        (32, {"rows": " [] "}, (Op.CLEAR, "", "")),
    ],
)
def test_what_is_published(number: int, data: dict[str, Any], expected: tuple[Op, str, str]) -> None:
    op, form, content = edits.read(number, body(**data), OPEN)
    assert (op, form, content.decode()) == expected


@pytest.mark.parametrize(
    ("number", "data", "spec", "words"),
    [
        (33, {}, OPEN, "without data"),
        (33, {"rows": '[{"__INDEX__":1}'}, OPEN, "no JSON"),
        (33, {"rows": '[{"__INDEX__":1,"id":2}]'}, OPEN, "two rows"),
        (33, {"rows": "[" * 100_000 + '"__INDEX__"'}, OPEN, "no JSON"),
        (33, {"arrow": b"..__INDEX__.."}, OPEN, "index column itself"),
        (33, {"rows": '[{"__INDEX__":1}]'}, FEED, "no index"),
        (33, {"csv": "__INDEX__,n\n1,2"}, FEED, "no index"),
        (31, {"rows": "[1]"}, FEED, "no index"),
    ],
)
def test_what_means_nothing(number: int, data: dict[str, Any], spec: TableSpec, words: str) -> None:
    with pytest.raises(Refused, match=words):
        edits.read(number, body(**data), spec)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    settings = {"EDIT_SECONDS": "5"}
    cluster = Cluster(tmp_path_factory.mktemp("edits"), [OPEN, FEED, CLOSED], coordinators=1, nodes=2, settings=settings)
    try:
        await cluster.start()
        yield cluster
    finally:
        await cluster.close()
        print(cluster.logs())


in_module = pytest.mark.asyncio(loop_scope="module")


@in_module
@pytest.mark.cluster
async def test_an_edit_is_seen_by_its_author_at_once_and_by_the_others_soon(fleet: Cluster) -> None:
    async with fleet.viewer("node-1") as author, fleet.viewer("node-2") as other:
        mine, theirs = await author.open_table("open"), await other.open_table("open")
        view, seen = await mine.view(), await theirs.view()
        rows: dict[int, dict[str, Any]] = {}
        for number in range(20):
            key = HUGE + number % 7
            await mine.update(json.dumps([{"__INDEX__": key, "n": number}]), format="json")
            rows.setdefault(key, {"id": key, "name": None, "n": 0})["n"] = number
            columns = await view.to_columns_string()
            assert f"{key}" in columns
            assert json.loads(columns)["n"] == [rows[one]["n"] for one in sorted(rows)], "older than what he wrote"
        await mine.update(to_ipc(pa.table({"id": pa.array([1], pa.int64()), "name": ["one"]})))
        rows[1] = {"id": 1, "name": "one", "n": None}
        await mine.remove([{"id": HUGE}])
        del rows[HUGE]
        assert json.loads(await view.to_columns_string())["id"] == sorted(rows)
        await mine.update("id,name\n2,two", format="csv")
        rows[2] = {"id": 2, "name": "two", "n": None}

        async def arrived() -> bool:
            found = json.loads(await seen.to_columns_string())
            assert found["id"] == sorted(rows), found
            assert found["n"] == [rows[key]["n"] for key in sorted(rows)]
            return True

        await until(arrived, 10, "the other node has all edits")
        await mine.replace([{"id": 5, "name": "five"}])
        assert json.loads(await view.to_columns_string())["id"] == [5]
        await mine.clear()
        assert await view.num_rows() == 0


@in_module
@pytest.mark.cluster
async def test_edits_of_many_at_once_are_each_answered_for_what_became_of_them(fleet: Cluster) -> None:
    async with AsyncExitStack() as viewers:
        clients = [await viewers.enter_async_context(fleet.viewer(f"node-{1 + number // 12}")) for number in range(16)]
        tables = [await client.open_table("open") for client in clients]

        async def edit(number: int) -> str | None:
            value: Any = number if number % 3 else "not a number"
            try:
                await tables[number % 16].update([{"id": number, "n": value}])
            except Exception as refused:  # noqa: BLE001 - whatever it is, its words count
                return str(refused)
            return None

        outcomes = await asyncio.gather(*(edit(number) for number in range(1, 161)))
        for number, outcome in enumerate(outcomes, 1):
            assert (outcome is None) == bool(number % 3), (number, outcome)
            assert outcome is None or "refused" in outcome, outcome
        view = await tables[0].view()
        expected = {number for number in range(1, 161) if number % 3}

        async def all_there() -> bool:
            return set(json.loads(await view.to_columns_string())["id"]) == expected

        await until(all_there, 10, "all that was accepted is there, and nothing else")


@in_module
@pytest.mark.cluster
async def test_tables_that_take_no_edits_refuse_them(fleet: Cluster) -> None:
    async with fleet.viewer("node-1") as viewer:
        closed = await viewer.open_table("closed")
        for edit in (closed.update([{"id": 1}]), closed.replace([{"id": 1}]), closed.clear(), closed.remove([{"id": 1}])):
            with pytest.raises(Exception, match="read-only"):
                await edit
        feed = await viewer.open_table("feed")
        await feed.update([{"id": 1, "n": 1}])
        await feed.update([{"id": 1, "n": 2}])
        assert await feed.size() == 2
        with pytest.raises(Exception, match="no index"):
            await feed.update([{"__INDEX__": 0, "n": 3}])
        assert await fleet.redis.xlen("parallax:{closed}:in") == 0


@in_module
@pytest.mark.cluster
async def test_an_edit_that_nobody_takes_in_is_reported(fleet: Cluster) -> None:
    async with fleet.viewer("node-1") as viewer:
        table = await viewer.open_table("open")
        await fleet["coordinator-1"].kill()
        with pytest.raises(Exception, match="not confirmed"):
            await table.update([{"id": 1077, "n": 1}])
        await fleet.restart("coordinator-1")
        await table.update([{"id": 1078, "n": 1}])
        view = await table.view(filter=[["id", ">=", 1077]])
        assert json.loads(await view.to_columns_string())["id"] == [1077, 1078]

"""`parallax.connect`: a Python program goes on while nodes die."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from typing import Any

import perspective
import pytest
import pytest_asyncio

import parallax
from parallax.link_state import LinkState
from parallax.replication.spec import TableSpec
from parallax.tasks import Tasks
from tests.cluster import Cluster
from tests.processes import PATIENCE, until
from tests.sockets import measured
from tests.tokens import HS256, token

SPEC = TableSpec.declare(
    "t", {"schema": {"k": "integer", "group": "string", "n": "integer"}, "index": "k", "writes": "forward"}
)
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.cluster]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("connect"), [SPEC], coordinators=1, nodes=2, front=True)
    try:
        await cluster.start()
        rows = [{"k": key, "group": f"g{key % 2}", "n": key} for key in range(6)]
        await cluster.publish("t", op="update", format="json", data=json.dumps(rows))
        await cluster.at_rest()
        yield cluster
    finally:
        await cluster.close()
        print(cluster.logs())


class Program:
    """What a program that looks at a table might do; `states` are those of its connection."""

    def __init__(self, fleet: Cluster) -> None:
        self.fleet = fleet
        self.states: list[LinkState] = []
        self.seen: list[int] = []
        self.back: list[tuple[int, int]] = []

    def connect(self, **options: Any) -> Any:
        return parallax.connect(self.fleet.url("front"), on_state=self.states.append, **options)

    @property
    def node(self) -> str:
        return self.states[-1].node

    async def left(self, node: str) -> None:
        async def is_elsewhere() -> bool:
            return self.states[-1].name == "live" and self.node != node

        await until(is_elsewhere, 15, f"it has left {node}")

    async def publish(self, number: int) -> None:
        await self.fleet.publish("t", op="update", format="json", data=json.dumps([{"k": 0, "n": number}]))


async def greatest(view: "perspective.AsyncView") -> int:
    columns = json.loads(await view.to_columns_string())
    return int(columns["n"][0])


async def test_a_subscriber_goes_on_and_sees_nothing_go_back(fleet: Cluster) -> None:
    program = Program(fleet)

    async def keep_publishing() -> None:
        for number in range(1000, 100_000):
            await program.publish(number)
            await asyncio.sleep(0.02)

    async with Tasks() as tasks, program.connect() as client:
        table = await client.open_table("t")
        view = await table.view(filter=[["k", "==", 0]], columns=["n"])
        changed = asyncio.Event()
        await view.on_update(lambda *_: changed.set())
        tasks.start(keep_publishing(), name="publisher")

        async def follow(count: int) -> None:
            for _ in range(count):
                async with asyncio.timeout(20 * PATIENCE):
                    await changed.wait()
                changed.clear()
                number = await greatest(view)
                if program.seen and number < program.seen[-1]:
                    program.back.append((program.seen[-1], number))
                program.seen.append(number)

        await follow(10)
        for ending in ("kill", "terminate"):
            node = program.node
            await getattr(fleet[node], ending)()
            await program.left(node)
            await follow(20)
            await fleet.restart(node)
        node = program.node
        fleet[node].pause()
        await program.left(node)
        await follow(20)
        fleet[node].resume()
        assert program.back == []
        assert program.seen[-1] > 1000
    assert program.states[-1].name == "closed"
    with pytest.raises(perspective.PerspectiveError, match="the connection was closed"):
        await view.to_columns_string()

    async def books_are_clean() -> bool:
        figures = [await measured(fleet, node) for node in ("node-1", "node-2")]
        return not any(one("sessions") + one("views") + one("subscriptions") for one in figures)

    await until(books_are_clean, 60, "nobody's views are left")


async def test_groups_stay_expanded_and_the_same_ones(fleet: Cluster) -> None:
    program = Program(fleet)
    async with program.connect() as client:
        view = await (await client.open_table("t")).view(group_by=["group", "k"], columns=["n"], aggregates={"n": "count"})
        await view.collapse(1)  # g0
        paths = json.loads(await view.to_columns_string())["__ROW_PATH__"]
        assert paths == [[], ["g0"], ["g1"], ["g1", 1], ["g1", 3], ["g1", 5]]
        await fleet.publish("t", op="update", format="json", data=json.dumps([{"k": 90, "group": "a", "n": 1}]))
        await fleet.at_rest()
        node = program.node
        await fleet[node].kill()
        await program.left(node)
        paths = json.loads(await view.to_columns_string())["__ROW_PATH__"]
        assert paths == [[], ["a"], ["a", 90], ["g0"], ["g1"], ["g1", 1], ["g1", 3], ["g1", 5]], (
            "its row has another number now"
        )
        await fleet.restart(node)
    await fleet.publish("t", op="remove", format="json", data='[{"k": 90}]')


async def test_rows_come_whole_after_a_loss(fleet: Cluster) -> None:
    program = Program(fleet)
    held: dict[int, int] = {}

    def take(_: Any, delta: bytes) -> None:
        for row in perspective_rows(delta):
            held[row["k"]] = row["n"]

    async with program.connect() as client:
        table = await client.open_table("t")
        view = await table.view(columns=["k", "n"])
        await view.on_update(take, mode="row")
        rows = json.loads(await view.to_json_string())  # answered once he is subscribed
        held.update({row["k"]: row["n"] for row in rows})
        node = program.node
        await program.publish(200_001)
        await until(lambda: _equals(held, 0, 200_001), 15, "the row has come")
        fleet[node].pause()
        await program.publish(200_002)  # the node does not tell
        await program.left(node)
        await until(lambda: _equals(held, 0, 200_002), 15, "the row has come from the other node")
        fleet[node].resume()
        assert sorted(held) == sorted(row["k"] for row in json.loads(await view.to_json_string()))


def perspective_rows(delta: bytes) -> list[dict[str, Any]]:
    import pyarrow as pa

    rows: list[dict[str, Any]] = pa.ipc.open_stream(delta).read_all().to_pylist()
    return rows


async def _equals(held: dict[int, int], key: int, value: int) -> bool:
    return held.get(key) == value


async def test_an_edit_is_made_or_fails_and_never_twice(fleet: Cluster) -> None:
    program = Program(fleet)
    made, failed, reasons = [], [], []
    async with program.connect() as client:
        table = await client.open_table("t")
        for number in range(30):
            if number == 10:
                node = program.node
                fleet[node].pause()  # the next edit reaches a node that will never answer
            try:
                await table.update(json.dumps([{"k": 1000 + number, "n": number}]), format="json")
                made.append(1000 + number)
            except perspective.PerspectiveError as error:
                failed.append(1000 + number)
                reasons.append(str(error))
        fleet[node].resume()
        assert len(failed) == 1
        assert "may have been made, or not" in reasons[0]
        await fleet.at_rest()
        for name in ("node-1", "node-2"):
            keys = [row[0] for row in await fleet.read(name, SPEC) if row[0] >= 1000]
            assert set(made) <= set(keys) <= {*made, *failed}, name
            assert len(keys) == len(set(keys)), name


async def test_a_program_without_asyncio(fleet: Cluster) -> None:
    states: list[LinkState] = []
    heard = threading.Event()
    may_go_on = threading.Event()

    def program() -> list[int]:
        with parallax.connect_sync(fleet.url("front"), on_state=states.append) as client:
            table = client.open_table("t")
            view = table.view(filter=[["k", "==", 0]], columns=["n"])
            view.on_update(lambda *_: heard.set())
            found = [json.loads(view.to_columns_string())["n"][0]]
            may_go_on.wait(30 * PATIENCE)
            heard.clear()
            table.update(json.dumps([{"k": 0, "n": 300_001}]), format="json")
            assert heard.wait(10 * PATIENCE)
            found.append(json.loads(view.to_columns_string())["n"][0])
        with pytest.raises(perspective.PerspectiveError, match="the connection was closed"):
            view.to_columns_string()
        return found

    running = asyncio.get_running_loop().run_in_executor(None, program)
    await until(lambda: _are(states, "live"), 20, "it is connected")
    node = states[-1].node
    await fleet[node].kill()
    await until(lambda: _are(states, "live", other_than=node), 20, "it has another node")
    may_go_on.set()
    assert (await running)[1] == 300_001
    await fleet.restart(node)


async def _are(states: list[LinkState], name: str, other_than: str = "") -> bool:
    return bool(states) and states[-1].name == name and states[-1].node != other_than


async def test_what_waits_too_long_fails(fleet: Cluster) -> None:
    program = Program(fleet)
    async with program.connect(timeout=2.0) as client:
        table = await client.open_table("t")
        for node in ("node-1", "node-2"):
            fleet[node].pause()
        try:
            with pytest.raises(perspective.PerspectiveError, match=r"no answer within 2 s; the connection is reconnecting"):
                await table.size()
        finally:
            for node in ("node-1", "node-2"):
                fleet[node].resume()

        async def answers() -> bool:
            try:
                return bool(await table.size())
            except perspective.PerspectiveError:
                return False

        await until(answers, 30, "it goes on")


async def test_who_cannot_connect_is_told_why(fleet: Cluster) -> None:
    for url, words in {
        "ftp://localhost": "expected http://",
        "http://": "expected http://",
        "http://127.0.0.1:1": "no node answers: .*refused",
        fleet.url("front", "/nothing"): "404",
    }.items():
        with pytest.raises(parallax.ConnectError, match=words):
            async with parallax.connect(url, timeout=1.0):
                raise AssertionError("nobody lets us in")


async def test_a_token_is_fetched_for_each_connection(tmp_path_factory: pytest.TempPathFactory) -> None:
    settings = {name.upper(): value for name, value in HS256.items()}
    cluster = Cluster(tmp_path_factory.mktemp("tokens"), [SPEC], coordinators=1, nodes=1, settings=settings)
    asked: list[str] = []

    async def fresh() -> str:
        asked.append(token(read=["*"]))
        return asked[-1]

    try:
        await cluster.start()
        with pytest.raises(parallax.ConnectError, match="401: a token is needed"):
            async with parallax.connect(cluster.url("node-1")):
                raise AssertionError("nobody lets us in")
        program = Program(cluster)
        async with parallax.connect(cluster.url("node-1"), token=fresh, on_state=program.states.append) as client:
            await cluster["node-1"].kill()
            await cluster.restart("node-1")

            async def is_hosted() -> bool:
                return await client.get_hosted_table_names() == ["t"]

            await until(is_hosted, 10, "it is let in again")
        assert len(asked) >= 2
    finally:
        await cluster.close()

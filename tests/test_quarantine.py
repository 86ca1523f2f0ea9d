"""What ends a process, or takes too long, is not given to the engine a third time, anywhere in the fleet."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from node.gateway import messages
from parallax.cli import main
from parallax.quarantine import Suspect
from parallax.quarantine import suspects as known_suspects
from parallax.replication.keys import FleetKeys
from parallax.replication.spec import TableSpec
from parallax.wire import SERVER_ERROR
from tests import poisoned_node
from tests.cluster import PREFIX, Cluster
from tests.processes import until
from tests.sockets import SocketViewer, measured, socket_viewer
from tests.test_gateway import make

MakeCluster = Callable[..., Awaitable[Cluster]]
MAKE, COLUMNS, SIZE = 6, 24, 8
ABORTED = 128 + signal.SIGABRT
TABLE = TableSpec.declare("t", {"schema": {"n": "integer", "poison": "string"}, "limit": 1})
POISONED = [sys.executable, poisoned_node.__file__]
GUARDED = {"GUARD": "true"}


def deadly(view_id: str) -> bytes:
    """Encode the wish for a view with a filter without a value, which ends the engine."""
    message = messages.parse("MakeView", make(view_id))
    message.config.filter.add(column="n", op="==")
    return messages.encode(message)


async def suspects(cluster: Cluster) -> dict[str, Suspect]:
    return {suspect.name: suspect for suspect in await known_suspects(cluster.redis, FleetKeys(PREFIX))}


async def first_rows(viewer: SocketViewer, view_id: str) -> bytes:
    answer = await viewer.ask(COLUMNS, messages.encode(messages.new("ToText")), view_id)
    assert answer.number == COLUMNS
    return answer.body


async def test_a_view_that_ends_nodes_ends_two(make_cluster: MakeCluster, capsys: pytest.CaptureFixture[str]) -> None:
    cluster = await make_cluster([TABLE], coordinators=1, nodes=3, settings=GUARDED, node_command=POISONED)
    await cluster.publish("t", op="update", format="json", data=json.dumps([{"n": 1, "poison": "x"}]))
    await cluster.at_rest()
    for count, name in enumerate(("node-1", "node-2"), 1):
        async with socket_viewer(cluster.ports[name]) as viewer:
            await viewer.send(MAKE, deadly("v"), "t")
            await viewer.ended()
        assert await cluster[name].ended(10) == 128 + signal.SIGSEGV
        (suspect,) = (await suspects(cluster)).values()
        assert (suspect.kind, suspect.table, suspect.deaths) == ("view", "t", count)

    async with socket_viewer(cluster.ports["node-3"]) as viewer:
        refused = await viewer.ask(MAKE, deadly("v"), "t")
        assert refused.number == SERVER_ERROR
        assert f"quarantined as {suspect.name}".encode() in refused.body
        assert (await viewer.ask(MAKE, make("w", group_by=["n"]), "t")).number == MAKE, "others are made"
        assert await first_rows(viewer, "w")

        figures = await measured(cluster, "node-3")
        assert (figures("quarantined"), figures("quarantined_refusals_total")) == (1, 1)

        where = ["--redis", cluster.server.url, "--prefix", PREFIX]
        assert await asyncio.to_thread(main, ["quarantine", *where]) == 0
        assert f"{suspect.name}  quarantined  table t  deaths: 2" in capsys.readouterr().out
        assert await asyncio.to_thread(main, ["quarantine", *where, "--release", suspect.name, "nobody"]) == 1
        said = capsys.readouterr()
        assert (said.out, said.err) == ("nothing is quarantined\n", "there is no 'nobody' in the quarantine\n")

        await viewer.send(MAKE, deadly("again"), "t")
        await viewer.ended()  # what an operator releases is made again


async def test_views_that_were_only_there_are_acquitted(make_cluster: MakeCluster) -> None:
    cluster = await make_cluster([TABLE], coordinators=1, nodes=3, settings=GUARDED, node_command=POISONED)

    async def publish(number: int) -> None:
        await cluster.publish("t", op="update", format="json", data=json.dumps([{"n": number, "poison": "x"}]))

    await publish(1)
    await cluster.at_rest()
    popular, poison = make("p", filter=[]), make("q", group_by=["poison"])
    async with socket_viewer(cluster.ports["node-1"]) as one, socket_viewer(cluster.ports["node-3"]) as three:
        for viewer in (one, three):
            assert (await viewer.ask(MAKE, popular, "t")).number == MAKE
        assert (await one.ask(MAKE, poison, "t")).number == MAKE
        await publish(13)
        assert await cluster["node-1"].ended(10) == ABORTED

        async def is_acquitted() -> bool:
            return len(await suspects(cluster)) == 1  # of two views

        await until(is_acquitted, 10, "the view that lives on elsewhere is no suspect")
        (suspect,) = (await suspects(cluster)).values()
        assert (suspect.kind, suspect.deaths) == ("rows", 1)

        async with socket_viewer(cluster.ports["node-2"]) as two:
            assert (await two.ask(MAKE, poison, "t")).number == MAKE, "one death is not enough"
            await publish(13)
            assert await cluster["node-2"].ended(10) == ABORTED
        refused = await three.ask(MAKE, poison, "t")
        assert refused.number == SERVER_ERROR
        assert f"quarantined as {suspect.name}".encode() in refused.body
        await publish(13)
        await cluster.at_rest()
        assert (await three.ask(MAKE, make("again", filter=[]), "t")).number == MAKE, "the popular one is made as ever"


async def test_rows_that_end_processes_by_themselves_are_held_back(make_cluster: MakeCluster) -> None:
    other = TableSpec.declare("other", {"schema": {"n": "integer"}, "limit": 5})
    cluster = await make_cluster([TABLE, other], coordinators=1, nodes=1, settings=GUARDED, node_command=POISONED)
    await cluster.publish("t", op="update", format="json", data=json.dumps([{"n": 66}]))
    assert await cluster["node-1"].ended(10) == ABORTED
    cluster["node-1"].start()
    assert await cluster["node-1"].ended(30) == ABORTED
    assert (await suspects(cluster))["table t"].is_quarantined

    cluster["node-1"].start()

    async def is_ready() -> bool:
        return (await cluster.fetch(cluster.url("node-1", "/readyz", internal=True)))[0] == 200

    await until(is_ready, 30, "the node is ready, for its other table")
    tables = (await cluster.status("node-1"))["tables"]
    assert (tables["t"]["state"], tables["other"]["state"]) == ("failed", "live")
    assert "parallax quarantine" in tables["t"]["error"]
    async with socket_viewer(cluster.ports["node-1"]) as viewer:
        assert (await viewer.ask(SIZE, b"", "other")).number == SIZE
        assert (await viewer.ask(SIZE, b"", "t")).number == SERVER_ERROR

    release = ["quarantine", "--redis", cluster.server.url, "--prefix", PREFIX, "--release", "table t"]
    assert await asyncio.to_thread(main, release) == 0
    assert await cluster["node-1"].ended(30) == ABORTED, "an operator may try again, and it was not the operator's fault"


async def test_a_guard_and_its_service_are_one(make_cluster: MakeCluster) -> None:
    cluster = await make_cluster([TABLE], coordinators=1, nodes=1, settings=GUARDED)

    def service(name: str) -> int:
        (child,) = Path(f"/proc/{cluster[name].pid}/task/{cluster[name].pid}/children").read_text().split()
        return int(child)

    async def is_gone(pid: int) -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        return False

    pid = service("node-1")
    os.kill(pid, signal.SIGKILL)
    assert await cluster["node-1"].ended(5) == 128 + signal.SIGKILL
    assert await suspects(cluster) == {}, "kill -9 says nothing about what the engine did"
    await cluster.restart("node-1")

    assert await cluster["node-1"].terminate() == 0
    await cluster.restart("node-1")

    pid = service("node-1")
    await cluster["node-1"].kill()
    await until(lambda: is_gone(pid), 5, "the service goes with its guard")


def endless(view_id: str, rounds: int) -> bytes:
    """Encode the wish for a view that takes some milliseconds a row."""
    loop = f"var s := 0; for (var i := 0; i < {rounds}; i += 1) {{ s += i; }}; s"
    return make(view_id, expressions={"slow": loop}, columns=["slow"])


SLOW = {"ALLOW_LOOPS": "true", "MAX_EXPRESSION_LENGTH": "1000"} | GUARDED


async def test_a_view_that_takes_too_long_is_quarantined(make_cluster: MakeCluster) -> None:
    table = TableSpec.declare("t", {"schema": {"n": "integer"}, "limit": 3000})
    settings = SLOW | {"CREATION_SECONDS": "0.5"}
    cluster = await make_cluster([table], coordinators=1, nodes=2, settings=settings)
    await cluster.publish("t", op="update", format="columns", data=json.dumps({"n": list(range(3000))}))
    await cluster.at_rest()
    wish = endless("v", 25_000)
    async with socket_viewer(cluster.ports["node-1"]) as one, socket_viewer(cluster.ports["node-1"]) as waits:
        await waits.send(MAKE, endless("w", 25_000), "t", msg_id=9)
        await one.send(MAKE, wish, "t")
        await one.ended()
        (answer,) = one.messages
        assert answer.number == SERVER_ERROR
        assert b"longer than 0.5 s" in answer.body
        assert one.close_code == 4011
        await waits.ended()
        assert waits.close_code == 4011, "who waits for the same view hears the same"
    async with socket_viewer(cluster.ports["node-2"]) as two:
        answer = await two.ask(MAKE, wish, "t")
        assert answer.number == SERVER_ERROR
        assert b"quarantined as" in answer.body

    async def is_as_before() -> bool:
        figures = await measured(cluster, "node-1")
        views = figures("engine_views", table="t", kind="shared")
        return (views, figures("overdue_views_total")) == (0, 1)

    await until(is_as_before, 120, "the engine is done with the view, and deletes it")


async def test_a_node_whose_engine_does_not_come_back_starts_afresh(make_cluster: MakeCluster) -> None:
    table = TableSpec.declare("t", {"schema": {"n": "integer"}, "limit": 50_000})
    settings = SLOW | {"CREATION_SECONDS": "0.5", "STUCK_SECONDS": "2"}
    cluster = await make_cluster([table], coordinators=1, nodes=1, settings=settings)
    await cluster.publish("t", op="update", format="columns", data=json.dumps({"n": list(range(25_000))}))
    await cluster.at_rest()
    async with socket_viewer(cluster.ports["node-1"]) as innocent, socket_viewer(cluster.ports["node-1"]) as guilty:
        await guilty.send(MAKE, endless("v", 100_000), "t")
        await innocent.ended()
        assert innocent.close_code == 1012, "viewers are handed over first"
    assert await cluster["node-1"].ended(30) == ABORTED
    await cluster.restart("node-1")
    (suspect,) = (await suspects(cluster)).values()
    assert suspect.is_quarantined

"""Operators' and publishers' bad days, with real processes: a clear word, nothing lost, nobody else harmed."""

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from redis.exceptions import OutOfMemoryError, RedisError

from parallax.demo.ports import choose_ports
from parallax.replication.keys import TableKeys
from parallax.replication.spec import TableSpec
from parallax.status import fleet
from parallax.store import connect
from tests.cluster import PREFIX, Cluster
from tests.processes import HOST, Process, RedisServer, python_module, until

pytestmark = pytest.mark.cluster

KEYED = TableSpec.declare("keyed", {"schema": {"id": "string", "n": "integer"}, "index": "id"})
OTHER = TableSpec.declare("other", {"schema": {"id": "string", "n": "integer"}, "index": "id"})

Make = Callable[..., Awaitable[Cluster]]


async def refused_start(kind: str, **settings: str) -> str:
    """Start a service that must refuse to, and return what it said."""
    ports = choose_ports({"public": 0, "internal": 0})
    env = {name: value for name, value in os.environ.items() if not name.startswith("PARALLAX_")}
    env |= {"PARALLAX_PORT": str(ports["public"]), "PARALLAX_INTERNAL_PORT": str(ports["internal"]), "PARALLAX_BIND": HOST}
    env |= {f"PARALLAX_{name}": value for name, value in settings.items()}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", kind), env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    out, _ = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 2, out.decode()
    assert b"Traceback" not in out
    return out.decode()


@pytest.mark.parametrize("kind", ["coordinator", "node"])
async def test_a_wrong_password_ends_the_start_with_a_word(tmp_path: Path, kind: str) -> None:
    server = RedisServer(tmp_path, choose_ports({"redis": 0})["redis"], options=["--requirepass", "right"])
    server.start()
    try:
        await until(lambda: asyncio.to_thread(_accepts, server.port), 10, "Redis listens")
        for secret in (":wrong-secret@", ""):
            said = await refused_start(kind, REDIS_URL=f"redis://{secret}{HOST}:{server.port}/0")
            assert "PARALLAX_REDIS_URL" in said
            assert "refuses us" in said
            assert "wrong-secret" not in said
    finally:
        server.destroy()


def _accepts(port: int) -> bool:
    with socket.create_connection((HOST, port), 1):
        return True


@pytest.mark.parametrize(
    ("kind", "variable"), [("coordinator", "INTERNAL_PORT"), ("node", "PORT"), ("node", "INTERNAL_PORT")]
)
async def test_a_taken_port_ends_the_start_with_a_word(kind: str, variable: str) -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = str(taken.getsockname()[1])
        said = await refused_start(kind, **{variable: port})
    assert f"PARALLAX_{variable}={port}" in said
    assert "in use" in said


async def test_wrong_settings_are_all_said_at_once() -> None:
    said = await refused_start("coordinator", LEASE_TTL_SECONDS="soon", BATCH_ROWS="0", LOG_LEVEL="info")
    assert [line.partition("=")[0] for line in said.splitlines()] == [
        "parallax: PARALLAX_LEASE_TTL_SECONDS",
        "parallax: PARALLAX_BATCH_ROWS",
    ]


async def test_redis_may_come_later(tmp_path: Path) -> None:
    ports = choose_ports({"redis": 0, "internal": 0})
    server = RedisServer(tmp_path, ports["redis"])
    env = {"PARALLAX_REDIS_URL": server.url, "PARALLAX_INTERNAL_PORT": str(ports["internal"]), "PARALLAX_BIND": HOST}
    coordinator = Process("coordinator", python_module("coordinator"), tmp_path, env | {"PYTHONPATH": os.getcwd()})
    coordinator.start()
    try:

        async def says_so() -> bool:
            return "waiting for it" in coordinator.tail()

        await until(says_so, 15, "the coordinator says what it waits for")
        server.start()

        async def leads() -> bool:
            return [member["leader"] for member in await fleet(server.url)] == [True]

        await until(leads, 15, "it leads")
        assert await coordinator.terminate() == 0
    finally:
        coordinator.destroy()
        server.destroy()


async def test_a_full_redis_refuses_publishers_and_recovers_by_itself(make_cluster: Make) -> None:
    cluster = await make_cluster([KEYED], nodes=0, coordinators=1)
    await cluster.publish("keyed", data='[{"id": "before", "n": 1}]')
    await cluster.at_rest()
    used = (await cluster.redis.info("memory"))["used_memory"]
    await cluster.redis.config_set("maxmemory", used + (4 << 20))
    accepted, refusal = 0, ""
    while not refusal:
        rows = [{"id": f"{accepted}-{number}" + "x" * 200, "n": number} for number in range(100)]
        try:
            await cluster.publish("keyed", data=json.dumps(rows))
            accepted += 1
        except OutOfMemoryError as error:
            refusal = str(error)
        assert accepted < 10_000, "it is never full"
    assert "maxmemory" in refusal

    async def is_drained() -> bool:
        return (await cluster.backlog())["keyed"] == 0

    await until(is_drained, 20, "a full Redis is drained")
    await cluster.redis.config_set("maxmemory", 0)
    await cluster.publish("keyed", data='[{"id": "after", "n": 1}]')
    await cluster.converged()
    assert (await cluster.status("coordinator-1"))["tables"]["keyed"]["rows"] == 100 * accepted + 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a disk that is full")
async def test_a_full_disk_refuses_publishers_and_recovers_by_itself(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    await asyncio.to_thread(subprocess.run, ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)], check=True)
    ports = choose_ports({"redis": 0, "internal": 0})
    server = RedisServer(disk, ports["redis"], options=["--auto-aof-rewrite-percentage", "0"])
    tables = tmp_path / "tables.yaml"
    tables.write_text("tables: {keyed: {schema: {id: string, n: integer}, index: id}}")
    settings = {"REDIS_URL": server.url, "INTERNAL_PORT": str(ports["internal"]), "BIND": HOST, "TABLES": str(tables)}
    env = {f"PARALLAX_{name}": value for name, value in settings.items()} | {"PYTHONPATH": os.getcwd()}
    coordinator = Process("coordinator", python_module("coordinator"), tmp_path, env)
    redis = connect(server.url)
    keys = TableKeys(PREFIX, "keyed")
    try:
        server.start()
        await server.ready()
        coordinator.start()
        (disk / "filler").write_bytes(b"x" * (20 << 20))
        accepted, refusal = 0, ""
        while not refusal:
            rows = [{"id": f"{accepted}-{number}" + "x" * 200, "n": number} for number in range(200)]
            try:
                await redis.xadd(keys.ingest, {"data": json.dumps(rows)})
                accepted += 1
            except RedisError as error:
                refusal = str(error)
            assert accepted < 10_000, "it is never full"
        assert "MISCONF" in refusal
        (disk / "filler").unlink()

        async def goes_on() -> bool:
            await redis.xadd(keys.ingest, {"data": '[{"id": "after", "n": 1}]'})
            return True

        await until(goes_on, 20, "Redis takes writes again")

        async def is_all_there() -> bool:
            members = await fleet(server.url)
            return [member["tables"]["keyed"]["rows"] for member in members] == [200 * accepted + 1]

        await until(is_all_there, 30, "every accepted row is in the table")
        assert await redis.xlen(keys.rejected) == 0
    finally:
        await redis.aclose()
        coordinator.destroy()
        server.destroy()
        await asyncio.to_thread(subprocess.run, ["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize("mebibytes", [40, pytest.param(300, marks=pytest.mark.deep)])
async def test_payloads_of_any_size_hurt_nobody(make_cluster: Make, mebibytes: int) -> None:
    cluster = await make_cluster([KEYED, OTHER], nodes=1, coordinators=1, settings={"MAX_ENTRY_BYTES": str(32 << 20)})
    large = json.dumps([{"id": f"{number:0100}", "n": number} for number in range(90_000)])
    assert 10 << 20 < len(large) < 32 << 20
    taken = await cluster.publish("keyed", op="replace", data=large)
    redis = connect(cluster.server.url, timeout_seconds=60)
    huge = await redis.xadd(TableKeys(PREFIX, "keyed").ingest, {"data": b"[" + b" " * (mebibytes << 20) + b"]"})
    await redis.aclose()
    await cluster.publish("other", data='[{"id": "a", "n": 1}]')
    await cluster.publish("keyed", data='[{"id": "behind", "n": 1}]')
    await cluster.at_rest(60)
    (refused,) = await cluster.rejected("keyed")
    assert refused["entry"] == huge != taken
    assert b"PARALLAX_MAX_ENTRY_BYTES" in refused["reason"]
    await cluster.converged()
    rows = {name: table["rows"] for name, table in (await cluster.status("node-1"))["tables"].items()}
    assert rows == {"keyed": 90_001, "other": 1}


async def test_messages_on_the_channel_are_updates_too(make_cluster: Make) -> None:
    cluster = await make_cluster([KEYED], nodes=0, coordinators=1)
    channel = TableKeys(PREFIX, "keyed").ingest

    async def is_heard() -> bool:
        return await cluster.redis.publish(channel, '[{"id": "a", "n": 1}]') > 0

    await until(is_heard, 10, "the leader listens")
    await cluster.redis.publish(channel, '{"id": "b", "n": 2}')
    await cluster.redis.publish(channel, "not json")

    async def has_arrived() -> bool:
        (member,) = await fleet(cluster.server.url)
        return member["tables"]["keyed"]["rows"] == 2 and len(await cluster.rejected("keyed")) == 1

    await until(has_arrived, 10, "both rows are there and the garbage is refused")


async def test_an_entry_that_kills_its_reader_is_set_aside(make_cluster: Make) -> None:
    cluster = await make_cluster([KEYED, OTHER], nodes=0, coordinators=1, settings={"BATCH_BYTES": "1000000"})
    keys = TableKeys(PREFIX, "keyed")
    heavy = json.dumps([{"id": str(number), "n": number} for number in range(1_000_000)])
    deadly = await cluster.publish("keyed", data=heavy)
    for attempt in (1, 2):

        async def is_being_read(attempt: int = attempt) -> bool:
            return int(await cluster.redis.hget(keys.trying, b"alone " + deadly) or 0) == attempt

        await until(is_being_read, 20, "the entry is given out")
        await cluster["coordinator-1"].kill()  # as the kernel does when memory runs out
        await cluster.publish("keyed", data='[{"id": "behind", "n": 1}]')
        await cluster.publish("other", data='[{"id": "a", "n": 1}]')
        cluster["coordinator-1"].start()
    await cluster.ready("coordinator-1")
    await cluster.at_rest()
    (refused,) = await cluster.rejected("keyed")
    assert refused["entry"] == deadly
    assert b"died 2 times" in refused["reason"]
    assert refused["data"] == heavy.encode(), "it is kept for whoever wants to know"

    async def are_there() -> bool:
        status = await cluster.status("coordinator-1")
        return {name: table["rows"] for name, table in status["tables"].items()} == {"keyed": 1, "other": 1}

    await until(are_there, 5, "what came behind it, and the other table's row, are there")

"""Logs as JSON: each line an object, whatever is said and whoever says it, and nothing secret in any."""

import io
import json
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from parallax.logs import JsonFormatter
from parallax.replication.spec import TableSpec
from tests.cluster import Cluster
from tests.processes import HOST, PATIENCE, ROOT, Process, until

MakeCluster = Callable[..., Awaitable[Cluster]]
NUMBERS = TableSpec("numbers", (("n", "int64"),), limit=100)


def lines(text: str) -> list[dict[str, str]]:
    """Read a log; every line of it must be an object with at least these fields."""
    found = [json.loads(line) for line in text.splitlines()]
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in found)
    return found


def child_of(pid: int) -> int:
    """Return the only child of a process."""
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


def test_whatever_is_logged_is_one_line_with_the_table_as_a_field() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    log = logging.getLogger("parallax.test_logs")
    log.setLevel(logging.INFO)
    log.propagate = False
    log.addHandler(handler)
    log.warning("table %s: refused entry %s", "prices", "two\nlines, \x00 and \ud800")
    log.info("no table %d", 7)
    try:
        raise RuntimeError("of a test")
    except RuntimeError:
        log.exception("it failed")
    refused, other, failed = lines(stream.getvalue())
    assert (refused["table"], refused["level"]) == ("prices", "warning")
    assert refused["message"] == "table prices: refused entry two\nlines, \x00 and \ud800"
    assert "table" not in other
    assert failed["exception"].endswith("RuntimeError: of a test")


@pytest.mark.cluster
@pytest.mark.timeout(120 * PATIENCE)
async def test_every_line_of_running_services_is_an_object(make_cluster: MakeCluster) -> None:
    """Of guards too, and of one whose child the engine ended."""
    settings = {"LOG_FORMAT": "json", "GUARD": "true", "LOG_LEVEL": "debug"}
    cluster = await make_cluster([NUMBERS], nodes=1, coordinators=1, settings=settings)
    await cluster.publish(NUMBERS.name, data='[{"n": "not a number"}]')
    await cluster.at_rest()
    os.kill(child_of(cluster["node-1"].pid), signal.SIGABRT)
    await cluster["node-1"].ended(20)
    await cluster["coordinator-1"].terminate()
    said = lines(cluster["coordinator-1"].log.read_text())
    refused = [line for line in said if "refused entry" in line["message"]]
    assert [line["table"] for line in refused] == [NUMBERS.name]
    said = lines(cluster["node-1"].log.read_text())
    assert "the engine ended the process (SIGABRT)" in said[-1]["message"]


@pytest.mark.parametrize("service", ["node", "coordinator"])
async def test_what_ends_a_start_is_an_object_too_and_holds_no_password(
    make_cluster: MakeCluster, tmp_path: Path, service: str
) -> None:
    cluster = await make_cluster([], nodes=0, coordinators=0)
    url = cluster.server.url.replace("redis://", "redis://:hunter2@")
    for settings, expected in (
        ({"REDIS_URL": url}, "refuses us"),
        ({"INTERNAL_PORT": "none"}, "PARALLAX_INTERNAL_PORT='none'"),
        ({"LOG_LEVEL": "loud"}, "PARALLAX_LOG_LEVEL='loud'"),
    ):
        own = {"LOG_FORMAT": "json", "REDIS_URL": cluster.server.url, "BIND": HOST} | settings
        env = {f"PARALLAX_{name}": value for name, value in own.items()} | {"PYTHONPATH": str(ROOT)}
        name = f"{service}-{expected[:3]}"
        process = Process(name, [sys.executable, "-m", service], tmp_path, env)
        process.start()
        try:
            await process.ended(30)
        finally:
            process.destroy()
        said = process.log.read_text()
        assert expected in lines(said)[-1]["message"]
        assert "hunter2" not in said


async def test_the_fleet_ends_with_no_line_of_another_kind(make_cluster: MakeCluster) -> None:
    """Without Redis, too."""
    cluster = await make_cluster([NUMBERS], nodes=1, coordinators=1, settings={"LOG_FORMAT": "json"})
    await cluster.server.kill()

    async def is_noticed() -> bool:
        return all("feed lost" in cluster[name].log.read_text() for name in cluster.running)

    await until(is_noticed, 20, "all notice that Redis is gone")
    for name in cluster.running:
        await cluster[name].terminate()
        assert lines(cluster[name].log.read_text())

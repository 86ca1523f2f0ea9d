"""`parallax status --watch`: what it shows, on a terminal and in a pipe."""

import argparse
import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from parallax.commands.fleet import add_status_arguments
from parallax.replication.spec import TableSpec
from parallax.watch import CLEAR, plain, screen
from tests.cluster import Cluster
from tests.processes import PATIENCE, ROOT

SPEC = TableSpec("numbers", (("n", "int64"),), limit=100)


def table(**changes: Any) -> dict[str, Any]:
    return {
        "state": "live",
        "position": "7-42",
        "lag_records": 0,
        "lag_seconds": 0.0,
        "silence_seconds": 0.4,
        "rows": 3,
    } | changes


NODE = {
    "kind": "node",
    "id": "node-1",
    "leader": False,
    "sessions": 12,
    "views": 30,
    "memory_bytes": 200 << 20,
    "loop_busy": 0.256,
    "tables": {"a": table(), "b": table(state="recovering", lag_records=5, lag_seconds=2.5, silence_seconds=8.0)},
}
LEADER = {
    "kind": "coordinator",
    "id": "coordinator-1",
    "leader": True,
    "sessions": 0,
    "backlog": {"a": {"entries": 17, "seconds": 1.25, "log_entries": 9}},
    "tables": {"a": table()},
}


def test_a_terminal_shows_each_member_once_and_what_is_wrong() -> None:
    shown = screen([LEADER, NODE], "", 200, 40)
    assert shown.startswith(CLEAR)
    _, heading, leader, first, second = shown.removeprefix(CLEAR).splitlines()
    assert heading.split() == [
        *("MEMBER", "ROLE", "SESSIONS", "VIEWS", "MEMORY", "LOOP"),
        *("TABLE", "STATE", "POSITION", "LAG", "STALE", "BACKLOG", "ROWS"),
    ]
    assert re.split(" {2,}", leader) == ["coordinator-1", "leader", "a", "live", "7-42", "0 rec, 0.0 s", "17, 1.2 s", "3"]
    own = ["node-1", "node", "12", "30", "200 MiB", "26 %"]
    assert re.split(" {2,}", first) == [*own, "a", "live", "7-42", "0 rec, 0.0 s", "3"]
    assert re.split(" {2,}", second.strip()) == ["b", "recovering", "7-42", "5 rec, 2.5 s", "8 s", "3"]


def test_a_small_terminal_is_not_overrun() -> None:
    many = [NODE | {"id": f"node-{number}"} for number in range(20)]
    lines = screen(many, "", 40, 12).removeprefix(CLEAR).splitlines()
    assert len(lines) == 11
    assert max(map(len, lines)) <= 40
    assert lines[-1] == "... and 32 more lines; a wider look: parallax status"[:40]
    assert "there is none" in screen(None, "there is none", 80, 24)


def test_a_pipe_gets_lines_that_stand_for_themselves() -> None:
    first, second = plain([NODE], "").splitlines()
    assert first.endswith(
        " member=node-1 role=node sessions=12 views=30 memory=200MiB loop=26% table=a state=live position=7-42"
        " lag=0rec,0.0s rows=3"
    )
    assert " table=b state=recovering " in second
    assert "stale=8s" in second
    assert plain(None, "Redis is away").endswith(' "Redis is away"')


@pytest.mark.parametrize("text", ["0", "x", "-1", "nan"])
def test_an_interval_that_is_none_is_refused(text: str) -> None:

    parser = argparse.ArgumentParser()
    add_status_arguments(parser)
    with pytest.raises(SystemExit):
        parser.parse_args([f"--watch={text}"])


@pytest.mark.cluster
@pytest.mark.timeout(120 * PATIENCE)
async def test_a_running_fleet_is_watched_until_ctrl_c(make_cluster: Callable[..., Awaitable[Cluster]]) -> None:
    cluster = await make_cluster([SPEC], nodes=1, coordinators=1)
    command = (sys.executable, "-m", "parallax", "status", "--redis", cluster.server.url, "--watch", "0.2")

    async def watched(*more: str, output: int | None = None) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(*command, *more, stdout=output or asyncio.subprocess.PIPE, cwd=ROOT)

    async def ended(program: asyncio.subprocess.Process) -> None:
        program.send_signal(signal.SIGINT)
        assert await program.wait() == 0

    async with asyncio.timeout(60 * PATIENCE):
        # 1. In a pipe: lines, or a document on each.
        program = await watched()
        assert program.stdout is not None
        leader = node = ""
        while not (
            "role=leader" in leader and "backlog=0,0.0s" in leader and "state=live" in node
        ):  # what they announce is late
            leader, node = [(await program.stdout.readline()).decode() for _ in range(2)]
            assert (leader.split()[1], node.split()[1]) == ("member=coordinator-1", "member=node-1")
        assert re.search(r" role=node sessions=0 views=0 memory=\d+MiB loop=\d+% table=numbers state=live ", node)
        await ended(program)
        program = await watched("--json")
        assert program.stdout is not None
        assert [member["id"] for member in json.loads(await program.stdout.readline())] == ["coordinator-1", "node-1"]
        await ended(program)

        # 2. On a terminal: in place.
        ours, theirs = os.openpty()
        try:
            program = await watched(output=theirs)
            text = ""
            while text.count(CLEAR) < 3:
                text += (await asyncio.to_thread(os.read, ours, 65536)).decode()
            assert "node-1" in text.split(CLEAR)[1]
            await ended(program)
        finally:
            os.close(ours)
            os.close(theirs)

"""`parallax demo` as its user meets it: one program that starts a fleet, shows it, and leaves nothing behind."""

import asyncio
import os
import re
import signal
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from tornado.httpclient import AsyncHTTPClient

from parallax.demo.ports import choose_ports
from parallax.replication.keys import TableKeys
from tests.processes import HOST, ROOT, Process, python_module, until

pytestmark = pytest.mark.cluster

READY_SECONDS = 60


class Demo(Process):
    """The demo with a mark in its environment, which all that it starts inherits, and a directory for temporary files."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.mark = f"DEMO_TEST={uuid.uuid4()}"
        self.temporary = directory / "tmp"
        self.temporary.mkdir()
        name, _, value = self.mark.partition("=")
        env = {name: value, "TMPDIR": str(self.temporary), "PYTHONPATH": str(ROOT)}
        super().__init__("demo", [*python_module("parallax.cli"), "demo", *arguments], directory, env)

    @property
    def said(self) -> str:
        """Its output so far."""
        return self.log.read_text()

    async def says(self, pattern: str, seconds: float = READY_SECONDS) -> str:
        """Wait until its output matches, and return the match's first group, or all of it."""

        async def found() -> re.Match[str] | None:
            assert self.is_running or re.search(pattern, self.said), f"it ended:\n{self.said}"
            return re.search(pattern, self.said)

        match = await until(found, seconds, f"the demo says {pattern!r}")
        assert match is not None
        return match[match.re.groups and 1]

    async def running(self) -> None:
        """Wait until it says that all runs."""
        await self.says(r"\nStop ")

    def left(self) -> list[str]:
        """Return what is left of it: processes, open ports, temporary files."""
        processes = [f"process {pid}" for pid in marked(self.mark)]
        ports = {int(port) for port in re.findall(r"127\.0\.0\.1:(\d+)", self.said)}
        open_ports = [f"port {port}" for port in sorted(ports) if is_open(port)]
        return processes + open_ports + [str(path) for path in self.temporary.iterdir()]

    async def leaves_nothing(self) -> None:
        """Wait until nothing is left of it."""

        async def gone() -> bool:
            assert self.left() == []
            return True

        await until(gone, 20, "nothing is left")


def marked(mark: str) -> Iterator[int]:
    """Yield the ids of the processes with `mark` in their environment; those that ended have none."""
    for entry in os.listdir("/proc"):
        try:
            if entry.isdecimal() and mark.encode() in Path(f"/proc/{entry}/environ").read_bytes():
                yield int(entry)
        except OSError:  # it ended, or it is not ours to look at
            continue


def is_open(port: int) -> bool:
    with socket.socket() as knock:
        knock.settimeout(1)
        return knock.connect_ex((HOST, port)) == 0


@pytest.fixture
def free_port() -> int:
    return choose_ports({"balancer": 0})["balancer"]


@pytest.fixture
def make_demo(tmp_path: Path) -> Iterator[type[Demo]]:
    demos = []

    def make(*arguments: str) -> Demo:
        demo = Demo(tmp_path, *arguments)
        demos.append(demo)
        demo.start()
        return demo

    yield make  # type: ignore[misc]
    for demo in demos:
        demo.destroy()
        print(demo.said)
        for pid in marked(demo.mark):
            os.kill(pid, signal.SIGKILL)


async def test_for_five_seconds(make_demo, free_port: int):
    demo = make_demo("--for", "5", "--port", str(free_port))
    assert await demo.ended(READY_SECONDS + 40) == 0, demo.said
    entries, rows, refused = re.search(
        r"Published in \d+ s: ([\d,]+) entries .* ([\d,]+) rows, .* (\d+) refused", demo.said
    ).groups()
    assert int(entries.replace(",", "")) > 5
    assert int(rows.replace(",", "")) > 1_000
    assert refused == "0"
    records = re.search(r"Put in order: ([\d,]+) records in flights, ([\d,]+) records in events", demo.said).groups()
    assert all(int(count.replace(",", "")) > 2 for count in records)
    for table in ("flights", "events"):
        digests = re.findall(rf"{table} +live .* 0 rec, +0\.\d s +\d+ +(\w{{12}} at \d+)\n", demo.said)
        assert len(digests) == 5, "two coordinators and three nodes"
        assert len(set(digests)) == 1
    assert "All is well." in demo.said
    assert demo.left() == []


async def test_a_taken_port_a_killed_node_and_a_row_of_ones_own(make_demo, free_port: int):
    with socket.create_server((HOST, free_port)):
        demo = make_demo("--port", str(free_port))
        await demo.running()
        assert f"Port {free_port} is taken" in demo.said
    url = await demo.says(r"Open +(http://\S+)")
    assert f":{free_port}/" not in url
    assert (await AsyncHTTPClient().fetch(url)).code == 200

    os.kill(int(await demo.says(r"node-2 +pid (\d+)")), signal.SIGKILL)
    await demo.says(r"node-2 \(pid \d+\) was ended by SIGKILL\nnode-2 runs again")

    log = TableKeys("parallax", "flights").log
    with Redis(port=int(await demo.says(r"redis-cli -p (\d+)"))) as redis:

        async def published(times: int) -> bool:
            return sum(b"My Own Air" in fields[b"r"] for _, fields in redis.xrange(log)) == times

        for times, command in enumerate([await demo.says(r"( +redis-cli .*)"), await demo.says(r"( +\S+ -c .*)")], 1):
            shell = await asyncio.create_subprocess_exec("/bin/sh", "-c", command, cwd=demo.log.parent)
            assert await shell.wait() == 0
            await until(lambda times=times: published(times), 20, f"record {times} with the row")

    assert await demo.terminate() == 0
    assert demo.said.endswith("Stopping.\n")
    assert demo.left() == []


async def test_kill_9_of_the_demo_leaves_nothing(make_demo, free_port: int):
    demo = make_demo("--port", str(free_port))
    await demo.running()
    assert len(list(marked(demo.mark))) > 8, "this test would notice"
    assert is_open(free_port)
    await demo.kill()
    await demo.leaves_nothing()


async def test_interrupted_while_it_starts_it_leaves_nothing(make_demo, free_port: int):
    demo = make_demo("--for", "60", "--port", str(free_port))
    await demo.says("Starting")
    os.kill(demo.pid, signal.SIGINT)
    assert await demo.ended(30) == 130, demo.said
    assert demo.left() == []


async def test_a_wrong_argument_is_explained(make_demo):
    demo = make_demo("--for", "soon")
    assert await demo.ended(20) == 2
    assert "--for: invalid" in demo.said

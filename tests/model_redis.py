"""A real Valkey whose every command goes through one place, and an event loop whose clock jumps: for `tests/model.py`.

All that is written is noted in order. So Redis can forget its newest writes, as it does when its append-only file is cut behind any
command, or when a replica without the last ones takes over.
"""

import asyncio
import hashlib
import selectors
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any, TypeAlias

import hiredis
from redis import Redis
from redis.exceptions import NoScriptError, ResponseError

from tests.processes import RedisServer

Command: TypeAlias = tuple[Any, ...]

READS = {"GET", "MGET", "HGET", "HGETALL", "EXISTS", "XRANGE", "XREVRANGE", "XREAD", "XLEN", "MEMORY", "SMEMBERS", "XINFO"}
READ_SCRIPTS = (("parallax.replica", "page.lua"), ("parallax.replica", "manifest.lua"))
LONGEST_SECONDS = 10.0


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in which waiting takes no time, and threads are none."""

    def __init__(self) -> None:
        self.now = 1000.0
        super().__init__(_Jump(self))

    def time(self) -> float:
        """Return the time that has passed in the model."""
        return self.now

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> "asyncio.Future[Any]":
        """Run it here and now."""
        done = self.create_future()
        done.set_result(func(*args))
        return done


class _Jump(selectors.DefaultSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("everybody waits, and nobody for a time")
        if timeout > 0:
            self._loop.now += timeout + 1e-9
        return []


class Store:
    """One Valkey: commands in, answers out, and what was published by each."""

    def __init__(self, directory: Path) -> None:
        path = directory / "s"
        options = ["--unixsocket", str(path), "--appendonly", "no"]
        self._server = RedisServer(directory, 0, options=options)
        self._server.start()
        self._commands, self._feed = _connect(path), _connect(path)
        self.callbacks: Mapping[str, Callable[..., Any]] = Redis(protocol=2).response_callbacks
        self.journal: list[Sequence[Command]] = []
        """What was written since Redis was empty: what one call wrote is one item."""
        self.subscribers: list[Callable[[bytes, bytes], None]] = []
        self._bodies: dict[str, bytes] = {}
        self._reads = {_sha(resources.files(package).joinpath(name).read_bytes()) for package, name in READ_SCRIPTS}
        self._feed.send(("PSUBSCRIBE", "*"))
        self._feed.read()

    def close(self) -> None:
        """End the server."""
        self._commands.close()
        self._feed.close()
        self._server.destroy()

    def ask(self, *command: Any) -> Any:
        """Run one command that is no part of the history; its raw answer."""
        self._commands.send(command)
        return self._commands.read()

    def run(self, commands: Sequence[Command]) -> tuple[list[Any], list[tuple[bytes, bytes]]]:
        """Run the commands of one call, and return their answers and the (channel, message) pairs that it published."""
        answers = []
        written: list[Command] = []
        has_script = False
        for command in commands:
            answer = self.ask(*command)
            answers.append(answer)
            name = command[0]
            if name == "EVAL":
                body = command[1].encode() if isinstance(command[1], str) else command[1]
                self._bodies[_sha(body)] = body
                command = ("EVALSHA", _sha(body), *command[2:])
            if name in ("EVAL", "EVALSHA"):
                if command[1] in self._reads:
                    continue
                has_script = True
            if name == "XADD" and "*" in command:  # so that it has the same ID when it is done again
                at = command.index("*")
                command = (*command[:at], answer, *command[at + 1 :])
            if name.split()[0] not in READS:
                written.append(command)
        if written:
            self.journal.append(written)
        return answers, self._published() if has_script else []

    def empty(self) -> None:
        """Begin anew: nothing is in it, and nothing was."""
        self.ask("FLUSHALL")
        self.ask("SCRIPT", "FLUSH")
        self.journal.clear()
        self._bodies.clear()

    def cut(self, keep: int) -> None:
        """Forget all but the first `keep` of what was written."""
        del self.journal[keep:]
        self.ask("FLUSHALL")
        for body in self._bodies.values():
            self.ask("SCRIPT", "LOAD", body)
        count = 0
        for commands in self.journal:
            for command in commands:
                self._commands.send(command)
                count += 1
        for _ in range(count):
            self._commands.read()
        self._published()

    def _published(self) -> list[tuple[bytes, bytes]]:
        self._feed.send(("PING",))
        return list(iter(self._next_published, None))

    def _next_published(self) -> tuple[bytes, bytes] | None:
        message = self._feed.read()
        return (message[2], message[3]) if message[0] == b"pmessage" else None


@contextmanager
def running_store() -> Iterator[Store]:
    """Yield a store, and end it."""
    with tempfile.TemporaryDirectory(prefix="model") as directory:  # a short path: it is a socket's
        store = Store(Path(directory))
        yield store
        store.close()


class _Connection:
    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(LONGEST_SECONDS)
        self._reader = hiredis.Reader()

    def open(self, path: Path) -> None:
        self._socket.connect(str(path))

    def send(self, command: Sequence[Any]) -> None:
        name = str(command[0]).split()
        self._socket.sendall(hiredis.pack_command((*name, *command[1:])))

    def read(self) -> Any:
        answer = self._reader.gets()
        while answer is False:
            self._reader.feed(self._socket.recv(1 << 20))
            answer = self._reader.gets()
        if isinstance(answer, hiredis.HiredisError):
            raise (NoScriptError if str(answer).startswith("NOSCRIPT") else ResponseError)(str(answer))
        return answer

    def close(self) -> None:
        self._socket.close()


def _connect(path: Path) -> _Connection:
    until = time.monotonic() + LONGEST_SECONDS
    while True:
        connection = _Connection()
        try:
            connection.open(path)
            return connection
        except OSError:
            connection.close()
            if time.monotonic() > until:
                raise
            time.sleep(0.02)


def _sha(body: bytes) -> str:
    return hashlib.sha1(body, usedforsecurity=False).hexdigest()

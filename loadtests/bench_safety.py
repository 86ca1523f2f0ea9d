"""What it costs that a node trusts nobody: the same gateway with its checks, and without them, beside Perspective's own handler.

    python -m loadtests.bench_safety [--rounds 25] [--seconds 0.4]

Four servers run at once, each a process of its own with a table of 1,000 rows in it, and take turns: `checked` is the gateway of a
node, and `twin` the same once more, which shows how much is chance; `unchecked` the same one with everything replaced by nothing that keeps bad requests from the engine (requests in our own
encoding, the pace, the claims, the tokeniser of expressions, the checks of configurations, other filters for the engine); `stock`
is Perspective's Tornado handler. The engine has little to do, and answers are mostly known: what the safety costs shows at its
largest. Three more servers ask for no token, for one of HS256, and for one of RS256.

  request   one viewer asks, one request after the other: its latency
  refresh   one viewer sends six requests at a time, as at a notification, as fast as they are answered: processor time of each
  view      a view with two expressions, a filter and a sort is made, and deleted
  connect   a websocket is opened with a token, and closed
"""

import argparse
import asyncio
import contextlib
import math
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import uvloop
from tornado.web import Application

from loadtests import market
from loadtests.plan import Dialogue
from loadtests.protocol import ERROR, PING, PONG, decode, handshake, make_view, masked, request
from loadtests.requests import record
from loadtests.servers import Server, rival
from node.auth import Access, Auth
from node.gateway import Gateway, configs, expressions, handler, hosted, pace, safety, session
from node.settings import NodeSettings
from parallax.replica.engine import Engine
from parallax.replication.spec import TableSpec
from tests.processes import HOST
from tests.tokens import HS256, SECRET, key_set, token

TABLE = "tiny"
SERVERS = ("checked", "twin", "unchecked", "stock")
DOORS = ("open", "HS256", "RS256")
VIEW = {
    "expressions": {"half": '"price" / 2', "loud": 'upper("symbol")'},
    "filter": [["symbol", "in", ["S1", "S2", "S3"]], ["size", ">", 10]],
    "sort": [["price", "desc"]],
    "columns": ["half", "loud", "size"],
}
REQUESTS = 100
Samples = dict[str, list[float]]


# The servers ------------------------------------------------------------------------------------------------------------


def unchecked() -> contextlib.ExitStack:
    """Replace, until it is closed, all that keeps bad requests from the engine."""

    async def anything(hosted: Any, config: Any) -> None:
        """Let every configuration pass."""

    async def no_types(hosted: Any, config: Any) -> dict[str, int]:
        return {}

    nothing = contextlib.ExitStack()
    for where, name, instead in (
        (session, "canonical", lambda name, body: body),
        (hosted, "canonical", lambda name, body: body),
        (pace.Pace, "wait", lambda self, now: 0.0),
        (Access, "may_read", lambda self, table: True),
        (expressions, "check", lambda *_, **__: None),
        (safety, "cut_numbers", lambda message: None),
        (safety, "check_config", lambda *_: None),
        (safety, "for_engine", lambda config, types: config),
        (configs, "check", anything),
        (configs, "expression_types", no_types),
    ):
        nothing.enter_context(mock.patch.object(where, name, instead))
    return nothing


async def serve(kind: str, port: int, directory: str) -> None:
    """Serve until killed."""
    settings: dict[str, Any] = {"max_requests_per_second": math.inf, "linger_seconds": 0.0}
    if kind == "HS256":
        settings |= HS256
    elif kind == "RS256":
        keys = Path(directory) / "keys.json"
        settings |= HS256 | {"auth_algorithms": "RS256", "auth_secret": "", "auth_jwks": str(keys)}
    with unchecked() if kind == "unchecked" else contextlib.nullcontext():
        engine = Engine(frame_seconds=0.05, threads=2)
        spec = TableSpec.declare(TABLE, {"schema": market.TYPES, "index": "id"})
        table = engine.table(TABLE)
        await table.load(spec, pa.ipc.open_stream(market.rows(TABLE)).read_all())
        made = NodeSettings(**settings)
        gateway = Gateway(made)
        gateway.add_table(TABLE, table)
        routes = handler.gateway_routes(gateway, made, Auth(made))
        Application(routes, **handler.websocket_settings(made)).listen(port, HOST)
        await asyncio.Event().wait()


# The viewer -------------------------------------------------------------------------------------------------------------


class Asker:
    """A websocket that asks, and waits for the answers."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, port: int, bearer: str = "") -> "Asker":
        """Connect and shake hands."""
        asker = cls(*await asyncio.open_connection(HOST, port))
        hello = handshake(HOST, port)
        if bearer:
            hello = hello[:-2] + f"Authorization: Bearer {bearer}\r\n\r\n".encode()
        asker._writer.write(hello)
        answer = await asker._reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 101"), answer[:80]
        return asker

    async def ask(self, frames: bytes, answers: int = 1) -> bytes:
        """Send frames, wait until so many messages came, and return the last."""
        self._writer.write(frames)
        payload = b""
        while answers:
            kind, size = await self._reader.readexactly(2)
            if size > 125:
                size = int.from_bytes(await self._reader.readexactly(2 if size == 126 else 8), "big")
            payload = await self._reader.readexactly(size)
            if kind == PING:
                self._writer.write(masked(payload, PONG))
            else:
                answers -= 1
        return payload

    async def checked(self, frame: bytes, msg_id: int) -> None:
        """Ask something that must be answered, and not by an error."""
        answer = decode(await self.ask(frame))
        assert answer[0] == msg_id, answer
        assert answer[2] != ERROR, answer

    def close(self) -> None:
        """Leave."""
        self._writer.transport.abort()


def processor_us(pid: int) -> float:
    """Return the processor time of all threads of a process, finer than `loadtests.meter` has it: windows are short here."""
    return sum(int(file.read_text().split()[0]) for file in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1000


# The cases --------------------------------------------------------------------------------------------------------------


class Bench:
    """What runs, and what was found: figures of each server, one a round."""

    def __init__(self, directory: Path, rounds: int, seconds: float) -> None:
        self._directory, self._rounds, self._seconds = directory, rounds, seconds
        self.found: dict[str, Samples] = {}

    @contextlib.asynccontextmanager
    async def _servers(self, kinds: Sequence[str]) -> AsyncIterator[dict[str, Server]]:
        async with AsyncExitStack() as stack:
            yield {
                kind: await stack.enter_async_context(
                    rival(kind, self._directory, str(self._directory), module="loadtests.bench_safety")
                    if kind != "stock"
                    else rival(kind, self._directory, TABLE)
                )
                for kind in kinds
            }

    def _note(self, what: str, who: str, value: float) -> None:
        self.found.setdefault(what, {}).setdefault(who, []).append(value)

    def _turns(self, number: int, kinds: Sequence[str]) -> Sequence[str]:
        return kinds if number % 2 == 0 else kinds[::-1]

    async def run(self) -> None:
        """Run all cases."""
        plain, view = record(market.SCHEMA, sort=[["price", "desc"]]), record(market.SCHEMA, **VIEW)
        async with self._servers(SERVERS) as servers:
            askers = {who: await Asker.open(server.port) for who, server in servers.items()}
            for who in SERVERS:
                await askers[who].checked(masked(request(1, TABLE, make_view("v", plain.config))), 1)
            for number in range(self._rounds + 1):  # the first does not count
                if number == 1:
                    self.found.clear()
                for who in self._turns(number, SERVERS):
                    await self._requests(who, askers[who], plain)
                    await self._refresh(who, askers[who], plain, servers[who].pid)
                    await self._views(who, askers[who], view, servers[who].pid)
            for asker in askers.values():
                asker.close()
        tokens = {"open": "", "HS256": token(secret=SECRET), "RS256": token("rsa")}
        (self._directory / "keys.json").write_bytes(key_set("rsa"))
        async with self._servers(DOORS) as servers:
            for number in range(self._rounds + 1):
                for who in self._turns(number, DOORS):
                    await self._connect(who, servers[who], tokens[who], counts=number > 0)

    async def _requests(self, who: str, asker: Asker, dialogue: Dialogue) -> None:
        for kind in ("dimensions", "schema", "rows", "config"):
            frame = masked(request(2, "v", dialogue.kinds[kind]))
            await asker.checked(frame, 2)
            times = []
            for _ in range(REQUESTS):
                started = time.perf_counter()
                await asker.ask(frame)
                times.append(time.perf_counter() - started)
            self._note(f"{kind}, latency", who, statistics.median(times) * 1e6)

    async def _refresh(self, who: str, asker: Asker, dialogue: Dialogue, pid: int) -> None:
        frames = b"".join(masked(request(3, "v", body)) for body in dialogue.refresh)
        count, began, end = 0, processor_us(pid), time.perf_counter() + self._seconds
        while time.perf_counter() < end:
            await asker.ask(frames, len(dialogue.refresh))
            count += 1
        self._note("refresh of six requests, processor time", who, (processor_us(pid) - began) / count)

    async def _views(self, who: str, asker: Asker, dialogue: Dialogue, pid: int) -> None:
        make = masked(request(4, TABLE, make_view("w", dialogue.config)))
        delete = masked(request(5, "w", (11, b"")))
        times, began, end = [], processor_us(pid), time.perf_counter() + self._seconds
        while time.perf_counter() < end:
            started = time.perf_counter()
            await asker.checked(make, 4)
            times.append(time.perf_counter() - started)
            await asker.checked(delete, 5)
        self._note("view with two expressions made, latency", who, statistics.median(times) * 1e6)
        cpu = (processor_us(pid) - began) / len(times)
        self._note("the same made and deleted, processor time", who, cpu)

    async def _connect(self, who: str, server: Server, bearer: str, *, counts: bool) -> None:
        began, times, end = processor_us(server.pid), [], time.perf_counter() + self._seconds
        while time.perf_counter() < end:
            started = time.perf_counter()
            asker = await Asker.open(server.port, bearer)
            times.append(time.perf_counter() - started)
            asker.close()
        if counts:
            self._note("websocket opened, latency", who, statistics.median(times) * 1e6)
            self._note("websocket opened and closed, processor time", who, (processor_us(server.pid) - began) / len(times))


def table(found: dict[str, Samples], columns: Sequence[str], first: str) -> str:
    """Return medians as a table, with the first column by each of the others, paired by rounds."""
    others = [name for name in columns if name != first]
    head = [f"{'µs':<45}", *columns, *(f"{first} by {name}" for name in others)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for what, samples in found.items():
        if samples.keys() != set(columns):
            continue
        cells = [f"{statistics.median(samples[name]):,.0f}" for name in columns]
        for name in others:
            by_round = [mine / theirs for mine, theirs in zip(samples[first], samples[name], strict=True)]
            cells.append(f"{statistics.median(by_round):.2f}")
        lines.append("| " + " | ".join([f"{what:<45}", *cells]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Parse the command line; measure, or serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", nargs="?", choices=["run", *SERVERS[:3], *DOORS], default="run")
    parser.add_argument("port", nargs="?", type=int, help="of a server")
    parser.add_argument("directory", nargs="?", default="", help="of a server's keys")
    parser.add_argument("--threads", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--seconds", type=float, default=0.4, help="the window of one measurement")
    arguments = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if arguments.kind != "run":
            runner.run(serve(arguments.kind, arguments.port, arguments.directory))
            return
        with tempfile.TemporaryDirectory(prefix="parallax-bench-") as directory:
            bench = Bench(Path(directory), arguments.rounds, arguments.seconds)
            runner.run(bench.run())
    print(
        f"{os.cpu_count()} cores ({platform.machine()}, Python {platform.python_version()}), load {os.getloadavg()[0]:.1f}"
    )
    print(table(bench.found, SERVERS, "checked"))
    print()
    for door in DOORS[1:]:
        print(
            table(
                {what: {k: v for k, v in s.items() if k in ("open", door)} for what, s in bench.found.items()},
                (door, "open"),
                door,
            )
        )
        print()


if __name__ == "__main__":
    sys.exit(main())

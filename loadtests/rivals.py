"""The servers that Parallax is held against, each a process of its own.

    python -m loadtests.rivals stock PORT TABLE [--threads N]
    python -m loadtests.rivals bare PORT
    python -m loadtests.rivals ready PORT

`stock` is Perspective's own Tornado handler with the table in the same process, as its tutorial has it; `bare` is a Tornado
websocket that sends the bytes of a notification to everybody, without Perspective; `ready` answers each message at once with
bytes that lie ready. All run on uvloop, as a node does.
`GET /ticks?rate=10&seconds=20` starts ticks: each is applied at its instant, or as soon after it as the server comes to it.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from typing import Any, ClassVar

import uvloop
from tornado.web import Application, RequestHandler
from tornado.websocket import WebSocketHandler

from loadtests import market
from parallax.tasks import Tasks

HOST = "127.0.0.1"
NOTIFICATION = b"\x08\xc7\xd7\xaa\x98\x09\x12\x15UnjgKRNyrslEEtoMDenVH\xaa\x01\x00"
"""As long as the notifications of a server are."""


class TicksHandler(RequestHandler):
    """Starts ticks, and answers when they are encoded."""

    def initialize(self, start: Callable[[float, float], None]) -> None:
        """Take over what the route says."""
        self._start = start

    def get(self) -> None:
        """Start them."""
        self._start(float(self.get_query_argument("rate")), float(self.get_query_argument("seconds")))
        self.finish("ok\n")


class BareHandler(WebSocketHandler):
    """A subscriber of the bare broadcast."""

    everybody: ClassVar[set["BareHandler"]] = set()

    def open(self, *args: str, **kwargs: str) -> None:
        """Take part."""
        self.set_nodelay(True)
        self.everybody.add(self)

    def on_message(self, message: str | bytes) -> None:
        """Ignore it."""

    def on_close(self) -> None:
        """Take part no more."""
        self.everybody.discard(self)


class ReadyHandler(WebSocketHandler):
    """Answers without looking: five short answers, then one of 50 rows, and so on."""

    answers: ClassVar[tuple[bytes, ...]] = (NOTIFICATION * 2,) * 5 + (b"x" * 4000,)

    def open(self, *args: str, **kwargs: str) -> None:
        """Begin."""
        self.set_nodelay(True)
        self._next = cycle(self.answers)

    def on_message(self, message: str | bytes) -> None:
        """Answer."""
        self.write_message(next(self._next), binary=True)


async def at_instants(due: list[tuple[float, bytes]], apply: Callable[[bytes], Any]) -> None:
    """Apply each tick at its instant; a server that is late drops none, but lets its viewers have their turn between two."""
    for instant, data in due:
        await asyncio.sleep(max(0.0, instant - time.time()))
        waiting = apply(data)
        if waiting is not None:
            await waiting


async def stock(port: int, name: str, threads: int) -> None:
    """Serve until killed."""
    import perspective
    from perspective.handlers.tornado import PerspectiveTornadoHandler

    server = perspective.Server()
    table = server.new_local_client().table(market.rows(name), name=name, index="id")
    executor = ThreadPoolExecutor(threads) if threads else None
    loop = asyncio.get_running_loop()

    def apply(data: bytes) -> Any:
        return loop.run_in_executor(executor, table.update, data) if executor else table.update(data)

    async with Tasks() as tasks:

        def start(rate: float, seconds: float) -> None:
            due = market.ticks(name, rate, seconds, time.time() + 0.2)
            tasks.start(at_instants(due, apply), name="ticks")

        options = {"perspective_server": server, "executor": executor}
        Application(
            [(r"/websocket", PerspectiveTornadoHandler, options), (r"/ticks", TicksHandler, {"start": start})],
            websocket_max_message_size=1 << 20,
        ).listen(port, HOST)
        await asyncio.Event().wait()


async def bare(port: int) -> None:
    """Serve until killed."""

    def send(_: bytes) -> None:
        for handler in tuple(BareHandler.everybody):
            handler.write_message(NOTIFICATION, binary=True)

    async with Tasks() as tasks:

        def start(rate: float, seconds: float) -> None:
            due = [(instant, b"") for instant, _ in market.ticks("tiny", rate, seconds, time.time() + 0.2)]
            tasks.start(at_instants(due, send), name="ticks")

        Application([(r"/websocket", BareHandler), (r"/ticks", TicksHandler, {"start": start})]).listen(port, HOST)
        await asyncio.Event().wait()


async def ready(port: int) -> None:
    """Serve until killed."""
    Application([(r"/websocket", ReadyHandler)]).listen(port, HOST)
    await asyncio.Event().wait()


def main() -> None:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["stock", "bare", "ready"])
    parser.add_argument("port", type=int)
    parser.add_argument("table", nargs="?", default="market")
    parser.add_argument("--threads", type=int, default=0, help="threads of the handler's executor; 0 is none")
    arguments = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if arguments.kind == "stock":
            runner.run(stock(arguments.port, arguments.table, arguments.threads))
        else:
            runner.run({"bare": bare, "ready": ready}[arguments.kind](arguments.port))


if __name__ == "__main__":
    sys.exit(main())

"""What every service does to start and to stop."""

import asyncio
import gc
import logging
import os
import secrets
import signal
import socket
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import uvloop
from tornado.httpserver import HTTPServer
from tornado.web import Application

from parallax.errors import ConfigurationError, StartAfresh
from parallax.guard import AFRESH
from parallax.logs import complain, set_up
from parallax.memory import give_back
from parallax.settings import CommonSettings, load
from parallax.tasks import Tasks

log = logging.getLogger(__name__)

S = TypeVar("S", bound=CommonSettings)


def run_service(kind: type[S], serve: Callable[[S, asyncio.Event], Coroutine[Any, Any, None]]) -> int:
    """Read the settings, run `serve(settings, stop)` until SIGTERM or SIGINT sets `stop`, and return the exit code.

    What is wrong with the configuration is said in readable lines on stderr, and ends the program with 2.
    """
    try:
        settings = load(kind)
        set_up(settings)
        # What was loaded lives for ever, and a service makes thousands of short-lived objects a second: 5 % of a busy node.
        # The last two are small, since Tornado leaves each viewer who went in cycles, 9 KB of them: at most 30 MB are kept.
        gc.freeze()
        gc.set_threshold(20_000, 2, 2)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_until_told(settings, serve))
    except ConfigurationError as error:
        for problem in error.problems:
            complain(problem)
        return 2
    except StartAfresh:
        return AFRESH
    except KeyboardInterrupt:
        return 130
    except Exception:
        log.critical("the service ended by an error", exc_info=True)
        return 1
    return 0


async def _until_told(settings: S, serve: Callable[[S, asyncio.Event], Coroutine[Any, Any, None]]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with Tasks() as tasks:
        tasks.start(give_back(), name="free memory")
        await serve(settings, stop)


async def or_stop(work: Coroutine[Any, Any, None], stop: asyncio.Event) -> None:
    """Wait for `work` to end, or for `stop`, which cancels it; what it raises is raised here."""
    async with Tasks() as tasks:
        working = tasks.start(work, name="start")
        stopping = tasks.start(stop.wait(), name="stop")
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()


async def first_of(*events: asyncio.Event) -> None:
    """Wait until one of the events is set."""
    async with Tasks() as tasks:
        await asyncio.wait(
            [tasks.start(event.wait(), name="event") for event in events], return_when=asyncio.FIRST_COMPLETED
        )


def member_name(settings: CommonSettings) -> tuple[str, str]:
    """Return this process's name, and the name with a part that is new at every start."""
    name = settings.node_id or f"{socket.gethostname()}-{os.getpid()}"
    return name, f"{name}.{secrets.token_hex(3)}"


def listen(app: Application, port: int, address: str, variable: str, **options: Any) -> HTTPServer:
    """Serve `app` on a port.

    Raises:
        ConfigurationError: the port is taken or not ours to take.
    """
    server = HTTPServer(app, **options)
    try:
        server.listen(port, address)
    except OSError as error:
        raise ConfigurationError([f"{variable}={port}: cannot listen on {address}:{port}: {error.strerror}"]) from error
    return server

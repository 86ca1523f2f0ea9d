"""What every service does to start and to stop."""

import asyncio
import gc
import json
import logging
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import uvloop
from tornado.httpserver import HTTPServer
from tornado.web import Application

from parallax.errors import ConfigurationError, StartAfresh
from parallax.guard import AFRESH
from parallax.memory import give_back
from parallax.settings import CommonSettings, load
from parallax.tasks import Tasks

S = TypeVar("S", bound=CommonSettings)


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        values = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            values["exception"] = self.formatException(record.exc_info)
        return json.dumps(values)


def run_service(kind: type[S], serve: Callable[[S, asyncio.Event], Coroutine[Any, Any, None]]) -> int:
    """Read the settings, run `serve(settings, stop)` until SIGTERM or SIGINT sets `stop`, and return the exit code.

    What is wrong with the configuration is said in readable lines on stderr, and ends the program with 2.
    """
    try:
        settings = load(kind)
        _log_as(settings)
        # What was loaded lives for ever, and a service makes thousands of short-lived objects a second: 5 % of a busy node.
        # The last two are small, since Tornado leaves each viewer who went in cycles, 9 KB of them: at most 30 MB are kept.
        gc.freeze()
        gc.set_threshold(20_000, 2, 2)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_until_told(settings, serve))
    except ConfigurationError as error:
        for problem in error.problems:
            print(f"parallax: {problem}", file=sys.stderr)
        return 2
    except StartAfresh:
        return AFRESH
    except KeyboardInterrupt:
        return 130
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


def _log_as(settings: CommonSettings) -> None:
    if settings.log_level not in ("debug", "info", "warning", "error"):
        raise ConfigurationError([f"PARALLAX_LOG_LEVEL={settings.log_level!r}: expected debug, info, warning or error"])
    if settings.log_format not in ("text", "json"):
        raise ConfigurationError([f"PARALLAX_LOG_FORMAT={settings.log_format!r}: expected text or json"])
    handler = logging.StreamHandler()
    text = logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else text)
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)
    logging.getLogger("tornado.access").setLevel(logging.CRITICAL)  # probes, and what viewers ask for in vain
    logging.getLogger("tornado.general").addFilter(_without_what_was_sent)


def _without_what_was_sent(record: logging.LogRecord) -> bool:
    """Tornado repeats the header that it could not read: it may be the one with a token."""
    if isinstance(record.msg, str) and record.msg.startswith("Malformed HTTP message"):
        record.msg, record.args = "a client sent what is no HTTP request", ()
    return True


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

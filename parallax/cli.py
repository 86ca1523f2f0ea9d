"""The command `parallax`."""

import argparse
import runpy
import sys
from collections.abc import Callable, Sequence

from parallax.commands import fleet, publish, quarantine, size, tables
from parallax.errors import ConfigurationError, ParallaxError
from parallax.redis_url import place
from parallax.settings import load_where
from parallax.store import STORE_ERRORS
from parallax.version import VERSION


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 it did not succeed, 2 it was asked wrongly."""
    parser = argparse.ArgumentParser(prog="parallax", description="Perspective tables for many viewers from many servers")
    parser.add_argument("--version", action="version", version=f"parallax {VERSION}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str, run: Callable[[argparse.Namespace], int] | None = None) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        if run is not None:
            _add_common(command)
            command.set_defaults(run=run)
        return command

    fleet.add_status_arguments(
        add("status", "show coordinators, tables and every node's position, lag, digest and sessions", fleet.status)
    )
    verify = add("verify", "make every replica compute its digest at one position, and compare them", fleet.verify_all)
    fleet.add_verify_arguments(verify)
    quarantine.add_arguments(
        add("quarantine", "show, and release, what ended processes of the fleet", quarantine.quarantine)
    )
    tables.add_arguments(add("tables", "list, show, create, alter and drop tables"), _add_common)
    publish.add_publish_arguments(add("publish", "publish a file's rows, or what comes down a pipe", publish.publish))
    publish.add_host_arguments(add("host", "create a table that fits a file, and fill it", publish.host))
    size.add_arguments(add("size", "say how many nodes a load needs, and what is full first"))
    add("node", "run a node (settings: PARALLAX_* variables)").set_defaults(run=_service)
    add("coordinator", "run a coordinator (settings: PARALLAX_* variables)").set_defaults(run=_service)
    commands.add_parser("demo", help="run a whole fleet on this machine, with real data", add_help=False).set_defaults(
        run=_demo
    )

    arguments, rest = parser.parse_known_args(argv)
    if rest and arguments.command != "demo":
        parser.error(f"unknown arguments: {' '.join(rest)}")
    arguments.rest = rest
    try:
        code: int = arguments.run(arguments)
    except ConfigurationError as error:
        for problem in error.problems:
            print(f"parallax: {problem}", file=sys.stderr)
        return 2
    except ParallaxError as error:
        print(f"parallax: {error}", file=sys.stderr)
        return 1
    except STORE_ERRORS as error:
        if not hasattr(arguments, "redis"):  # a command that does not ask it
            raise
        print(f"parallax: Redis at {place(arguments.redis)}: {error}", file=sys.stderr)
        return 1
    return code


def _add_common(command: argparse.ArgumentParser) -> None:
    common = load_where()
    where = f"default: PARALLAX_REDIS_URL, now {place(common.redis_url)}".replace("%", "%%")
    command.add_argument("--redis", default=common.redis_url, type=common.redis, metavar="URL", help=where)
    command.add_argument("--prefix", default=common.prefix, help="default: PARALLAX_PREFIX or %(default)s")
    command.add_argument("--json", action="store_true", help="print JSON")


def _service(arguments: argparse.Namespace) -> int:
    """Run a package's `__main__`, by name: nothing in `parallax` imports the services that build on it."""
    runpy.run_module(arguments.command, run_name="__main__")
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    from parallax.demo.run import main as run

    return run(arguments.rest)


if __name__ == "__main__":
    sys.exit(main())

"""`parallax status` and `parallax verify`."""

import argparse
import asyncio
import json
import os
import shutil
import sys
from typing import Any

from parallax.redis_url import place
from parallax.replication.verdict import Verdict
from parallax.status import comparison, fleet, render, strays, verify
from parallax.store import STORE_ERRORS, connect
from parallax.tables import catalog
from parallax.watch import plain, screen, watch

RESULTS = {
    Verdict.EQUAL: "equal",
    Verdict.ELSEWHERE: "with the majority",
    Verdict.MINORITY: "DIFFERS from the majority",
    Verdict.TIE: "DIFFERS, and none has a majority",
}


def add_status_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the arguments of `parallax status`."""
    command.add_argument(
        "--watch",
        nargs="?",
        type=_seconds,
        const=2.0,
        metavar="SECONDS",
        help="show it again and again until Ctrl-C (default: every 2 s); in place on a terminal",
    )


def _seconds(text: str) -> float:
    value = float(text)
    if not 0.1 <= value <= 3600:
        raise argparse.ArgumentTypeError("expected 0.1 to 3600 seconds")
    return value


def status(arguments: argparse.Namespace) -> int:
    """Show the fleet as it announces itself."""
    if arguments.watch is not None:
        return _watch(arguments)
    code = _show(arguments, asyncio.run(fleet(arguments.redis, arguments.prefix)))
    for name, waiting in asyncio.run(strays(arguments.redis, arguments.prefix)).items():
        print(f"{waiting} entries wait for a table {name!r} that there is not: see `parallax tables`", file=sys.stderr)
    return code


def _watch(arguments: argparse.Namespace) -> int:
    def show(found: list[dict[str, Any]] | None, problem: str) -> None:
        if arguments.json:
            print(json.dumps({"problem": problem} if found is None else found), flush=True)
        elif sys.stdout.isatty():
            size = shutil.get_terminal_size()
            print(screen(found, problem, size.columns, size.lines), end="", flush=True)
        else:
            print(plain(found, problem), flush=True)

    try:
        asyncio.run(watch(arguments.redis, arguments.prefix, arguments.watch, show))
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains of it when it ends
    return 0


def add_verify_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the arguments of `parallax verify`."""
    command.add_argument("tables", nargs="*", metavar="TABLE", help="default: all")
    command.add_argument("--seconds", type=float, default=30.0, help="how long to wait for every member (default: 30)")


def verify_all(arguments: argparse.Namespace) -> int:
    """Compare all replicas of tables at one position; 0: they are equal, 1: some differ, 2: some could not be asked."""
    try:
        known = asyncio.run(_catalog(arguments))
        unknown = sorted(set(arguments.tables) - set(known))
        if unknown:
            print(f"parallax: there is no table {unknown[0]!r}; see `parallax tables list`", file=sys.stderr)
            return 2
        names = arguments.tables or known
        found = asyncio.run(verify(arguments.redis, arguments.prefix, names, arguments.seconds))
    except STORE_ERRORS as error:
        print(f"parallax: Redis at {place(arguments.redis)}: {error}", file=sys.stderr)
        return 2
    if not found:
        return _nobody(arguments, 2)
    results = {name: comparison(found, name) for name in names}
    lines: list[dict[str, str]] = []
    for table, reports in results.items():
        for member, result in reports.items():
            told = {"digest": result[0].value, "position": str(result[0].position)} if result else {}
            lines.append({"table": table, "member": member, "result": RESULTS[result[1]] if result else "no answer"} | told)
    if arguments.json:
        print(json.dumps(lines, indent=2))
    else:
        for line in lines:
            print("  ".join(line[key] for key in ("table", "member", "result", "digest", "position") if key in line))
    answers = [result for reports in results.values() for result in reports.values()]
    if any(result and result[1] is not Verdict.EQUAL for result in answers):
        return 1
    if None in answers:
        problem = f"not all answered within {arguments.seconds:g} s; is there a leader? See `parallax status`"
        print(f"parallax: {problem}", file=sys.stderr)
        return 2
    return 0


async def _catalog(arguments: argparse.Namespace) -> list[str]:
    redis = connect(arguments.redis)
    try:
        return list(await catalog(redis, arguments.prefix))
    finally:
        await redis.aclose()


def _show(arguments: argparse.Namespace, found: list[dict[str, Any]]) -> int:
    if arguments.json:
        print(json.dumps(found, indent=2))
    elif found:
        print(render(found))
    return 0 if found else _nobody(arguments, 1)


def _nobody(arguments: argparse.Namespace, code: int) -> int:
    print(f"nobody announces himself under the prefix {arguments.prefix!r}: is anything running?", file=sys.stderr)
    return code

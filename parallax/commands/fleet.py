"""`parallax status` and `parallax verify`."""

import argparse
import asyncio
import json
import sys
from typing import Any

from parallax.status import disagreements, fleet, render, strays, verify


def status(arguments: argparse.Namespace) -> int:
    """Show the fleet as it announces itself."""
    code = _show(arguments, asyncio.run(fleet(arguments.redis, arguments.prefix)))
    for name, waiting in asyncio.run(strays(arguments.redis, arguments.prefix)).items():
        print(f"{waiting} entries wait for a table {name!r} that there is not: see `parallax tables`", file=sys.stderr)
    return code


def verify_all(arguments: argparse.Namespace) -> int:
    """Compare all replicas at one position."""
    found = asyncio.run(verify(arguments.redis, arguments.prefix))
    code = _show(arguments, found)
    problems = disagreements(found)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else code


def _show(arguments: argparse.Namespace, found: list[dict[str, Any]]) -> int:
    if arguments.json:
        print(json.dumps(found, indent=2))
    elif found:
        print(render(found))
    if not found:
        print(f"nobody announces himself under the prefix {arguments.prefix!r}: is anything running?", file=sys.stderr)
        return 1
    return 0

"""`parallax quarantine`."""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from parallax import quarantine as q
from parallax.quarantine import Suspect
from parallax.replication.keys import FleetKeys
from parallax.store import connect


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    command.add_argument("--release", nargs="+", default=[], metavar="NAME", help="forget these")


def quarantine(arguments: argparse.Namespace) -> int:
    """Show what ended processes, or release some of it; 1 if there is none of a name."""
    known, missing = asyncio.run(_release(arguments.redis, arguments.prefix, arguments.release))
    if arguments.json:
        print(json.dumps([asdict(suspect) | {"is_quarantined": suspect.is_quarantined} for suspect in known], indent=2))
    for suspect in known if not arguments.json else ():
        verdict = "quarantined" if suspect.is_quarantined else "suspected"
        why = {q.TIME: "took too long", q.TABLE: "its rows ended a process"}.get(suspect.kind, f"deaths: {suspect.deaths}")
        print(f"{suspect.name}  {verdict}  table {suspect.table}  {why}  forgotten in {suspect.seconds_left} s")
    if not known and not arguments.json:
        print("nothing is quarantined")
    for name in missing:
        print(f"there is no {name!r} in the quarantine", file=sys.stderr)
    return 1 if missing else 0


async def _release(url: str, prefix: str, names: Sequence[str]) -> tuple[list[Suspect], list[str]]:
    redis, keys = connect(url), FleetKeys(prefix)
    try:
        missing = [name for name in names if not await q.acquit(redis, keys, name)]
        return await q.suspects(redis, keys), missing
    finally:
        await redis.aclose()

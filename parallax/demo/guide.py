"""What the demo tells its user: what runs where, where to look, what to try."""

import json
import os
import shlex
import sys
from pathlib import Path

from parallax.demo.fleet import PREFIX, Fleet
from parallax.replication.keys import TableKeys

OWN_ROW = {"id": "00-my-own", "carrier": "My Own Air", "origin": "JFK", "dest": "LAX", "status": "boarding", "dep_delay": 42}


def guide(fleet: Fleet, *, speed: float, seconds: float | None) -> str:
    """Return the text that is shown once everything runs."""
    lines = [
        "",
        bold(f"Parallax: {len(fleet.nodes)} nodes behind a load balancer, 2 coordinators and Redis, all on this machine"),
        "",
        *(f"  {name:14} pid {child.pid or 0:<8} {_place(fleet, name, speed)}" for name, child in fleet.children.items()),
        "",
        f"Open   {bold(fleet.url('balancer') + '?table=flights')}",
        f"Fleet  {fleet.url('balancer')}fleet",
        "",
        "Publish a row of your own; every viewer sees it at once (until the replay's next day replaces the table):",
        *(f"       {line}" for line in own_row_commands(fleet.ports["redis"])),
        "",
        "Break  kill -9 any of these: the standby takes over, viewers of a node go to another, and it is started again",
        f"Look   {_python()} -m parallax status --watch --redis {fleet.redis_url}",
        f"Stop   {f'by itself after {seconds:g} s, or with ' if seconds else ''}Ctrl-C; logs until then in {fleet.processes.directory}",
        "",
    ]
    return "\n".join(lines)


def own_row_commands(redis_port: int) -> list[str]:
    """Return two shell commands that publish the same row: with redis-cli, and with Python for who has none."""
    key = TableKeys(PREFIX, "flights").ingest
    fields = {"op": "update", "format": "json", "data": json.dumps([OWN_ROW], separators=(",", ":"))}
    words = " ".join(shlex.quote(word) for pair in fields.items() for word in pair)
    call = f"xadd({json.dumps(key)}, {json.dumps(fields)})"
    return [
        f"redis-cli -p {redis_port} XADD {shlex.quote(key)} '*' {words}",
        f"{_python()} -c {shlex.quote(f'import redis; redis.Redis(port={redis_port}).{call}')}",
    ]


def bold(text: str) -> str:
    """Return `text` so that it stands out, on a terminal."""
    return f"\033[1m{text}\033[0m" if sys.stdout.isatty() and "NO_COLOR" not in os.environ else text


def _place(fleet: Fleet, name: str, speed: float) -> str:
    if name in fleet.nodes:
        return f"{fleet.url(name)}   status: {fleet.url(name + ' internal')}status"
    if name in fleet.coordinators:
        return f"status: {fleet.url(name + ' internal')}status"
    if name == "redis":
        return fleet.redis_url
    if name == "balancer":
        return fleet.url(name)
    return f"publishes the flights of 9 and 10 July 2013 from New York, {speed * 60:,.0f} times as fast as they were"


def _python() -> str:
    program, here = Path(sys.executable), Path.cwd()
    return str(program.relative_to(here)) if program.is_relative_to(here) else shlex.quote(str(program))

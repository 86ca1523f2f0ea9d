"""`parallax status --watch`: the fleet again and again; in place on a terminal, else as lines that can be searched."""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

from redis.asyncio import Redis

from parallax.redis_url import place
from parallax.registry import members
from parallax.replication.keys import FleetKeys
from parallax.store import STORE_ERRORS, connect

SILENT_SECONDS = 3.0
"""A table whose feed is silent for longer is stale."""
CLEAR = "\x1b[H\x1b[J"

Row = dict[str, str]


async def watch(
    url: str, prefix: str, seconds: float, show: Callable[[list[dict[str, Any]] | None, str], None], times: int | None = None
) -> None:
    """Call `show(fleet, problem)` every `seconds`, for ever or so many times; the fleet is None where Redis cannot be asked."""
    redis: Redis = connect(url)
    try:
        while times is None or times > 0:
            try:
                show(await members(redis, FleetKeys(prefix)), "")
            except STORE_ERRORS as error:
                show(None, f"Redis at {place(url)}: {error}")
            times = None if times is None else times - 1
            if times != 0:
                await asyncio.sleep(seconds)
    finally:
        await redis.aclose()


def rows(fleet: list[dict[str, Any]]) -> list[Row]:
    """Return a row for each member and table, as texts by their headings; coordinators first."""
    found = []
    for member in fleet:
        is_node = member["kind"] == "node"
        role = "node" if is_node else "leader" if member["leader"] else "standby"
        if member.get("draining"):
            role = "draining"
        own = {
            "MEMBER": member["id"],
            "ROLE": role,
            "SESSIONS": str(member["sessions"]) if is_node else "",
            "VIEWS": str(member.get("views", "")),
            "MEMORY": f"{member['memory_bytes'] / (1 << 20):.0f} MiB" if "memory_bytes" in member else "",
            "LOOP": f"{100 * member['loop_busy']:.0f} %" if "loop_busy" in member else "",
        }
        for name, table in sorted(member["tables"].items()) or [("", None)]:
            found.append(own | {"TABLE": name} | (_of_table(member, name, table) if table else {}))
    return found


def _of_table(member: dict[str, Any], name: str, table: dict[str, Any]) -> Row:
    silence = table.get("silence_seconds", 0.0)
    backlog = member.get("backlog", {}).get(name)
    return {
        "STATE": table["state"],
        "POSITION": table["position"],
        "LAG": f"{table['lag_records']} rec, {table['lag_seconds']:.1f} s",
        "STALE": f"{silence:.0f} s" if silence > SILENT_SECONDS else "",
        "BACKLOG": "" if backlog is None else f"{backlog['entries']}, {backlog['seconds']:.1f} s",
        "ROWS": str(table["rows"]),
    }


HEADINGS = (
    "MEMBER",
    "ROLE",
    "SESSIONS",
    "VIEWS",
    "MEMORY",
    "LOOP",
    "TABLE",
    "STATE",
    "POSITION",
    "LAG",
    "STALE",
    "BACKLOG",
    "ROWS",
)


OWN = HEADINGS.index("TABLE")
"""So many of them say something of the member itself."""


def screen(fleet: list[dict[str, Any]] | None, problem: str, width: int, height: int) -> str:
    """Return what a terminal of that size shows: as much of the fleet as fits, without repeating a member's own figures."""
    if fleet is None:
        lines = [problem]
    else:
        cells = [list(HEADINGS)]
        before = ""
        for row in rows(fleet):
            texts = [row.get(heading, "") for heading in HEADINGS]
            cells.append(["" if number < OWN and row["MEMBER"] == before else text for number, text in enumerate(texts)])
            before = row["MEMBER"]
        widths = [max(len(line[column]) for line in cells) for column in range(len(HEADINGS))]
        lines = ["  ".join(text.ljust(size) for text, size in zip(line, widths, strict=True)).rstrip() for line in cells]
        if not fleet:
            lines = ["nobody announces himself: is anything running?"]
    left = height - 2
    if len(lines) > left:
        lines = [*lines[: left - 1], f"... and {len(lines) - left + 1} more lines; a wider look: parallax status"]
    return CLEAR + "\n".join(line[:width] for line in (time.strftime("%H:%M:%S"), *lines)) + "\n"


def plain(fleet: list[dict[str, Any]] | None, problem: str) -> str:
    """Return lines of `heading=text`, one for each member and table, each with the time."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    if fleet is None:
        return f"{now} {json.dumps(problem)}"
    texts = [
        " ".join(f"{heading.lower()}={text.replace(' ', '')}" for heading, text in row.items() if text)
        for row in rows(fleet)
    ]
    return "\n".join(f"{now} {line}" for line in texts or ["nobody"])

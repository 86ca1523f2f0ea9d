"""What `parallax status` and `parallax verify` show: the fleet as it announces itself."""

import asyncio
import time
from collections import Counter
from typing import Any

from parallax.registry import members
from parallax.replication.keys import FleetKeys, TableKeys
from parallax.replication.verdict import Digest, Verdict, judge
from parallax.store import connect, text
from parallax.tables import catalog

ASK_SECONDS = 10


async def fleet(redis_url: str, prefix: str = "parallax") -> list[dict[str, Any]]:
    """Return what every coordinator and node announced within the last seconds.

    Raises:
        one of parallax.store.STORE_ERRORS: Redis could not be asked.
    """
    redis = connect(redis_url)
    try:
        return await members(redis, FleetKeys(prefix))
    finally:
        await redis.aclose()


async def strays(redis_url: str, prefix: str = "parallax") -> dict[str, int]:
    """Return what waits in ingest of tables that there are not: their names, and how many entries each."""
    redis = connect(redis_url)
    try:
        known = await catalog(redis, prefix)
        found: dict[str, int] = {}
        begin, end = f"{prefix}:{{", "}:in"
        async for key in redis.scan_iter(match=f"{prefix}:{{*}}:in", count=1000, _type="stream"):
            name = text(key).removeprefix(begin).removesuffix(end)
            if name not in known:
                waiting = int(await redis.xlen(key))
                if waiting:
                    found[name] = waiting
        return dict(sorted(found.items()))
    finally:
        await redis.aclose()


async def verify(
    redis_url: str, prefix: str = "parallax", tables: list[str] | None = None, seconds: float = 15.0
) -> list[dict[str, Any]]:
    """Ask the leader for a `verify` record in each table, and wait until every member reported its digest at one position.

    Returns the members' announcements then, or as they are when the time is up, without the digests of before: `comparison` and
    `disagreements` say what is in them.
    """
    redis = connect(redis_url)
    try:
        tables = list(await catalog(redis, prefix)) if tables is None else tables
        before = await members(redis, FleetKeys(prefix))
        old = {name: {_digest(member, name) for member in before} for name in tables}
        for name in tables:
            await redis.set(TableKeys(prefix, name).verify, "1", ex=ASK_SECONDS)
        deadline = time.monotonic() + seconds
        while True:
            now = await members(redis, FleetKeys(prefix))
            for member in now:
                for name in tables:
                    if name in member["tables"] and _digest(member, name) in old[name]:
                        member["tables"][name]["digest"] = None
            # Without tables there is nobody to wait for.
            if ((now or not tables) and all(_is_complete(now, name) for name in tables)) or time.monotonic() > deadline:
                return now
            await asyncio.sleep(0.2)
    finally:
        await redis.aclose()


def _is_complete(fleet: list[dict[str, Any]], table: str) -> bool:
    digests = [_digest(member, table) for member in fleet]
    return None not in digests and len({digest[0] for digest in digests if digest is not None}) == 1


def comparison(fleet: list[dict[str, Any]], table: str) -> dict[str, tuple[Digest, Verdict] | None]:
    """Return, by member, what each reported of a table and how it stands to the others; None: it did not report.

    Where positions differ, those that most reported count.
    """
    found = {member["id"]: Digest.from_json(member["tables"].get(table, {}).get("digest")) for member in fleet}
    places = Counter((digest.position, digest.spec) for digest in found.values() if digest is not None)
    place = places.most_common(1)[0][0] if places else None
    there = {
        name: digest for name, digest in found.items() if digest is not None and (digest.position, digest.spec) == place
    }
    others = {name: [digest for key, digest in there.items() if key != name] for name in there}
    return {name: (there[name], judge(there[name], others[name])) if name in there else None for name in found}


def disagreements(fleet: list[dict[str, Any]], tables: list[str] | None = None) -> list[str]:
    """Return a line for each table of which two members report different digests, or digests at different positions."""
    problems = []
    names = sorted({name for member in fleet for name in member["tables"]}) if tables is None else tables
    for name in names:
        found: dict[tuple[str, str] | None, list[str]] = {}
        for member in fleet:
            found.setdefault(_digest(member, name), []).append(member["id"])
        if len(found) != 1 or None in found:
            parts = [
                f"{'none' if key is None else ' at '.join(reversed(key))} on {', '.join(ids)}" for key, ids in found.items()
            ]
            problems.append(f"table {name!r}: digests differ: {'; '.join(parts)}")
    return problems


def _digest(member: dict[str, Any], table: str) -> tuple[str, str] | None:
    digest = member["tables"].get(table, {}).get("digest")
    return None if digest is None else (digest["position"], digest["value"])


def render(fleet: list[dict[str, Any]]) -> str:
    """Return the fleet as a table of text."""
    rows = [("MEMBER", "ROLE", "SESSIONS", "TABLE", "STATE", "POSITION", "LAG", "ROWS", "DIGEST")]
    for member in fleet:
        role = ("leader" if member["leader"] else "standby") if member["kind"] == "coordinator" else "node"
        first = (member["id"], role, str(member["sessions"]) if role == "node" else "")
        for name, table in sorted(member["tables"].items()) or [("", None)]:
            cells = _cells(table) if table else ("", "", "", "", "")
            rows.append((*first, name, *cells))
            first = ("", "", "")
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def _cells(table: dict[str, Any]) -> tuple[str, str, str, str, str]:
    digest = table["digest"]
    shown = "-" if digest is None else f"{digest['value'][:12]} at {digest['position'].partition('-')[2]}"
    lag = f"{table['lag_records']} rec, {table['lag_seconds']:.1f} s"
    return table["state"], table["position"], lag, str(table["rows"]), shown

"""What `--for` ends with: did records flow, and do all replicas hold the same?"""

import asyncio
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from parallax.demo.replay import Published
from parallax.replication.keys import TableKeys
from parallax.replication.position import Position
from parallax.status import disagreements, fleet, render, verify
from parallax.store import connect

SETTLE_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """A summary to print, and a line for each thing that is not as it must be."""

    summary: str
    problems: list[str]


async def judge(
    redis_url: str,
    prefix: str,
    tables: Collection[str],
    expected: Collection[str],
    published: Published,
    seconds: float,
    settle_seconds: float = SETTLE_SECONDS,
) -> Verdict:
    """Wait until everything published has arrived everywhere, then compare all replicas; each takes `settle_seconds` at most.

    `expected` names the members (nodes and coordinators) that must be there; `seconds` is how long was published.

    Raises:
        one of parallax.store.STORE_ERRORS: Redis could not be asked.
    """
    deadline = time.monotonic() + settle_seconds
    waiting, refused = await _backlog(redis_url, prefix, tables)
    while (waiting or not _settled(await fleet(redis_url, prefix), tables)) and time.monotonic() < deadline:
        await asyncio.sleep(0.2)
        waiting, refused = await _backlog(redis_url, prefix, tables)
    members = await verify(redis_url, prefix, list(tables), seconds=settle_seconds)

    problems = disagreements(members, list(tables))
    missing = sorted(set(expected) - {member["id"] for member in members})
    if missing:
        problems.append(f"not in the registry: {', '.join(missing)}")
    if waiting:
        problems.append(f"{waiting} entries still wait in ingest: nobody puts them in order")
    if published.rows == 0:
        problems.append("nothing was published")
    records = {table: _records(members, table) for table in tables}
    problems.extend(f"table {table!r}: no records reached its log" for table, count in records.items() if count < 2)

    operations = ", ".join(f"{count:,} {op}" for op, count in sorted(published.operations.items()))
    lines = [
        f"Published in {seconds:.0f} s: {published.entries:,} entries ({operations or 'none'}), {published.rows:,} rows, "
        f"{published.bytes / 1e6:.1f} MB; {refused:,} refused.",
        f"Put in order: {', '.join(f'{count:,} records in {table}' for table, count in records.items())}.",
        "",
        render(members),
        "",
    ]
    if not problems:
        lines.append(f"All {len(members)} replicas of {' and of '.join(tables)} are equal.")
    return Verdict("\n".join(lines), problems)


async def _backlog(redis_url: str, prefix: str, tables: Collection[str]) -> tuple[int, int]:
    """Return how many entries wait in ingest, and how many were refused."""
    redis = connect(redis_url)
    try:
        keys = [TableKeys(prefix, table) for table in tables]
        waiting = sum([await redis.xlen(key.ingest) for key in keys])
        return waiting, sum([await redis.xlen(key.rejected) for key in keys])
    finally:
        await redis.aclose()


def _settled(members: list[dict[str, Any]], tables: Collection[str]) -> bool:
    places = [{member["tables"].get(table, {}).get("position") for member in members} for table in tables]
    return all(len(place) == 1 for place in places)


def _records(members: list[dict[str, Any]], table: str) -> int:
    """Return how many records the table's log has had: offsets count them from 1."""
    offsets = [Position.parse(m["tables"][table]["position"]).offset for m in members if table in m["tables"]]
    return max(offsets, default=0)

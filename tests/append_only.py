"""A Redis that comes back without its newest writes: its append-only file, cut."""

import os
from pathlib import Path


def newest_file(directory: Path) -> Path:
    """Return the append-only file that the Redis of a cluster in this directory writes to."""
    files = (directory / "redis-data" / "appendonlydir").glob("*.incr.aof")
    return max(files, key=lambda path: path.stat().st_mtime)


def forget_newest(log: Path, least_bytes: int) -> int:
    """Cut at least so many bytes off an append-only file, if it has them, and return how many.

    It is cut between commands and outside transactions, as it must be to be a prefix of history: Redis 7.0 keeps half of a
    torn transaction in the file, and makes of it a hole in the middle at the restart after the next.
    """
    data = log.read_bytes()
    at, last_whole, is_in_transaction = 0, 0, False
    while at < len(data) - least_bytes:
        if not is_in_transaction:
            last_whole = at
        if data[at : at + 1] == b"#":  # a time stamp
            at = data.index(b"\n", at) + 1
            continue
        end = data.index(b"\r\n", at)
        parts, at = int(data[at + 1 : end]), end + 2
        for number in range(parts):
            end = data.index(b"\r\n", at)
            length, at = int(data[at + 1 : end]), end + 2
            if number == 0 and parts == 1:
                is_in_transaction = {b"MULTI": True, b"EXEC": False}.get(data[at : at + length].upper(), is_in_transaction)
            at += length + 2
    os.truncate(log, last_whole)
    return len(data) - last_whole

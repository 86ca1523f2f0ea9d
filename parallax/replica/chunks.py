"""Large values in Redis: cut into chunks under names that were never used before, with a TTL until a script makes them permanent."""

import secrets
from collections.abc import Sequence

from redis.asyncio import Redis

from parallax.errors import ChunksGone
from parallax.replication.keys import TableKeys
from parallax.store import as_bytes, load_script

CHUNK_BYTES = 1 << 20
UNPUBLISHED_SECONDS = 300
"""How long chunks live on that nothing refers to, yet or any more: whoever is reading them may finish."""


async def write_chunks(redis: "Redis", keys: TableKeys, label: str, data: bytes) -> tuple[str, int]:
    """Store `data`, even where Redis is full, and return the name and the number of its chunks."""
    name = f"{label}-{secrets.token_hex(6)}"
    keep = load_script(redis, "parallax", "keep.lua")
    view = memoryview(data)
    starts = range(0, len(view), CHUNK_BYTES)
    for number, start in enumerate(starts):
        await keep(keys=[keys.chunk(name, number)], args=[bytes(view[start : start + CHUNK_BYTES]), UNPUBLISHED_SECONDS])
    return name, len(starts)


async def read_chunks(redis: "Redis", keys: Sequence[str]) -> bytes:
    """Return what the chunks hold together.

    Raises:
        ChunksGone: one is no longer there.
    """
    data = bytearray()
    for key in keys:
        chunk = await redis.get(key)
        if chunk is None:
            raise ChunksGone(f"{key} is gone")
        data += as_bytes(chunk)
    return bytes(data)

"""What a replica asks Redis for when the feed is not enough: pages of the log, the manifest, the snapshot, large payloads."""

import pyarrow as pa
from redis.asyncio import Redis

from parallax.replica.chunks import read_chunks
from parallax.replica.snapshot import read_snapshot
from parallax.replication.events import ManifestRead, PageRead
from parallax.replication.keys import TableKeys
from parallax.replication.position import Position
from parallax.replication.record import Record
from parallax.replication.snapshot import Manifest
from parallax.store import load_script

PAGE_BYTES = 4 << 20
WANT_SECONDS = 10


class Source:
    """One table in Redis, as its replicas read it. Everything raises one of STORE_ERRORS if Redis cannot be asked."""

    def __init__(self, redis: "Redis", keys: TableKeys) -> None:
        self._redis = redis
        self._keys = keys
        self._page = load_script(redis, "parallax.replica", "page.lua")
        self._manifest = load_script(redis, "parallax.replica", "manifest.lua")

    async def page(self, start: Position) -> PageRead:
        """Read the log from `start` on.

        Raises:
            BadRecord: it holds what this version cannot read.
        """
        top, page = await self._page(keys=[self._keys.log], args=[str(start), PAGE_BYTES])
        return PageRead([Record.decode(data) for data in page[1::2]], Position.parse(top) if top else None)

    async def manifest(self) -> ManifestRead:
        """Read the manifest.

        Raises:
            BadRecord: it is none that this version can read.
        """
        body, is_held = await self._manifest(keys=[self._keys.manifest, self._keys.log])
        return ManifestRead(Manifest.decode(body) if body else None, bool(is_held))

    async def snapshot(self, manifest: Manifest) -> pa.Table:
        """Read a snapshot.

        Raises:
            SnapshotUnusable: it is gone, or not what the manifest says.
        """
        return await read_snapshot(self._redis, self._keys, manifest)

    async def payload(self, record: Record) -> bytes:
        """Return a record's payload, wherever it is.

        Raises:
            ChunksGone: it was beside the log, and is no longer.
        """
        if record.blob is None:
            return record.payload
        return await read_chunks(self._redis, self._keys.chunks(record.blob.name, record.blob.chunks))

    async def want(self) -> None:
        """Ask the leader for a snapshot."""
        await self._redis.set(self._keys.want, "1", ex=WANT_SECONDS)

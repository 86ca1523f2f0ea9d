"""Writing snapshots, and trimming the log behind them."""

import asyncio
import logging

import pyarrow as pa
from redis.asyncio import Redis

from coordinator.writing import Writing
from parallax.errors import BadRecord
from parallax.replica.chunks import UNPUBLISHED_SECONDS, write_chunks
from parallax.replica.digest import digest
from parallax.replica.replica import Held, Replica
from parallax.replica.snapshot import encode_snapshot
from parallax.replication.position import ORIGIN, Position
from parallax.replication.snapshot import Manifest
from parallax.store import STORE_ERRORS, as_bytes, load_script, text

log = logging.getLogger(__name__)

MIN_LOG_BYTES = 32 << 20
PAUSE_SECONDS = 2.0
RELIEF_BYTES = 64 << 10


class Snapshots:
    """Take snapshots of one table from our own replica, when the log outweighs them or somebody needs one."""

    def __init__(self, redis: "Redis", replica: Replica, writing: Writing, min_log_bytes: int = MIN_LOG_BYTES) -> None:
        self.taken = 0
        self._redis = redis
        self._replica = replica
        self._writing = writing
        self._keys = replica.keys
        self._min_log_bytes = min_log_bytes
        self._log_bytes = 0  # appended since the last snapshot that we know of
        self._untrimmed_bytes = 0  # between the last two snapshots: what the next will trim
        self._snapshot_bytes = 0
        self._requested = asyncio.Event()
        self._script = load_script(redis, "coordinator", "snap.lua")
        self._discard = load_script(redis, "coordinator", "discard.lua")

    def weigh(self, size: int) -> None:
        """Note that the log grew by `size` bytes, or was found to be that large when we began to lead."""
        self._log_bytes += size

    def is_due(self) -> bool:
        """Say whether the log outweighs its snapshot."""
        return self._log_bytes > max(self._min_log_bytes, self._snapshot_bytes)

    def relieve(self, used_percent: int) -> None:
        """Redis is nearly full: ask for a snapshot if that and the next would make more room than they take."""
        if self._log_bytes + self._untrimmed_bytes > max(RELIEF_BYTES, self._snapshot_bytes):
            if not self._requested.is_set():
                log.warning("table %s: Redis is %d %% full; trimming the log", self._keys.table, used_percent)
            self.request()

    def request(self) -> None:
        """Ask for a snapshot soon. Requests that come while one is being taken become one."""
        self._requested.set()

    async def run(self) -> None:
        """Take the snapshots that are asked for, until cancelled."""
        while True:
            await self._requested.wait()
            self._requested.clear()
            try:
                await self._take()
            except STORE_ERRORS as error:
                log.warning("table %s: the snapshot could not be written: %s", self._keys.table, error)
            await asyncio.sleep(PAUSE_SECONDS)

    async def _take(self) -> None:
        weight = self._log_bytes
        held, rows = await self._replica.export()
        if held.position == ORIGIN or held.spec is None or rows is None:
            return
        old = await self._old_chunks()
        manifest = await self.write(held, rows, at=held.position)
        chunks = self._keys.chunks(manifest.snapshot, manifest.chunks)
        answer = await self._script(
            keys=[self._keys.manifest, self._keys.log, self._keys.blobs, *chunks],
            args=[
                str(manifest.position),
                manifest.encode(self._writing.version),
                UNPUBLISHED_SECONDS,
                self._keys.chunk_prefix,
                len(old),
                *old,
            ],
        )
        if text(answer) != "yes":
            log.info("table %s: the snapshot at %s was not taken: %s", self._keys.table, held.position, text(answer))
            return
        self.taken += 1
        self._log_bytes = max(0, self._log_bytes - weight)
        self._untrimmed_bytes = weight
        self._snapshot_bytes = manifest.size_bytes
        log.info(
            "table %s: snapshot at %s, %d rows, %d bytes",
            self._keys.table,
            held.position,
            rows.num_rows,
            manifest.size_bytes,
        )

    async def discard(self, dropped_at: Position) -> None:
        """Take back the snapshot of a dropped table, and trim its log to the last record, if that is still there."""
        keys = [self._keys.manifest, self._keys.log, *await self._old_chunks()]
        await self._discard(keys=keys, args=[str(dropped_at), UNPUBLISHED_SECONDS])

    async def write(self, held: Held, rows: pa.Table, at: Position) -> Manifest:
        """Write the chunks, and return the manifest to publish them with."""
        assert held.spec is not None
        data, value = await asyncio.to_thread(lambda: (encode_snapshot(rows), digest(rows)))
        name, chunks = await write_chunks(self._redis, self._keys, str(at), data)
        return Manifest(at, held.spec, name, chunks, len(data), rows.num_rows, value, tuple(held.window.entries()))

    async def _old_chunks(self) -> list[str]:
        body = await self._redis.hget(self._keys.manifest, "body")
        if not body:
            return []
        try:
            old = Manifest.decode(as_bytes(body))
        except BadRecord:
            return []  # its chunks stay for ever; nobody knows their names
        return self._keys.chunks(old.snapshot, old.chunks)

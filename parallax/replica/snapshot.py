"""Reading a snapshot: what a replica starts from when the log alone does not lead to the top."""

import pyarrow as pa
from redis.asyncio import Redis

from parallax.errors import ChunksGone, SnapshotUnusable
from parallax.replica.chunks import read_chunks
from parallax.replica.digest import digest
from parallax.replication.keys import TableKeys
from parallax.replication.snapshot import Manifest


async def read_snapshot(redis: "Redis", keys: TableKeys, manifest: Manifest) -> pa.Table:
    """Fetch the chunks that `manifest` names and return the table they hold.

    Raises:
        SnapshotUnusable: a chunk is gone, or the table is not the one that the manifest describes.
    """
    try:
        data = await read_chunks(redis, keys.chunks(manifest.snapshot, manifest.chunks))
    except ChunksGone as error:
        raise SnapshotUnusable(f"table {keys.table!r}: the snapshot at {manifest.position}: {error}") from error
    return decode_snapshot(keys.table, manifest, data)


def decode_snapshot(table: str, manifest: Manifest, data: bytes) -> pa.Table:
    """Read the joined chunks, and check them against the manifest's digest.

    Raises:
        SnapshotUnusable: they are not what the manifest describes.
    """
    try:
        rows = pa.ipc.open_stream(data).read_all()
    except (pa.ArrowException, OSError) as error:
        raise SnapshotUnusable(f"table {table!r}: the snapshot at {manifest.position} is unreadable: {error}") from error
    if digest(rows) != manifest.digest:
        raise SnapshotUnusable(f"table {table!r}: the snapshot at {manifest.position} does not match its digest")
    return rows


def encode_snapshot(rows: pa.Table) -> bytes:
    """Return a table as compressed Arrow IPC."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        writer.write_table(rows)
    return bytes(sink.getvalue())

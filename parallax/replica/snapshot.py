"""Reading a snapshot: what a replica starts from when the log alone does not lead to the top."""

import pyarrow as pa
from redis.asyncio import Redis

from parallax.errors import SnapshotUnusable
from parallax.replica.digest import digest
from parallax.replication.keys import TableKeys
from parallax.replication.snapshot import Manifest
from parallax.store import as_bytes

CHUNK_BYTES = 1 << 20


async def read_snapshot(redis: "Redis", keys: TableKeys, manifest: Manifest) -> pa.Table:
    """Fetch the chunks that `manifest` names and return the table they hold.

    Raises:
        SnapshotUnusable: a chunk is gone, or the table is not the one that the manifest describes.
    """
    data = bytearray()
    for number in range(manifest.chunks):
        chunk = await redis.get(keys.chunk(manifest.snapshot, number))
        if chunk is None:
            raise SnapshotUnusable(
                f"table {keys.table!r}: chunk {number} of the snapshot at {manifest.position} is gone; "
                "a newer snapshot may have replaced it"
            )
        data += as_bytes(chunk)
    return decode_snapshot(keys.table, manifest, bytes(data))


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


def encode_snapshot(rows: pa.Table) -> list[bytes]:
    """Return a table as Arrow IPC, cut into chunks of at most CHUNK_BYTES."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        writer.write_table(rows)
    data = memoryview(sink.getvalue())
    return [bytes(data[start : start + CHUNK_BYTES]) for start in range(0, len(data), CHUNK_BYTES)]

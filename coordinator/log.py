"""The one way into a table's log: `append.lua`, and what stands beside the log."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from redis.asyncio import Redis

from coordinator.writing import Writing
from parallax.errors import Forked
from parallax.replica.chunks import write_chunks
from parallax.replication.keys import TableKeys
from parallax.replication.position import ORIGIN, Position
from parallax.replication.record import FIELD, Blob, Record
from parallax.replication.snapshot import Manifest
from parallax.store import is_cluster, load_script, text

LAST_ID = f"{2**64 - 1}-{2**64 - 1}"


@dataclass(frozen=True, slots=True)
class Answer:
    """What `append.lua` said. If it did not append, it changed nothing."""

    is_appended: bool
    top: Position  # the log's true top, after the call
    is_snapshot_wanted: bool = False
    used_percent: int = 0  # of Redis's memory, if nearly all of it; known with each heartbeat


class Log:
    """Append to one table's log."""

    def __init__(
        self,
        redis: "Redis",
        keys: TableKeys,
        owner: str,
        writing: Writing,
        *,
        inline_max: int,
        rejected_max: int,
        rejected_bytes: int,
    ) -> None:
        self.keys = keys
        self._redis = redis
        self._owner = owner
        self._writing = writing
        self._inline_max = inline_max
        self._rejected_caps = (rejected_max, rejected_bytes)
        self.is_verify_asked = False
        """Somebody asked for a verify since this was last set to False. The asking was taken out of Redis by an append."""
        self._beats = 0
        self._publish = "SPUBLISH" if is_cluster(redis) else "PUBLISH"
        self._append_script = load_script(redis, "coordinator", "append.lua")
        self._page_script = load_script(redis, "parallax.replica", "page.lua")

    async def top(self) -> Position:
        """Return the log's true top; ORIGIN if there is no log."""
        top, _ = await self._page_script(keys=[self.keys.log], args=[LAST_ID, 0])
        return Position.parse(top) if top else ORIGIN

    async def newest(self) -> Record | None:
        """Return the newest record that the log still has."""
        entries: Any = await self._redis.xrevrange(self.keys.log, count=1)
        return Record.decode(entries[0][1][FIELD]) if entries else None

    async def append(
        self,
        expected: Position,
        records: Sequence[Record] = (),
        *,
        carried: Sequence[bytes] = (),
        refused: Sequence[tuple[bytes, str]] = (),
        manifest: Manifest | None = None,
    ) -> Answer:
        """Call `append.lua` once; whatever happens to its answer, the call is not repeated.

        Without records and refusals it is the heartbeat.

        Raises:
            Forked: a chunk that was just written is gone: Redis lost what it had.
            one of STORE_ERRORS: it may have been done, or not.
        """
        records = [await self._outsource(record) for record in records]
        if not records and not carried and not refused:
            self._beats += 1
        keys = self.keys
        arguments: list[Any] = [str(expected), self._publish, f"{self._owner}:{self._beats}", *self._rejected_caps]
        arguments.append(len(records))
        for record in records:
            arguments += (str(record.position), record.encode(self._writing.version))
        arguments += (len(carried), *carried, len(refused))
        for entry_id, reason in refused:
            arguments += (entry_id, reason)
        blobs = [(str(record.position), record.blob) for record in records if record.blob is not None]
        arguments.append(len(blobs))
        for position, blob in blobs:
            arguments += (position, f"{blob.name} {blob.chunks}", blob.chunks, *keys.chunks(blob.name, blob.chunks))
        if manifest is None:
            arguments += ("", "")
        else:
            chunks = keys.chunks(manifest.snapshot, manifest.chunks)
            arguments += (str(manifest.position), manifest.encode(self._writing.version), len(chunks), *chunks)
        names = [
            keys.log,
            keys.ingest,
            keys.rejected,
            keys.manifest,
            keys.want,
            keys.verify,
            keys.blobs,
            keys.trying,
            keys.feed,
        ]
        said, top, wanted, verify, held, *pressure = await self._append_script(keys=names, args=arguments)
        if text(said) == "chunk":
            raise Forked(f"table {keys.table!r}: a chunk that was just written is gone")
        is_wanted = bool(wanted) or text(held) != "held"
        self.is_verify_asked |= bool(verify)
        return Answer(text(said) == "yes", Position.parse(top), is_wanted, *map(int, pressure))

    async def _outsource(self, record: Record) -> Record:
        """Store a payload that is too large for pub/sub beside the log."""
        if len(record.payload) <= self._inline_max:
            return record
        name, chunks = await write_chunks(self._redis, self.keys, str(record.position), record.payload)
        return replace(record, payload=b"", blob=Blob(name, chunks, len(record.payload)))

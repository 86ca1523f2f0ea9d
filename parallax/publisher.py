"""Publishing from Python: `Publisher` for ordinary programs, `AsyncPublisher` for asyncio."""

import asyncio
import itertools
import socket
import threading
import time
import uuid
from collections.abc import Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

import pyarrow as pa

from parallax import tables
from parallax.errors import PublishError
from parallax.publisher_data import Batching, NoPayload, Payload, payloads, takes_its_time
from parallax.publisher_lane import Counts, Lane, LaneOptions
from parallax.publisher_spec import as_arrow, index_of, infer_spec
from parallax.replication.keys import TableKeys
from parallax.replication.record import Op
from parallax.replication.spec import TableSpec
from parallax.settings import load_where
from parallax.store import STORE_ERRORS, connect, follow_primary, load_script, text
from parallax.tasks import Tasks

T = TypeVar("T")
NUMBERED = Batching(rows=2**31 - 1, bytes=32 << 20)
"""A numbered write must be the same entry when it is repeated, so it is not cut."""
CONFIRM_PAUSE_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Refusal:
    """An entry that the coordinator refused. It is kept, with all its data, in the table's `rejected` stream."""

    table: str
    seq: int
    reason: str


class AsyncPublisher:
    """Publishes to Parallax tables from asyncio.

        async with AsyncPublisher("redis://...") as publisher:
            await publisher.update("flights", [{"id": "UA1", "dep_delay": 3.0}])

    What it takes goes out in order, in the background; `flush` waits until Redis has it, `confirm` until it is in the table.
    It is sent again until Redis has it, which cannot double it. If nothing goes out for `timeout_seconds`, because Redis is away
    or full, or because more than `max_backlog` entries wait for the coordinator, then `update` and `flush` raise PublishError;
    what was taken stays, in order, and is still tried.
    """

    def __init__(
        self,
        redis_url: str | None = None,
        prefix: str | None = None,
        *,
        producer: str | None = None,
        batch_ms: float = 0.0,
        batch_rows: int = 10_000,
        max_backlog: int = 100_000,
        max_buffer_bytes: int = 64 << 20,
        timeout_seconds: float = 30.0,
    ) -> None:
        """Prepare; nothing is sent yet.

        `redis_url` and `prefix` default to PARALLAX_REDIS_URL and PARALLAX_PREFIX. With `batch_ms`, updates of neighbouring
        calls gather for so long and share entries of up to `batch_rows` rows; an entry is refused whole. `producer` is the
        name of a source that counts its own writes: each call then needs a `seq` above the last, and a call that is repeated
        after a crash, with its old number, changes nothing.

        Raises:
            ConfigurationError: the URL is none.
        """
        settings = load_where()
        self._url, self._prefix = settings.redis(redis_url), prefix or settings.prefix
        self._is_durable = producer is not None
        self.producer = producer or f"{socket.gethostname()[:60]}-{uuid.uuid4().hex[:16]}"
        self._options = LaneOptions(
            self._url, self.producer, batch_ms / 1000, batch_rows, max_backlog, max_buffer_bytes, timeout_seconds
        )
        self.batching = NUMBERED if producer is not None else Batching(batch_rows)
        self._redis = connect(self._url)
        self._refusals = load_script(self._redis, "parallax", "refusals.lua")
        self._lanes: dict[str, Lane] = {}
        self._specs: dict[str, TableSpec] = {}
        self._tasks = Tasks()
        self._numbers = itertools.count(1)
        self._is_closed = False

    @property
    def counts(self) -> dict[str, Counts]:
        """What was done so far, by table."""
        return {table: lane.counts for table, lane in self._lanes.items()}

    async def update(self, table: str, data: object, *, seq: int | None = None) -> None:
        """Add rows, or change those whose index is there: a column that is left out keeps its value, a null overwrites it.

        For what `data` may be see `parallax.publisher_data.payloads`.

        Raises:
            PublishError: no such table, or no room because nothing goes out.
            TypeError: data of another kind.
        """
        await self._publish(table, Op.UPDATE, data, seq)

    async def remove(self, table: str, keys: object, *, seq: int | None = None) -> None:
        """Remove rows by their index: a list of keys, an Arrow array of them, or data with the index column only.

        Raises:
            PublishError: as `update`, or the table has no index.
        """
        spec = await self._spec(table)
        if isinstance(keys, pa.Array | pa.ChunkedArray):
            keys = pa.table({index_of(spec, table): keys})
        elif isinstance(keys, list | tuple | set | frozenset) and not any(isinstance(key, dict) for key in keys):
            keys = {index_of(spec, table): list(keys)}
        await self._publish(table, Op.REMOVE, keys, seq)

    async def replace(self, table: str, data: object, *, seq: int | None = None) -> None:
        """Put other rows in place of all. Up to 32 MiB viewers see it at once; beyond, as a replace and then updates.

        Raises:
            PublishError, TypeError: as `update`.
        """
        await self._publish(table, Op.REPLACE, data, seq)

    async def clear(self, table: str, *, seq: int | None = None) -> None:
        """Remove all rows.

        Raises:
            PublishError: as `update`.
        """
        lane = await self._ready(table, seq)
        lane.add(Op.CLEAR, NoPayload(), seq)

    async def host(
        self,
        data: object,
        *,
        name: str,
        index: str | None = None,
        limit: int | None = None,
        max_rows: int | None = None,
        writes: str | None = None,
    ) -> TableSpec:
        """Create a table that fits the data, and fill it; a table that is there with the same spec gets new contents.

        Returns once the rows are in the table, with its spec. Rows and columns of plain values become Arrow first.

        Raises:
            ConfigurationError: no table can hold such data; with one line for each problem.
            TableRequestRefused: a table of that name is there with another spec, or no coordinator answers.
            PublishError: as `update`; or rows were refused.
        """
        content = as_arrow(data)
        if not hasattr(content, "__arrow_c_stream__"):
            content = pa.table(pa.record_batch(content))
        reader = pa.RecordBatchReader.from_stream(content)
        spec = infer_spec(name, reader.schema, index=index, limit=limit, max_rows=max_rows, writes=writes)
        await tables.request(self._redis, self._prefix, "create", name, spec)
        self._specs[name] = spec
        await self._publish(name, Op.REPLACE, reader, None)
        refused = [refusal for refusal in await self.confirm() if refusal.table == name]
        if refused:
            raise PublishError(f"table {name!r}: {len(refused)} entries were refused; the first: {refused[0].reason}")
        return spec

    async def flush(self) -> None:
        """Wait until Redis has everything that was taken.

        Raises:
            PublishError: nothing went out for `timeout_seconds`. Nothing is dropped: it is still tried.
        """
        for lane in list(self._lanes.values()):
            await lane.empty()

    async def confirm(self, seconds: float = 60.0) -> list[Refusal]:
        """Wait until the coordinator has taken everything into the tables, and return what it refused.

        Raises:
            PublishError: as `flush`; or the coordinator did not get to it within `seconds`.
        """
        await self.flush()
        deadline = time.monotonic() + seconds
        found = []
        for lane in self._lanes.values():
            while lane.last_id is not None:
                problem = "is a coordinator running? See `parallax status`"
                try:
                    if not await self._redis.xrange(lane.keys.ingest, lane.last_id, lane.last_id):
                        found += await self._refused(lane)
                        break
                except STORE_ERRORS as error:
                    problem = str(error)
                if time.monotonic() > deadline:
                    raise PublishError(f"table {lane.keys.table!r}: not taken within {seconds:g} s: {problem}")
                await asyncio.sleep(CONFIRM_PAUSE_SECONDS)
        return found

    async def _refused(self, lane: Lane) -> list[Refusal]:
        """Return what was refused since it was asked last."""
        last, answers = await self._refusals(keys=[lane.keys.rejected], args=[self.producer, lane.refusals_from])
        lane.refusals_from = f"({text(last)}" if last else lane.refusals_from
        lane.counts.refused += len(answers)
        return [Refusal(lane.keys.table, int(seq), text(reason)) for seq, reason in answers]

    async def close(self) -> None:
        """Flush, and let go of Redis.

        Raises:
            PublishError: as `flush`; what waits is dropped then.
        """
        if self._is_closed:
            return
        self._is_closed = True
        try:
            await self.flush()
        finally:
            await self._tasks.close()
            await self._redis.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _publish(self, table: str, op: Op, data: object, seq: int | None) -> None:
        pieces = payloads(op, data, self.batching)
        if seq is not None or self._is_durable:
            await self._publish_whole(table, list(pieces), seq)
        elif takes_its_time(data):
            while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
                await self.put(table, *piece)
        else:
            for piece in pieces:
                await self.put(table, *piece)

    async def _publish_whole(self, table: str, pieces: list[tuple[Op, Payload]], seq: int | None) -> None:
        lane = await self._ready(table, seq)
        if len(pieces) > 1:
            raise PublishError(f"table {table!r}: a numbered write must fit into one entry; this takes {len(pieces)}")
        for op, payload in pieces:
            lane.add(op, payload, seq)

    async def put(self, table: str, op: Op, payload: Payload) -> None:
        """Publish one entry that is already made."""
        lane = await self._ready(table, None)
        lane.add(op, payload)

    async def _ready(self, table: str, seq: int | None) -> Lane:
        """Return the table's lane once it has room."""
        if self._is_closed:
            raise PublishError("the publisher is closed")
        if (seq is None) == self._is_durable:
            raise ValueError("give a seq with each write if, and only if, the publisher has a producer's name")
        lane = self._lanes.get(table)
        if lane is None:
            await self._spec(table)
            lane = self._lanes.get(table)  # somebody else may have waited, too
        if lane is None:
            lane = self._lanes[table] = Lane(self._redis, TableKeys(self._prefix, table), self._options, self._numbers)
            self._tasks.start(lane.run(), name=f"publish {table}")
            if len(self._lanes) == 1:
                self._tasks.start(follow_primary(self._redis), name="primary")
        await lane.room()
        return lane

    def free_lane(self, table: str) -> Lane | None:
        """Return a lane that takes more without waiting, if there is one; may be called from any thread."""
        lane = None if self._is_closed or self._is_durable else self._lanes.get(table)
        return lane if lane is not None and lane.is_free else None

    async def _spec(self, table: str) -> TableSpec | None:
        """Return a table's spec; None as long as nobody declared any table, or Redis is away.

        Raises:
            PublishError: there are tables, but not this one.
        """
        if table not in self._specs:
            try:
                self._specs = await tables.catalog(self._redis, self._prefix)
            except STORE_ERRORS:
                return None
            if self._specs and table not in self._specs:
                raise PublishError(f"there is no table {table!r}; there are {', '.join(self._specs)}")
        return self._specs.get(table)


class Publisher:
    """Publishes to Parallax tables, from any thread.

        with Publisher("redis://...") as publisher:
            publisher.update("flights", [{"id": "UA1", "dep_delay": 3.0}])

    The arguments, methods and errors are those of AsyncPublisher, which runs in a thread of its own.
    """

    def __init__(self, redis_url: str | None = None, prefix: str | None = None, **options: Any) -> None:
        """Prepare, and start the thread; nothing is sent yet. For `options` see AsyncPublisher."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._work, name="parallax-publisher", daemon=True)
        self._thread.start()
        try:
            self._publisher = self._run(_make(redis_url, prefix, options))
        except BaseException:
            self._stop()
            raise

    @property
    def producer(self) -> str:
        """The name under which entries are numbered."""
        return self._publisher.producer

    @property
    def counts(self) -> dict[str, Counts]:
        """What was done so far, by table."""
        return self._publisher.counts

    def update(self, table: str, data: object, *, seq: int | None = None) -> None:
        """Add or change rows."""
        if seq is None and isinstance(data, list | dict) and (lane := self._publisher.free_lane(table)):
            for op, payload in payloads(
                Op.UPDATE, data, self._publisher.batching
            ):  # at ten times the speed of a visit there
                lane.add(op, payload)
            return
        self._run(self._publisher.update(table, data, seq=seq))

    def remove(self, table: str, keys: object, *, seq: int | None = None) -> None:
        """Remove rows by their index."""
        self._run(self._publisher.remove(table, keys, seq=seq))

    def replace(self, table: str, data: object, *, seq: int | None = None) -> None:
        """Put other rows in place of all."""
        self._run(self._publisher.replace(table, data, seq=seq))

    def clear(self, table: str, *, seq: int | None = None) -> None:
        """Remove all rows."""
        self._run(self._publisher.clear(table, seq=seq))

    def host(
        self,
        data: object,
        *,
        name: str,
        index: str | None = None,
        limit: int | None = None,
        max_rows: int | None = None,
        writes: str | None = None,
    ) -> TableSpec:
        """Create a table that fits the data, and fill it."""
        return self._run(self._publisher.host(data, name=name, index=index, limit=limit, max_rows=max_rows, writes=writes))

    def flush(self) -> None:
        """Wait until Redis has everything."""
        self._run(self._publisher.flush())

    def confirm(self, seconds: float = 60.0) -> list[Refusal]:
        """Wait until the coordinator has taken everything, and return what it refused."""
        return self._run(self._publisher.confirm(seconds))

    def close(self) -> None:
        """Flush, and end the thread."""
        if self._thread.is_alive():
            try:
                self._run(self._publisher.close())
            finally:
                self._stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        if self._loop.is_closed():
            coroutine.close()
            raise PublishError("the publisher is closed")
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _work(self) -> None:
        self._loop.run_forever()
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


async def _make(redis_url: str | None, prefix: str | None, options: dict[str, Any]) -> AsyncPublisher:
    return AsyncPublisher(redis_url, prefix, **options)

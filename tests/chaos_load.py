"""What runs through a fleet while it is tried: publishers that repeat until Redis took it, and a witness of every log."""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from parallax import AsyncPublisher
from parallax.errors import PublishError
from parallax.replication.keys import TableKeys
from parallax.replication.position import ORIGIN, Position
from parallax.replication.record import FIELD, Record
from parallax.replication.spec import TableSpec
from parallax.store import STORE_ERRORS, connect
from tests.cluster import PREFIX
from tests.operations import Mix, Operation, Operations
from tests.oracle import Oracle

TRADES = TableSpec(
    "trades",
    (("id", "string"), ("b", "boolean"), ("s", "string"), ("x", "integer"), ("small", "uint8"), ("at", "datetime")),
    index="id",
)
RECENT = TableSpec("recent", (("n", "int64"), ("s", "string"), ("b", "boolean"), ("x", "integer")), limit=150)
NUMBERS = TableSpec("numbers", (("p", "string"), ("n", "int64"), ("g", "integer")), max_rows=10_000_000)
"""Each producer's own numbers, from 1 on, one row each: a row that is lost or doubled can be told."""
TABLES = (TRADES, RECENT, NUMBERS)

MIX = Mix(replace=1, clear=0.6, steady=0.7, largest_batch=15)
GARBAGE = Operation("update", (), "json", b'[{"nonsense": 1}]')
PAUSE_SECONDS = (0.0, 0.01, 0.05, 0.2)
ANSWER_SECONDS = 1.0
LOSS_SECONDS = (1.0, 0.1)
"""How long before its death, and how long after it as far as we could see, a primary accepted what its replicas never got."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """An entry of which Redis said that it has it: its id there, and when that was said."""

    entry_id: bytes
    seq: int
    operation: Operation
    at: float


class Writer:
    """Writes one table's operations in order under `producer` and `seq`; repeats each lot until Redis said that it has it."""

    def __init__(self, url: str, table: str, producer: str, source: Iterator[Operation], rng: random.Random) -> None:
        self.table, self.producer = table, producer
        self.accepted: list[Accepted] = []
        """In order."""
        self.attempts: Counter[int] = Counter()
        """How often each seq was sent."""
        self._redis = connect(url, timeout_seconds=ANSWER_SECONDS)
        self._source, self._rng = source, rng

    async def run(self, is_over: asyncio.Event) -> None:
        """Write until told that it is over, and everything is taken."""
        seq = 0
        try:
            while not is_over.is_set():
                lot = [(seq + number, next(self._source)) for number in range(1, self._rng.choice((1, 1, 2, 5, 20)) + 1)]
                seq += len(lot)
                entry_ids, now = await self._send(lot), time.monotonic()
                self.accepted += [Accepted(entry_id, *one, now) for entry_id, one in zip(entry_ids, lot, strict=True)]
                await asyncio.sleep(self._rng.choice(PAUSE_SECONDS))
        finally:
            await self._redis.aclose()

    async def _send(self, lot: list[tuple[int, Operation]]) -> list[bytes]:
        while True:
            self.attempts.update(number for number, _ in lot)
            try:
                async with self._redis.pipeline(transaction=True) as pipe:
                    for seq, operation in lot:
                        fields = operation.fields() | {"producer": self.producer, "seq": str(seq)}
                        pipe.xadd(TableKeys(PREFIX, self.table).ingest, fields)  # type: ignore[arg-type]
                    found: list[bytes] = await pipe.execute()
                    return found
            except STORE_ERRORS:
                await asyncio.sleep(0.05)


def numbers(producer: str, rng: random.Random) -> Iterator[Operation]:
    """One row after the other, and now and then what no table takes."""
    count = 0
    while True:
        if rng.random() < 0.03:
            yield GARBAGE
            continue
        count += 1
        row = {"p": producer, "n": count, "g": count % 7}
        yield Operation("update", (row,), "json", json.dumps([row]).encode())


class Load:
    """Everybody who writes during a run, and what must come of it."""

    def __init__(self, seed: int, url: str) -> None:
        self.url = url
        self.is_over = asyncio.Event()
        self.published = 0
        """How many numbers the real Publisher was given."""

        def writer(table: TableSpec, producer: str, source: Iterator[Operation]) -> Writer:
            return Writer(url, table.name, producer, source, random.Random(f"{seed} {producer}"))

        self.writers = [
            writer(TRADES, "of trades", Operations(TRADES, seed, MIX)),
            writer(RECENT, "of recent", Operations(RECENT, seed, MIX)),
            writer(NUMBERS, "a", numbers("a", random.Random(f"{seed} numbers a"))),
            writer(NUMBERS, "b", numbers("b", random.Random(f"{seed} numbers b"))),
        ]

    async def run(self) -> None:
        """Write until `is_over`, then until all of it was taken."""
        async with asyncio.TaskGroup() as group:
            for writer in self.writers:
                group.create_task(writer.run(self.is_over))
            group.create_task(self._publish())

    async def _publish(self) -> None:
        """Write as programs do."""
        async with AsyncPublisher(self.url, PREFIX, batch_ms=5, timeout_seconds=60) as publisher:
            while not self.is_over.is_set():
                await self._patiently(lambda: publisher.update("numbers", [self._next_number()]))
                await asyncio.sleep(0.01)
            await self._patiently(publisher.flush)

    def _next_number(self) -> dict[str, Any]:
        self.published += 1
        return {"p": "c", "n": self.published, "g": self.published % 7}

    async def _patiently(self, do: Callable[[], Any]) -> None:
        while True:
            before = self.published
            try:
                return await do()
            except PublishError:
                self.published = before  # it took nothing

    def expected(self, spec: TableSpec, lost: range = range(0)) -> Oracle:
        """Return what a table with a writer of its own must hold; `lost`: which entries, in the order of their acceptance, do not count."""
        oracle = Oracle(spec)
        (writer,) = (writer for writer in self.writers if writer.table == spec.name)
        for number, accepted in enumerate(writer.accepted):
            if number not in lost:
                oracle.apply(accepted.operation.op, accepted.operation.rows)
        return oracle

    def counts(self) -> dict[str, int]:
        """Return how many numbers of each producer there must be."""
        counted = {
            writer.producer: sum(accepted.operation is not GARBAGE for accepted in writer.accepted)
            for writer in self.writers
            if writer.table == NUMBERS.name
        }
        return counted | {"c": self.published}

    def losses(self, spec: TableSpec, died_at: float) -> Iterator[range]:
        """Give which entries a Redis that died then may have taken with it: the last that it had accepted, none of them first."""
        (writer,) = (writer for writer in self.writers if writer.table == spec.name)
        end = sum(accepted.at < died_at + LOSS_SECONDS[1] for accepted in writer.accepted)
        for begin in range(end, -1, -1):
            yield range(begin, end)
            if begin and writer.accepted[begin - 1].at < died_at - LOSS_SECONDS[0]:
                return


class Witness:
    """Reads a table's log all the while. In one history each offset has one record, and each position one content."""

    def __init__(self, url: str, table: str) -> None:
        self.table = table
        self.problems: list[str] = []
        self.records = 0
        self._redis = connect(url, timeout_seconds=ANSWER_SECONDS)
        self._keys = TableKeys(PREFIX, table)
        self._seen: dict[int, tuple[Position, int]] = {}  # offset -> its position and what its bytes hash to
        self._producers: dict[str, int] = {}

    async def run(self) -> None:
        """Read until cancelled."""
        last = "0-0"
        try:
            while True:
                try:
                    found: Any = await self._redis.xread({self._keys.log: last}, count=200, block=500)
                except STORE_ERRORS:
                    await asyncio.sleep(0.05)
                    continue
                for _, entries in found or ():
                    for entry_id, fields in entries:
                        last = entry_id.decode()
                        self._look(last, fields[FIELD])
        finally:
            await self._redis.aclose()

    async def look_back(self) -> None:
        """Compare what the log still has with what it had."""
        for entry_id, fields in await self._redis.xrange(self._keys.log):
            position, content = self._seen.get(Position.parse(entry_id.decode()).offset, (ORIGIN, 0))
            if (str(position), content) != (entry_id.decode(), hash(fields[FIELD])):
                self.problems.append(f"{self.table}: {entry_id.decode()} was {position} before, or held something else")

    def _look(self, entry_id: str, data: bytes) -> None:
        record = Record.decode(data)
        self.records += 1
        position = record.position
        if str(position) != entry_id:
            self.problems.append(f"{self.table}: {position} stands under {entry_id}")
        if position.offset in self._seen:
            self.problems.append(
                f"{self.table}: offset {position.offset} is {self._seen[position.offset][0]} and {position}"
            )
        self._seen[position.offset] = (position, hash(data))
        for producer, seq in record.producers.items():
            if seq <= self._producers.get(producer, -1):
                self.problems.append(f"{self.table}: {position} holds {producer}'s {seq} after {self._producers[producer]}")
            self._producers[producer] = seq

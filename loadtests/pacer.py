"""The open-loop publisher, `python -m loadtests.pacer`: sends each update at its instant, whatever became of those before.

It never waits for the system: a writer takes what is due from a queue, so that a slow Redis makes it late, not slower. How late it
was itself is in what it reports: one JSON object, its last line.
"""

import argparse
import asyncio
import contextlib
import gc
import json
import sys
import time
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from loadtests import schedule
from loadtests.accounting import Books
from loadtests.schedule import TABLE, Schedule, encode
from parallax.replication.keys import TableKeys
from parallax.settings import load_where
from parallax.store import connect

SPIN = 0.001
"""Seconds before an instant that are not slept."""
PREPARED = 200
"""Updates that are encoded ahead of time."""


class Pacer:
    """Publishes one schedule."""

    def __init__(self, plan: Schedule, redis: "Redis", prefix: str, lose: int) -> None:
        self._plan, self._redis, self._lose = plan, redis, lose
        self._key = TableKeys(prefix, TABLE).ingest
        self._waiting: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue()
        self.books = Books()

    async def run(self) -> None:
        """Publish all of it; the table was filled before."""
        async with asyncio.TaskGroup() as group:
            writer = group.create_task(self._write())
            ready = {seq: encode(self._plan.update(seq)) for seq in range(1, min(PREPARED, self._plan.count) + 1)}
            gc.freeze()
            for seq in range(1, self._plan.count + 1):
                data = ready.pop(seq, None) or encode(self._plan.update(seq))
                await asyncio.sleep(self._plan.due_us(seq) / 1e6 - time.time() - SPIN)
                while time.time_ns() // 1000 < self._plan.due_us(seq):  # noqa: ASYNC110 - nothing tells the time
                    await asyncio.sleep(0)
                self._note("lateness", seq)
                if seq == self._lose:
                    self.books.counts["lost on purpose"] += 1
                    continue
                self._waiting.put_nowait((seq, data))
            await self._waiting.join()
            writer.cancel()

    async def fill(self) -> None:
        """Give the table its first rows, and no others."""
        await self._redis.xadd(self._key, {"op": "replace", "format": "arrow", "data": encode(self._plan.update(0))})

    async def _write(self) -> None:
        while True:
            batch = [await self._waiting.get()]
            while not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            async with self._redis.pipeline(transaction=False) as pipe:
                for _, data in batch:
                    pipe.xadd(self._key, {"op": "update", "format": "arrow", "data": data})
                await pipe.execute()
            for seq, _ in batch:
                self._note("published", seq)
                self._waiting.task_done()

    def _note(self, name: str, seq: int) -> None:
        self.books.record(name, time.time_ns() // 1000 - self._plan.due_us(seq))
        self.books.counts[name] += 1


def announced(path: Path) -> Schedule:
    """Wait until Locust's master has written when it all starts."""
    while not path.exists():
        time.sleep(0.05)
    return Schedule(**json.loads(path.read_text()))


async def main(options: argparse.Namespace, plan: Schedule) -> dict[str, Any]:
    """Publish, and return the books."""
    redis = connect(options.redis or load_where().redis(), timeout_seconds=30)
    pacer = Pacer(plan, redis, options.prefix, options.lose)
    try:
        await (pacer.fill() if options.fill else pacer.run())
    finally:
        with contextlib.suppress(OSError):
            await redis.aclose()
    return pacer.books.to_json()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    schedule.add_options(parser)
    parser.add_argument("--redis", help="its URL; default: PARALLAX_REDIS_URL and its companions")
    parser.add_argument("--prefix", default="parallax", help="of all keys")
    parser.add_argument("--announced", type=Path, help="wait for this file, which `--announce` has Locust write")
    parser.add_argument("--fill", action="store_true", help="publish the table's first rows, and no more")
    parser.add_argument("--lose", type=int, default=0, help="an update that is not published, to see it missed")
    options = parser.parse_args()
    try:
        plan = announced(options.announced) if options.announced else schedule.of_options(options)
    except ValueError as error:
        parser.error(str(error))
    found = asyncio.run(main(options, plan))
    json.dump(found, sys.stdout)
    print()

"""The open-loop publisher, `python -m loadtests.ticker`: a process of its own that never waits for those whom it publishes to.

All entries are made and their instants fixed beforehand; each is sent at its instant, whatever became of the ones before. A row's
price is the instant at which it was due, in ms. It says when it is at work, and how late it was when it ends.
"""

import asyncio
import os
import pickle
import sys
import time
from dataclasses import dataclass

import uvloop
from redis.asyncio import Redis

from loadtests import market
from loadtests.meter import Meter, percentile
from loadtests.viewers import say
from parallax.tasks import Tasks

PER_TICK_SECONDS, PER_ROW_SECONDS = 2e-4, 4e-6
"""What making an entry takes at most."""


@dataclass(frozen=True, slots=True)
class Ticks:
    """What is published: `rows` rows in each of `rate` entries a second, for some seconds."""

    url: str
    key: str
    """The ingest stream."""
    table: str
    rate: float
    seconds: float
    rows: int = market.TICK_ROWS


async def publish(ticks: Ticks) -> None:
    """Publish all of it, or as much as goes until the input ends; then say how late it was."""
    redis = Redis.from_url(ticks.url)
    await redis.ping()
    lead = 0.2 + ticks.rate * ticks.seconds * (PER_TICK_SECONDS + ticks.rows * PER_ROW_SECONDS)
    due = market.ticks(ticks.table, ticks.rate, ticks.seconds, time.time() + lead, ticks.rows)
    say({"ticks": len(due), "bytes": len(due[0][1]), "start": due[0][0]})
    told = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, told.set)
    late: list[float] = []
    meter = Meter(os.getpid())
    began = time.time()
    async with Tasks() as tasks:
        for instant, data in due:
            await asyncio.sleep(max(0.0, instant - time.time()))
            if told.is_set():
                break
            late.append((time.time() - instant) * 1000)
            tasks.start(redis.xadd(ticks.key, {"op": "update", "format": "arrow", "data": data}), name="tick")
        await told.wait()
    cores = meter.cpu_seconds() / (time.time() - began)
    say({"sent": len(late), "late_p99_ms": percentile(late, 0.99), "late_worst_ms": max(late, default=0.0), "cores": cores})
    await redis.aclose()


def main() -> None:
    """Read pickled ticks, in hex on one line, and publish them."""
    ticks: Ticks = pickle.loads(bytes.fromhex(sys.stdin.readline()))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(publish(ticks))


if __name__ == "__main__":
    main()

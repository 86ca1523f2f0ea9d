"""Where an update is on its way: each stage takes what it takes, and all of them together the whole way."""

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from parallax.clock import DRIFT_SECONDS, RedisClock
from parallax.replica.engine import Engine
from parallax.replica.feed import Inbox
from parallax.replica.pacing import Pacing
from parallax.replica.replica import Replica
from parallax.replica.stages import LONGEST_SECONDS, STAGES, Stages
from parallax.replication.keys import FleetKeys, TableKeys
from parallax.replication.position import Position
from parallax.replication.record import Op, Record
from parallax.replication.spec import TableSpec
from parallax.store import connect
from parallax.tasks import Tasks
from tests.cluster import Cluster
from tests.processes import PATIENCE, until

NUMBERS = TableSpec("numbers", (("k", "string"), ("n", "int64")), index="k")
FRAME_SECONDS = 0.2
STILL_SECONDS = 1.0
"""How long something is held up; longer than a frame and what a busy machine adds to it."""
SAMPLES = 25

Times = dict[str, tuple[float, float]]
"""By stage: how often it was observed, and how long that took together (s)."""


async def times(cluster: Cluster) -> Times:
    """Return what a node measured of the way of updates."""
    code, body = await cluster.fetch(cluster.url("node-1", "/metrics", internal=True))
    assert code == 200
    found: dict[str, list[float]] = {stage: [0.0, 0.0] for stage in STAGES}
    for family in text_string_to_metric_families(body.decode()):
        if family.name == "parallax_node_stage_seconds":
            for sample in family.samples:
                if sample.labels.get("table") == NUMBERS.name and sample.name.endswith(("_count", "_sum")):
                    found[sample.labels["stage"]][sample.name.endswith("_sum")] = sample.value
    return {stage: (count, total) for stage, (count, total) in found.items()}


async def clock_error(cluster: Cluster) -> float:
    """Return by how much the node may take Redis's clock wrong (s)."""
    _, body = await cluster.fetch(cluster.url("node-1", "/metrics", internal=True))
    (line,) = [line for line in body.decode().splitlines() if line.startswith("parallax_node_clock_error_seconds ")]
    return float(line.split()[1])


def since(before: Times, after: Times) -> dict[str, tuple[int, float]]:
    """Return how often each stage was observed meanwhile, and the mean (s)."""
    found = {}
    for stage in STAGES:
        count = int(after[stage][0] - before[stage][0])
        found[stage] = (count, (after[stage][1] - before[stage][1]) / max(1, count))
    return found


class Client:
    """Publishes one number at a time, and reads it back when it is told that something changed."""

    def __init__(self, cluster: Cluster, view: Any) -> None:
        self.cluster, self.view = cluster, view
        self.heard = asyncio.Event()
        self.number = 0

    async def send(self) -> float:
        """Publish the next number; return when."""
        self.number += 1
        self.heard.clear()
        sent = time.monotonic()
        await self.cluster.publish(NUMBERS.name, data=json.dumps({"k": "a", "n": self.number}))
        return sent

    async def told(self) -> None:
        """Wait for the notification."""
        async with asyncio.timeout(20 * PATIENCE):
            await self.heard.wait()

    async def seen(self) -> float:
        """Wait until the number can be read; return when."""
        await self.told()
        assert (await self.view.to_columns())["n"] == [self.number]
        return time.monotonic()


@asynccontextmanager
async def client_of(cluster: Cluster) -> AsyncIterator[Client]:
    """Open the table, with one row that the engine has polled."""
    async with cluster.viewer("node-1") as viewer:
        view = await (await viewer.open_table(NUMBERS.name)).view()
        client = Client(cluster, view)
        await view.on_update(lambda *_: client.heard.set())
        for _ in range(3):
            await client.send()
            await client.seen()
        yield client


async def settled(cluster: Cluster, before: Times, count: int) -> dict[str, tuple[int, float]]:
    """Wait until so many updates were observed in each stage, and return what they took."""

    async def all_there() -> dict[str, tuple[int, float]]:
        found = since(before, await times(cluster))
        assert {observed for observed, _ in found.values()} == {count}, found
        return found

    return await until(all_there, 10, "every stage was observed")


@pytest.mark.cluster
@pytest.mark.timeout(180 * PATIENCE)
async def test_the_stages_add_up_to_the_whole_way_and_a_delay_is_seen_where_it_is(
    make_cluster: Callable[..., Awaitable[Cluster]],
) -> None:
    settings = {"FRAME_MS": str(1000 * FRAME_SECONDS), "LEASE_TTL_SECONDS": "20"}
    cluster = await make_cluster([NUMBERS], nodes=1, coordinators=1, settings=settings)
    leader, node = cluster["coordinator-1"], cluster["node-1"]
    async with client_of(cluster) as client:
        # 1. Means of the stages against what a client measures from before the XADD until after its answer.
        rng, whole = random.Random(1), 0.0
        before = await times(cluster)
        for _ in range(SAMPLES):
            await asyncio.sleep(rng.uniform(0, FRAME_SECONDS))  # at any moment of a frame
            sent = await client.send()
            whole += await client.seen() - sent
        found = await settled(cluster, before, SAMPLES)
        together = sum(mean for _, mean in found.values())
        tolerance = 0.1 * whole / SAMPLES + await clock_error(cluster)
        assert together == pytest.approx(whole / SAMPLES, abs=tolerance), (found, whole / SAMPLES)

        # 2. What holds one stage up makes that one longer, and no other.
        async def held_up(hold: Callable[[], Awaitable[None]]) -> list[str]:
            before = await times(cluster)
            await hold()
            return [stage for stage, (_, mean) in (await settled(cluster, before, 1)).items() if mean > 0.8 * STILL_SECONDS]

        async def frozen(process: Any) -> None:
            process.pause()
            await client.send()
            await asyncio.sleep(STILL_SECONDS)
            process.resume()
            await client.seen()

        async def slow_viewer() -> None:
            await client.send()
            await client.told()
            await asyncio.sleep(STILL_SECONDS)
            await client.seen()

        assert await held_up(lambda: frozen(leader)) == ["sequenced"]
        assert await held_up(lambda: frozen(node)) == ["received"]
        assert await held_up(slow_viewer) == ["fetched"]


def record(number: int) -> Record:
    """Return a record that was accepted at 10 s and sequenced at 12 s, by Redis's clock."""
    return Record(Op.UPDATE, Position(1, number), Position(1, number - 1), time_ms=12_000, accepted_ms=10_000)


def test_one_record_at_a_time_is_followed_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now, seen = 100.0, []
    monkeypatch.setattr(time, "monotonic", lambda: now)
    stages = Stages(lambda moment: moment - 85.0, lambda stage, seconds: seen.append((stage, seconds)))
    stages.received(record(1), 100.0)
    now = 101.0
    stages.notified(is_heard=True)  # of what was applied before
    stages.applied([record(1)], time.monotonic(), is_visible=False)
    stages.received(record(2), 101.5)  # comes while the first is on its way
    stages.given_up()
    stages.applied([record(2)], time.monotonic(), is_visible=False)
    now = 104.0
    assert (seen, stages.is_awaited) == ([], False)
    stages.notified(is_heard=True)
    assert seen == [("sequenced", 2.0), ("received", 3.0), ("applied", 1.0), ("notified", 3.0)]
    now = 109.0
    stages.fetched()
    stages.fetched()
    assert seen[4:] == [("fetched", 5.0)]


def test_what_was_polled_in_the_turn_in_which_it_was_applied_has_both_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    now, seen = 100.0, []
    monkeypatch.setattr(time, "monotonic", lambda: now)
    stages = Stages(lambda moment: moment, lambda stage, seconds: seen.append((stage, seconds)))
    stages.received(record(1), 100.0)
    now = 103.0
    stages.notified(is_heard=True)
    now = 104.0  # the replica hears of it a little later
    stages.applied([record(1)], 101.0, is_visible=True)
    assert seen[2:] == [("applied", 1.0), ("notified", 2.0)]
    assert stages.is_awaited


def test_only_who_was_told_of_it_fetches_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A viewer who comes much later found it there."""
    now, seen = 100.0, []
    monkeypatch.setattr(time, "monotonic", lambda: now)
    stages = Stages(lambda moment: moment, lambda stage, seconds: seen.append(stage))
    for is_heard, pause in ((False, 1.0), (True, LONGEST_SECONDS + 1), (True, 1.0)):
        stages.received(record(1), now)
        stages.applied([record(1)], time.monotonic(), is_visible=False)
        stages.notified(is_heard=is_heard)
        assert stages.is_awaited == is_heard
        now += pause
        stages.fetched()
    assert seen.count("notified") == 3
    assert seen[-1:] == ["fetched"]
    assert seen.count("fetched") == 1


def test_what_is_not_applied_is_forgotten_and_what_is_visible_at_once_is_notified() -> None:
    seen: list[str] = []
    stages = Stages(lambda moment: moment, lambda stage, seconds: seen.append(stage))
    stages.received(record(1), 0.0)
    stages.applied([record(7)], time.monotonic(), is_visible=True)  # others
    stages.given_up()
    stages.applied([record(1)], time.monotonic(), is_visible=True)  # read from the log, later
    assert seen == []
    stages.received(record(8), 0.0)
    stages.applied([record(7), record(8)], time.monotonic(), is_visible=True)
    assert seen == ["sequenced", "received", "applied", "notified"]
    stages.received(Record(Op.CLEAR, Position(1, 9), Position(1, 8)), 0.0)  # nobody knows since when
    stages.applied([Record(Op.CLEAR, Position(1, 9), Position(1, 8))], time.monotonic(), is_visible=True)
    assert len(seen) == 4


async def test_redis_is_believed_by_its_quickest_answer_until_it_is_another_one() -> None:
    redis = connect("redis://127.0.0.1:1")
    clock = RedisClock(redis, FleetKeys("parallax"))
    assert clock.now() == pytest.approx(time.time(), abs=1.0)  # our own, as long as nobody told
    clock.learn(10.0, 10.4, 1010.3)  # somewhere from 999.9 to 1000.3 ahead
    assert clock.at(20.0) == pytest.approx(1020.1)
    clock.learn(11.0, 11.002, 1011.001)
    clock.learn(12.0, 13.0, 1012.1)  # a slow one, which may be as well
    assert clock.at(20.0) == pytest.approx(1020.0)
    clock.learn(14.0, 14.01, 1014.005 - 5.0 - DRIFT_SECONDS)  # cannot be
    assert clock.at(20.0) == pytest.approx(1015.0 - DRIFT_SECONDS)
    await redis.aclose()


class OneFeed:
    """In place of a Feed, of one table."""

    def __init__(self) -> None:
        self.inbox = Inbox()

    async def add(self, channel: str) -> Inbox:
        """Return the inbox."""
        return self.inbox

    async def remove(self, channel: str) -> None:
        """Do nothing."""


async def test_a_table_is_behind_while_something_waits_that_the_engine_does_not_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    redis, engine, feed = connect("redis://127.0.0.1:1"), Engine(frame_seconds=1.0), OneFeed()
    keys, began, may_go_on = FleetKeys("parallax"), asyncio.Event(), asyncio.Event()
    table = engine.table(NUMBERS.name)
    load = table.load

    async def slowly(*arguments: Any) -> None:
        began.set()
        await may_go_on.wait()
        await load(*arguments)

    monkeypatch.setattr(table, "load", slowly)
    replica = Replica(redis, feed, TableKeys("parallax", NUMBERS.name), table, lambda replica: None, Pacing(redis, keys))  # type: ignore[arg-type]
    async with Tasks() as tasks:
        tasks.start(replica.run(), name="replica")
        await replica.moved(1.0)
        assert replica.lag_seconds == 0
        await asyncio.sleep(0.05)
        assert replica.silence_seconds > 0.05
        feed.inbox.put(Record(Op.BEGIN, Position(1, 1), Position(0, 0), spec=NUMBERS).encode())
        assert replica.lag_seconds > 0  # it waits
        await began.wait()
        first = replica.lag_seconds
        await asyncio.sleep(0.05)
        assert replica.lag_seconds >= first + 0.05  # the engine is at work on it
        may_go_on.set()
        assert await replica.reached(Position(1, 1), 5.0)
        assert (replica.lag_seconds, replica.report()["lag_seconds"]) == (0, 0)
        assert replica.silence_seconds > 0.05
        feed.inbox.put(b"PH 1-1 somebody:1")
        await replica.moved(1.0)
        assert replica.silence_seconds < 0.05
    await engine.close()
    await redis.aclose()

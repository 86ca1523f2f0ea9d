"""The Lua scripts, each on the oldest Redis supported and on Valkey: what they refuse, and what one call does at once."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from coordinator.lease import Lease
from parallax.replication.keys import TableKeys
from parallax.store import connect, load_script
from tests.processes import RedisServer, until

KEYS = TableKeys("test", "t")
ALL = [KEYS.log, KEYS.ingest, KEYS.rejected, KEYS.manifest, KEYS.want, KEYS.verify, KEYS.blobs, KEYS.trying, KEYS.feed]
CHUNK = KEYS.chunk("s", 0)


@pytest.fixture(params=["valkey", "redis"])
async def redis(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Any]:
    from parallax.demo.ports import choose_ports

    server = RedisServer(tmp_path, choose_ports({"redis": 0})["redis"], request.param)
    server.start()
    try:
        await server.ready()
        client = connect(server.url)
        yield client
        await client.aclose()
    finally:
        server.destroy()


async def append(
    redis: Any,
    expected: str,
    records: list[tuple[str, bytes]] = [],  # noqa: B006 - never changed
    carried: list[bytes] = [],  # noqa: B006
    refused: list[tuple[bytes, str]] = [],  # noqa: B006
    manifest: tuple[str, str, list[str]] | None = None,
    blobs: list[tuple[str, str, list[str]]] = [],  # noqa: B006
) -> list[Any]:
    arguments: list[Any] = [expected, "PUBLISH", "me:1", 3, 100_000, len(records)]
    for record in records:
        arguments += record
    arguments += [len(carried), *carried, len(refused)]
    for refusal in refused:
        arguments += refusal
    arguments.append(len(blobs))
    for position, value, chunks in blobs:
        arguments += [position, value, len(chunks), *chunks]
    arguments += ["", ""] if manifest is None else [manifest[0], manifest[1], len(manifest[2]), *manifest[2]]
    answer: list[Any] = await load_script(redis, "coordinator", "append.lua")(keys=ALL, args=arguments)
    return answer


async def page(redis: Any, start: str, budget: int = 1 << 20) -> tuple[bytes, list[bytes]]:
    top, entries = await load_script(redis, "parallax.replica", "page.lua")(keys=[KEYS.log], args=[start, budget])
    return top, entries[::2]


async def snap(redis: Any, position: str, chunks: list[str], old: list[str] = []) -> str:  # noqa: B006
    script = load_script(redis, "coordinator", "snap.lua")
    answer: bytes = await script(
        keys=[KEYS.manifest, KEYS.log, KEYS.blobs, *chunks],
        args=[position, "body", 300, KEYS.chunk_prefix, len(old), *old],
    )
    return answer.decode()


async def fill(redis: Any, first: int, last: int) -> None:
    for offset in range(first, last + 1):
        top = f"7-{offset - 1}" if offset > 1 else "0-0"
        assert (await append(redis, top, [(f"7-{offset}", b"r%d" % offset)]))[0] == b"yes"


async def test_append_does_everything_in_one_call(redis: Any) -> None:
    async with redis.pubsub() as pubsub:
        await pubsub.subscribe(KEYS.feed)
        assert (await pubsub.get_message(timeout=5))["type"] == "subscribe"
        ids = [await redis.xadd(KEYS.ingest, {"data": str(number)}) for number in range(4)]
        answer = await append(redis, "0-0", [("7-1", b"one"), ("7-2", b"two")], ids[:2], [(ids[2], "because")])
        assert answer == [b"yes", b"7-2", 0, 0, b"none"]
        assert await redis.xrange(KEYS.log) == [(b"7-1", {b"r": b"one"}), (b"7-2", {b"r": b"two"})]
        assert [entry for entry, _ in await redis.xrange(KEYS.ingest)] == ids[3:]
        ((_, rejected),) = await redis.xrange(KEYS.rejected)
        assert rejected == {b"reason": b"because", b"entry": ids[2], b"data": b"2"}
        assert [(await pubsub.get_message(timeout=5))["data"] for _ in range(2)] == [b"one", b"two"]


async def test_append_to_another_top_changes_nothing(redis: Any) -> None:
    await fill(redis, 1, 3)
    entry = await redis.xadd(KEYS.ingest, {"data": "x"})
    await redis.set(KEYS.want, "1")
    before = await redis.xrange(KEYS.log)
    for expected in ("0-0", "7-2", "7-4", "8-3"):
        answer = await append(redis, expected, [("9-4", b"stale")], [entry], [(entry, "no")], ("9-4", "body", []))
        assert answer[:2] == [b"no", b"7-3"]
    assert await redis.xrange(KEYS.log) == before
    assert await redis.xlen(KEYS.ingest) == 1
    assert await redis.exists(KEYS.rejected, KEYS.manifest) == 0
    assert await redis.exists(KEYS.want) == 1, "a refused call does not take what was meant for the leader"


async def test_the_heartbeat_publishes_the_true_top_and_brings_what_is_asked(redis: Any) -> None:
    await fill(redis, 1, 2)
    await redis.set(KEYS.want, "1")
    await redis.set(KEYS.verify, "1")
    async with redis.pubsub() as pubsub:
        await pubsub.subscribe(KEYS.feed)
        await pubsub.get_message(timeout=5)
        assert await append(redis, "7-2") == [b"yes", b"7-2", 1, 1, b"none"]
        assert (await pubsub.get_message(timeout=5))["data"] == b"PH 7-2 me:1"
        assert await append(redis, "7-2") == [b"yes", b"7-2", 0, 0, b"none"]


async def test_refusals_alone_write_no_record(redis: Any) -> None:
    await fill(redis, 1, 1)
    ids = [await redis.xadd(KEYS.ingest, {"data": str(number)}) for number in range(5)]
    assert (await append(redis, "7-1", refused=[(entry, "no") for entry in ids]))[:2] == [b"yes", b"7-1"]
    assert await redis.xlen(KEYS.log) == 1
    assert await redis.xlen(KEYS.ingest) == 0
    assert await redis.xlen(KEYS.rejected) == 3, "the cap"


async def test_rejected_entries_are_capped_in_bytes_too(redis: Any) -> None:
    for size in (40_000, 40_000, 40_000, 300_000):
        entry = await redis.xadd(KEYS.ingest, {"data": b"x" * size})
        assert (await append(redis, "0-0", refused=[(entry, "no")]))[0] == b"yes"
        kept = [len(fields[b"data"]) for _, fields in await redis.xrange(KEYS.rejected)]
        assert kept[-1] == size, "the newest is kept, however large"
        assert kept[:-1] == [] or sum(kept) <= 100_000


async def test_thousands_of_entries_are_carried_in_one_call(redis: Any) -> None:
    async with redis.pipeline(transaction=False) as pipe:
        for number in range(5000):
            pipe.xadd(KEYS.ingest, {"data": number})
        ids = await pipe.execute()
    assert (await append(redis, "0-0", [("7-1", b"all")], ids))[0] == b"yes"
    assert await redis.xlen(KEYS.ingest) == 0


async def test_append_works_when_redis_is_full(redis: Any) -> None:
    entry = await redis.xadd(KEYS.ingest, {"data": "x" * 100})
    await load_script(redis, "coordinator", "append.lua")(keys=ALL, args=["1-1", "f", "s", 1, 0, 0, 0, 0, "", ""])
    await redis.config_set("maxmemory", 1)
    with pytest.raises(Exception, match="maxmemory"):
        await redis.xadd(KEYS.ingest, {"data": "y"})
    assert (await append(redis, "0-0", [("7-1", b"one")], [entry]))[0] == b"yes"
    await redis.config_set("maxmemory", 0)


async def test_a_page_is_inclusive_bounded_and_says_the_top(redis: Any) -> None:
    assert await page(redis, "0-0") == (b"", [])
    await fill(redis, 1, 60)
    assert await page(redis, "7-58") == (b"7-60", [b"7-58", b"7-59", b"7-60"])
    assert await page(redis, "7-3", 1) == (b"7-60", [b"7-3", b"7-4"])
    assert await page(redis, "9-1") == (b"7-60", [])
    top, ids = await page(redis, "0-0")
    assert (top, len(ids), len(set(ids))) == (b"7-60", 60, 60)
    await redis.xtrim(KEYS.log, maxlen=0)
    assert await page(redis, "7-60") == (b"7-60", []), "a log trimmed to nothing still knows its top"


async def take(redis: Any, most: int = 100, budget: int = 1 << 20, largest: int = 1 << 20) -> tuple[list[bytes], int, int]:
    script = load_script(redis, "coordinator", "take.lua")
    entries, backlog, tried = await script(keys=[KEYS.ingest, KEYS.trying], args=[most, budget, largest, "me"])
    return [entry for entry, _ in entries], backlog, tried


async def test_take_reads_from_the_start_within_its_budget(redis: Any) -> None:
    assert await take(redis) == ([], 0, 0)
    ids = [await redis.xadd(KEYS.ingest, {"data": "x" * 50}) for _ in range(100)]
    await redis.delete(KEYS.trying)
    assert await take(redis, 1000, 120) == (ids[:2], 100, 0)
    await redis.delete(KEYS.trying)
    assert (await take(redis, 70))[0] == ids[:70]
    await redis.delete(KEYS.trying)
    assert (await take(redis, 1000, 1))[0] == ids[:1], "one that is larger than the budget still comes"


async def test_of_an_entry_that_is_too_large_only_the_size_is_given_out(redis: Any) -> None:
    script = load_script(redis, "coordinator", "take.lua")
    ids = [await redis.xadd(KEYS.ingest, {"data": "x" * size}) for size in (10, 5000, 10)]
    entries, backlog, _ = await script(keys=[KEYS.ingest, KEYS.trying], args=[10, 100, 1000, "me"])
    assert (backlog, entries) == (3, [[ids[0], [b"data", b"x" * 10]], [ids[1], 5004], [ids[2], [b"data", b"x" * 10]]])


async def test_what_was_tried_twice_in_vain_is_given_out_one_at_a_time(redis: Any) -> None:
    ids = [await redis.xadd(KEYS.ingest, {"data": str(number)}) for number in range(4)]
    assert [await take(redis, 3) for _ in range(2)] == [(ids[:3], 4, 0)] * 2
    later = await redis.xadd(KEYS.ingest, {"data": "later"})
    assert await take(redis) == (ids[:1], 5, 0)
    assert (await append(redis, "0-0", [("7-1", b"r")], ids[:1]))[0] == b"yes"
    assert [await take(redis) for _ in range(3)] == [(ids[1:2], 4, tried) for tried in range(3)], "the deadly one"
    await append(redis, "7-1", refused=[(ids[1], "deadly")])
    assert await take(redis) == (ids[2:3], 3, 0)
    await append(redis, "7-1", [("7-2", b"r")], ids[2:3])
    assert await take(redis) == ([ids[3], later], 2, 0), "behind the suspects all is as ever"
    await append(redis, "7-2", [("7-3", b"r")], [ids[3], later])
    assert await redis.exists(KEYS.trying) == 0


async def test_what_is_done_is_forgotten(redis: Any) -> None:
    for number in range(1, 5):
        entry = await redis.xadd(KEYS.ingest, {"data": "x"})
        assert await take(redis) == ([entry], 1, 0)
        await append(redis, f"7-{number - 1}" if number > 1 else "0-0", [(f"7-{number}", b"r")], [entry])
        assert await redis.exists(KEYS.trying) == 0


async def test_a_snapshot_is_published_only_if_it_can_be_used(redis: Any) -> None:
    await fill(redis, 1, 20)
    assert await snap(redis, "7-10", [CHUNK]) == "chunk"
    await redis.set(CHUNK, "rows", ex=100)
    assert await snap(redis, "7-99", [CHUNK]) == "log"
    assert await snap(redis, "7-10", [CHUNK]) == "yes"
    assert await redis.ttl(CHUNK) == -1, "chunks in use do not expire"
    assert await redis.xlen(KEYS.log) == 20, "nothing is trimmed behind the first snapshot"
    assert await snap(redis, "7-9", [CHUNK]) == "newer"
    assert await snap(redis, "7-10", [CHUNK]) == "yes", "a chunk may be gone, so one at the same position is replaced"
    assert await redis.xlen(KEYS.log) == 11, "and what it replaces trims the log"
    newer = KEYS.chunk("n", 0)
    await redis.set(newer, "rows", ex=100)
    assert await snap(redis, "7-15", [newer], [CHUNK]) == "yes"
    assert 0 < await redis.ttl(CHUNK) <= 300, "replaced chunks live on for those who are reading them"
    assert (await page(redis, "0-0"))[1][0] == b"7-10", "the record of the previous manifest stays"


async def test_a_dropped_tables_snapshot_goes_only_while_its_end_is_in_the_log(redis: Any) -> None:
    """Redis may forget the record that dropped it: then the snapshot is all that is left of the table."""
    discard = load_script(redis, "coordinator", "discard.lua")
    await fill(redis, 1, 20)
    await redis.set(CHUNK, "rows", ex=100)
    assert await snap(redis, "7-10", [CHUNK]) == "yes"
    keys = [KEYS.manifest, KEYS.log, CHUNK]
    assert await discard(keys=keys, args=["7-21", 300]) == 0
    assert (await redis.exists(KEYS.manifest), await redis.ttl(CHUNK), await redis.xlen(KEYS.log)) == (1, -1, 20)
    assert await discard(keys=keys, args=["7-20", 300]) == 1
    assert (await redis.exists(KEYS.manifest), await redis.xlen(KEYS.log)) == (0, 1)
    assert 0 < await redis.ttl(CHUNK) <= 300


async def test_payloads_beside_the_log_live_as_long_as_their_records(redis: Any) -> None:
    blobs = [KEYS.chunks(f"b{number}", 2) for number in range(3)]
    for name in [chunk for chunks in blobs for chunk in chunks]:
        await redis.set(name, "x", ex=100)
    for number, chunks in enumerate(blobs, start=1):
        top = f"7-{number - 1}" if number > 1 else "0-0"
        answer = await append(redis, top, [(f"7-{number}", b"r")], blobs=[(f"7-{number}", f"b{number - 1} 2", chunks)])
        assert answer[0] == b"yes"
    assert [await redis.ttl(chunk) for chunks in blobs for chunk in chunks] == [-1] * 6
    for position in ("7-2", "7-3"):
        await redis.set(CHUNK, "rows")
        assert await snap(redis, position, [CHUNK]) == "yes"
    assert (await page(redis, "0-0"))[1] == [b"7-2", b"7-3"]
    assert [await redis.ttl(chunk) > 0 for chunks in blobs for chunk in chunks] == [True, True, False, False, False, False]
    assert await redis.hkeys(KEYS.blobs) == [b"7-2", b"7-3"]


async def test_nothing_is_appended_that_refers_to_chunks_that_are_gone(redis: Any) -> None:
    entry = await redis.xadd(KEYS.ingest, {"data": "x"})
    missing = KEYS.chunks("b", 2)
    await redis.set(missing[0], "x", ex=100)
    for options in ({"blobs": [("7-1", "b 2", missing)]}, {"manifest": ("7-1", "body", missing)}):
        answer = await append(redis, "0-0", [("7-1", b"r")], [entry], **options)
        assert answer[:2] == [b"chunk", b"0-0"]
    assert await redis.exists(KEYS.log, KEYS.manifest, KEYS.blobs) == 0
    assert await redis.xlen(KEYS.ingest) == 1
    assert await redis.ttl(missing[0]) > 0


async def test_a_manifest_that_the_log_does_not_hold_can_be_replaced_by_any(redis: Any) -> None:
    await fill(redis, 1, 3)
    await redis.hset(KEYS.manifest, mapping={"position": "99-50", "body": "of another history"})
    manifest = load_script(redis, "parallax.replica", "manifest.lua")
    assert await manifest(keys=[KEYS.manifest, KEYS.log]) == [b"of another history", 0]
    assert (await append(redis, "7-3"))[4] == b"unheld"
    await redis.set(CHUNK, "rows", ex=100)
    assert await snap(redis, "7-2", [CHUNK]) == "yes"
    assert await redis.xlen(KEYS.log) == 3
    assert await manifest(keys=[KEYS.manifest, KEYS.log]) == [b"body", 1]
    assert (await append(redis, "7-3"))[4] == b"held"


async def test_scripts_that_redis_forgot_are_loaded_again(redis: Any) -> None:
    script = load_script(redis, "parallax.replica", "page.lua")
    assert await script(keys=[KEYS.log], args=["0-0", 1]) == [b"", []]
    await redis.script_flush()
    assert await script(keys=[KEYS.log], args=["0-0", 1]) == [b"", []]


class Clock:
    """A monotonic clock that a test turns."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


async def test_a_lease_is_taken_only_from_who_fell_silent(redis: Any) -> None:
    clocks = Clock(), Clock()
    first, second = (Lease(redis, "lease", owner, 3.0, clock) for owner, clock in zip("ab", clocks, strict=True))
    assert await first.try_take()
    assert not await second.try_take()
    for _ in range(10):
        for clock in clocks:
            clock.now += 1.0
        assert await first.renew()
        assert not await second.try_take(), "a value that changes is a holder who lives"
    clocks[1].now += 2.9
    assert not await second.try_take()
    clocks[1].now += 0.2
    assert await second.try_take()
    assert not await first.renew()
    assert not first.is_held


async def test_a_holder_stops_by_his_own_clock_from_the_start_of_his_renewal(redis: Any) -> None:
    clock = Clock()
    lease = Lease(redis, "lease", "a", 3.0, clock)
    assert await lease.try_take()
    clock.now += 2.9
    assert lease.is_held
    clock.now += 0.2
    assert not lease.is_held


async def test_a_released_lease_is_free_at_once(redis: Any) -> None:
    first, second = Lease(redis, "lease", "a", 60.0), Lease(redis, "lease", "b", 60.0)
    assert await first.try_take()
    assert not await second.try_take()
    await first.release()
    assert await second.try_take()
    await first.release()
    assert await second.renew(), "who does not hold it cannot release it"


async def test_a_renewal_whose_answer_was_lost_costs_nothing(redis: Any) -> None:
    lease = Lease(redis, "lease", "a", 60.0)
    assert await lease.try_take()
    await redis.set("lease", "a:77:reached-redis-but-we-never-knew")
    assert await lease.renew()
    await redis.set("lease", "ab:1:somebody-else")
    assert not await lease.renew()


async def test_a_lease_is_found_free_when_redis_lost_it(redis: Any) -> None:
    first, second = Lease(redis, "lease", "a", 60.0), Lease(redis, "lease", "b", 60.0)
    assert await first.try_take()
    await redis.delete("lease")
    assert not await first.renew()
    assert await second.try_take()
    await until(second.renew, 1, "the new holder renews")

"""The demo's replay: its flights, its timeline, and what it writes to Redis."""

import json
import socket
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from redis import Redis

from coordinator.entry import Entry
from coordinator.limits import Limits
from coordinator.validate import read, validate
from parallax.demo.flight import IDENTITY, MINUTE, Arc, days
from parallax.demo.ports import choose_ports
from parallax.demo.replay import BACKLOG, encode, table_specs
from parallax.demo.timeline import DAY, OPENS, timeline
from parallax.replication.keys import TableKeys
from tests.processes import ROOT, Process, RedisServer, python_module, until

SPECS = table_specs()
STEP = 13.0  # minutes; divides neither a day nor a boarding time


def test_the_timeline_is_the_same_every_time_and_never_goes_back():
    first = [change for changes in timeline(STEP) for change in changes]
    assert first == [change for changes in timeline(STEP) for change in changes]
    instants = [change.at for change in first]
    assert instants == sorted(instants)
    times = [row["time"] for change in first if change.table == "events" for row in change.rows]
    assert times == sorted(times)
    assert {(change.table, change.op) for change in first} == {
        *(("flights", op) for op in ("replace", "update", "remove")),
        *(("events", op) for op in ("clear", "update")),
    }


def test_every_change_is_accepted_and_arrives_as_it_was():
    """What the replay encodes passes the coordinator's validation, and the rows that come out are those of the timeline."""
    counts: Counter[str] = Counter()
    for changes in timeline(STEP):
        for change in changes:
            spec = SPECS[change.table]
            fields = {
                name: value.encode() if isinstance(value, str) else value for name, value in encode(change, spec).items()
            }
            parts = [part for name, value in fields.items() for part in (name.encode(), value)]
            tables = validate(read(Entry.read(parts, spec), spec, Limits()), spec)
            rows = [row for table in tables for row in table.cast(_numbers(table.schema)).to_pylist()]
            assert rows == list(change.rows)
            counts[change.op] += len(rows)
    assert counts["update"] > 10_000
    assert counts["replace"] > 1_900
    assert counts["remove"] > 1_000


def _numbers(schema: Any) -> Any:
    return pa.schema([(field.name, pa.int64() if pa.types.is_timestamp(field.type) else field.type) for field in schema])


def test_the_changes_add_up_to_the_state_of_every_flight():
    """Nothing that moves is left out: the board made of the changes is the board computed anew, at every step."""
    board: dict[str, dict[str, Any]] = {}
    day = iter(days())
    flights: Any = ()
    for changes in timeline(STEP):
        for change in changes:
            if change.table != "flights":
                continue
            if change.op == "replace":
                board, flights = {}, next(day)
            for row in change.rows:
                if change.op == "remove":
                    del board[row["id"]]
                else:
                    board[row["id"]] = board.get(row["id"], {}) | row
        now = changes[0].at
        expected = {flight.source["id"]: flight.state(now) for flight in flights if now < flight.gone}
        assert _without_updated(board) == _without_updated(expected)


def _without_updated(board: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {key: {name: value for name, value in row.items() if name != "updated"} for key, row in board.items()}


def test_flights_end_as_the_source_says():
    endings: Counter[str] = Counter()
    for flight in (flight for flights in days() for flight in flights):
        assert list(flight.instants) == sorted(flight.instants)
        source, end = flight.source, int(flight.gone) - 1
        row = flight.state(end)
        endings[row["status"]] += 1
        assert {name: row[name] for name in IDENTITY} == {name: source[name] for name in IDENTITY}
        if row["status"] == "landed":
            assert (row["dep_delay"], row["arr_delay"]) == (source["dep_delay"], source["arr_delay"])
            assert (row["air_time"], row["remaining"]) == (source["air_time"], 0)
            assert (row["lat"], row["lon"]) == pytest.approx((source["dest_lat"], source["dest_lon"]), abs=1e-4)
    assert endings == {"landed": 1_815, "cancelled": 148, "diverted": 42}  # counted in the source's CSV


def test_a_late_flight_grows_later_until_it_leaves():
    flight = max((f for f in days()[1] if f.source["landed"]), key=lambda f: f.source["dep_delay"])
    instants = range(flight.sched_dep + MINUTE, flight.source["departed"] + MINUTE, MINUTE)
    delays = [flight.delay(at) for at in instants]
    assert delays == [float(n) for n in range(1, int(flight.source["dep_delay"]) + 1)]


def test_a_flight_follows_the_great_circle():
    """JFK to Honolulu: the middle of the way is north of both ends."""
    arc = Arc.between(40.6398, -73.7789, 21.3187, -157.9225)
    assert arc.point(0) == pytest.approx((40.6398, -73.7789))
    assert arc.point(1) == pytest.approx((21.3187, -157.9225))
    middle = arc.point(0.5)
    assert abs(Arc.between(*middle, 40.6398, -73.7789).angle - arc.angle / 2) < 1e-9
    assert arc.angle * 3958.8 == pytest.approx(4_983, rel=0.005)  # miles, as in the source


def test_a_day_opens_in_the_middle_of_things():
    opening = next(iter(timeline(STEP)))
    assert opening[0].at % DAY == OPENS
    statuses = Counter(row["status"] for row in opening[0].rows)
    assert statuses["en route"] > 50
    assert statuses["scheduled"] > 500


def test_a_taken_port_is_left_alone():
    free = choose_ports({"a": 0, "b": 0})
    assert len(set(free.values())) == 2
    with socket.create_server(("127.0.0.1", free["a"])):
        again = choose_ports({"a": free["a"], "b": free["b"]})
    assert again["a"] != free["a"]
    assert again["b"] == free["b"]


@pytest.mark.cluster
async def test_the_replay_writes_every_operation_and_says_how_much(tmp_path: Path):
    server = RedisServer(tmp_path, choose_ports({"redis": 0})["redis"])
    options = ["--redis-url", server.url, "--prefix", "p", "--speed", "6000", "--step", "0.01"]
    replay = Process("replay", [*python_module("parallax.demo.replay"), *options], tmp_path, {"PYTHONPATH": str(ROOT)})
    try:
        server.start()
        await server.ready()
        replay.start()
        with Redis(port=server.port) as redis:
            streams = {name: TableKeys("p", name).ingest for name in SPECS}

            async def is_full() -> bool:
                return sum(redis.xlen(stream) for stream in streams.values()) >= BACKLOG

            # Nobody takes anything out, so it must stop by itself, and go on once there is room.
            await until(is_full, 30, "ingest is full")
            taken = sum(redis.xlen(stream) for stream in streams.values())
            entries = {name: [fields for _, fields in redis.xrange(stream)] for name, stream in streams.items()}
            assert taken <= BACKLOG + 10
            for stream in streams.values():
                redis.xtrim(stream, maxlen=0)
            await until(is_full, 30, "ingest is full again")
            code = await replay.terminate()
            total = taken + sum(redis.xlen(stream) for stream in streams.values())
        assert code == 0
        said = json.loads(replay.log.read_text().splitlines()[-1])
        assert said["entries"] == total == sum(said["operations"].values())
        assert said["rows"] > 10 * total
        assert {fields[b"op"] for fields in entries["flights"]} == {b"replace", b"update", b"remove"}
        assert {fields[b"op"] for fields in entries["events"]} == {b"clear", b"update"}
        everything = [fields for kind in entries.values() for fields in kind]
        assert len({fields[b"producer"] for fields in everything}) == 1
        assert len({fields[b"seq"] for fields in everything}) == taken
    finally:
        replay.destroy()
        server.destroy()

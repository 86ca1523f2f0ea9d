"""The demo's publisher: plays the timeline in a loop, at many times its speed, into ingest.

On purpose it needs no more than a Redis client: what it does, a publisher in any language can do. In Python,
`parallax.Publisher` does the same with less.

`python -m parallax.demo.replay --redis-url ... --speed 10` runs until SIGTERM or SIGINT, then prints one JSON line that says
how much it published.
"""

import argparse
import json
import os
import select
import signal
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import pyarrow as pa
import yaml
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from parallax.demo.timeline import Change, timeline
from parallax.replication.keys import TableKeys
from parallax.replication.spec import TableSpec
from parallax.settings import load_where

TABLES_FILE = Path(__file__).with_name("tables.yaml")
BACKLOG = 1000  # entries that wait in ingest above which the replay pauses: Redis does not fill up while nobody sequences
RETRY_SECONDS = 0.25


def table_specs() -> dict[str, TableSpec]:
    """Return the demo's tables by name."""
    declared = yaml.safe_load(TABLES_FILE.read_text())["tables"]
    return {name: TableSpec.declare(name, body) for name, body in declared.items()}


@dataclass(slots=True)
class Published:
    """How much has been published since the start."""

    entries: int = 0
    rows: int = 0
    bytes: int = 0
    operations: dict[str, int] = field(default_factory=dict)  # entries by operation

    def count(self, entry: Mapping[Any, Any], rows: int) -> None:
        """Add one entry that Redis has taken."""
        self.entries += 1
        self.rows += rows
        self.bytes += len(entry.get("data", b""))
        self.operations[entry["op"]] = self.operations.get(entry["op"], 0) + 1


def encode(change: Change, spec: TableSpec) -> dict[Any, Any]:
    """Return the fields of the ingest entry for one change: `flights` travels as Arrow, `events` as JSON rows."""
    if change.op == "clear":
        return {"op": "clear"}
    if change.table == "events":
        return {"op": change.op, "format": "json", "data": json.dumps(change.rows).encode()}
    schema = pa.schema([column for column in spec.arrow_schema if column.name in change.rows[0]])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_table(pa.Table.from_pylist(list(change.rows), schema))
    return {"op": change.op, "format": "arrow", "data": sink.getvalue().to_pybytes()}


class Replay:
    """Publishes steps of the timeline at their instants until told to stop."""

    def __init__(self, redis: "Redis", prefix: str, *, speed: float, step_seconds: float) -> None:
        """`speed` is in simulated minutes a second; a step is published each `step_seconds`."""
        self._redis = redis
        self._specs = table_specs()
        self._keys = {name: TableKeys(prefix, name) for name in self._specs}
        self._speed, self._step_seconds = speed, step_seconds
        # One name for each run: the sequencer drops what a retry of ours sends a second time.
        self._producer = f"demo-{uuid.uuid4().hex[:12]}"
        self._seq = 0
        self.published = Published()
        self._stopping = False
        # The wake-up lets a signal end a wait at once without doing anything in the handler.
        self._wake_read, self._wake_write = os.pipe()

    def stop(self, signum: int = 0, frame: FrameType | None = None) -> None:
        """End `run` soon; safe to call from a signal handler."""
        self._stopping = True
        os.write(self._wake_write, b"x")

    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping

    def run(self) -> None:
        """Play the timeline again and again."""
        due = time.monotonic()
        while not self.stopping():
            for changes in timeline(self._speed * self._step_seconds):
                self._wait(due - time.monotonic())
                if self.stopping():
                    return
                backlog = self._publish(changes)
                while backlog > BACKLOG and not self.stopping():
                    self._wait(RETRY_SECONDS)
                    backlog = self._publish([])
                # Behind after a pause? Go on from now, rather than rush after the clock.
                due = max(due + self._step_seconds, time.monotonic())

    def _publish(self, changes: Sequence[Change]) -> int:
        """Write the changes in order, however often it takes; return how many entries wait in ingest."""
        entries = []
        for change in changes:
            self._seq += 1
            entry = encode(change, self._specs[change.table]) | {"producer": self._producer, "seq": self._seq}
            entries.append((change, entry))
        while not self.stopping():
            pipe = self._redis.pipeline(transaction=False)
            for change, entry in entries:
                pipe.xadd(self._keys[change.table].ingest, entry)
            for keys in self._keys.values():
                pipe.xlen(keys.ingest)
            try:
                answers = pipe.execute()
            except (RedisConnectionError, RedisTimeoutError) as error:
                print(f"cannot publish, trying again: {error}", file=sys.stderr, flush=True)
                self._wait(RETRY_SECONDS)
                continue
            for change, entry in entries:
                self.published.count(entry, len(change.rows))
            return int(sum(answers[len(entries) :]))
        return 0

    def _wait(self, seconds: float) -> None:
        if seconds > 0 and not self.stopping():
            select.select([self._wake_read], [], [], seconds)


def main(argv: Sequence[str] | None = None) -> int:
    """Play until a signal, then print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    where = load_where()
    parser.add_argument("--redis-url", default=where.redis(), help="default: PARALLAX_REDIS_URL; one server")
    parser.add_argument("--prefix", default=where.prefix)
    parser.add_argument("--speed", type=float, default=10.0, help="simulated minutes a second")
    parser.add_argument("--step", type=float, default=0.2, help="seconds from one batch of changes to the next")
    args = parser.parse_args(argv)
    redis = Redis.from_url(args.redis_url, socket_timeout=5.0, retry=Retry(NoBackoff(), 0), client_name="parallax-demo")
    replay = Replay(redis, args.prefix, speed=args.speed, step_seconds=args.step)
    signal.signal(signal.SIGTERM, replay.stop)
    signal.signal(signal.SIGINT, replay.stop)
    try:
        replay.run()
    finally:
        redis.close()
    print(json.dumps(asdict(replay.published)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

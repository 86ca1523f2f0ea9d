"""The members of the model's fleet: the real code of coordinators and replicas around a table that is a list of numbers."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import pyarrow as pa
from redis.exceptions import RedisError

from coordinator.leadership import Leadership
from coordinator.lease import Lease
from coordinator.settings import CoordinatorSettings
from parallax.registry import Announcer
from parallax.replica.pacing import Pacing
from parallax.replica.replica import Replica
from parallax.replication.follower import State as Following
from parallax.replication.record import Op
from parallax.replication.spec import TableSpec
from parallax.tasks import Tasks
from tests.model_truth import COLUMN, State, numbers, numbers_of
from tests.model_world import Clock, Feed, Link, Member, World

SPEC = TableSpec.declare("t", {"schema": {COLUMN: "int64"}, "max_rows": 1_000_000})
WIDER = TableSpec.declare("t", {"schema": {COLUMN: "int64", "x": "string"}, "max_rows": 1_000_000})
SETTINGS = CoordinatorSettings(lease_ttl_seconds=1.5, candidate_seconds=2.0, snapshot_min_bytes=1500)


class _Work:
    position = ""


class Table:
    """In place of `parallax.replica.engine.EngineTable`."""

    def __init__(self, rng: random.Random) -> None:
        self.spec: TableSpec | None = None
        self.held: tuple[int, ...] = ()
        self.generation = 0
        self.is_visible, self.stages = True, None
        self.work = _Work()
        self._rng = rng

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(self.held)

    async def load(self, spec: TableSpec, data: pa.Table, position: str = "") -> None:
        """Hold other rows."""
        await self._yield()
        self.spec, self.held = spec, numbers_of(data)
        self.generation += 1

    async def apply(self, changes: Sequence[tuple[Op, bytes]], position: str = "") -> None:
        """Apply changes in order."""
        for op, payload in changes:
            assert op is Op.UPDATE, "the model's publishers only add"
            await self._yield()
            self.held += numbers(payload)

    async def alter(self, spec: TableSpec) -> None:
        """Have another spec of the same shape."""
        assert self.spec is not None
        assert spec.shape == self.spec.shape, "rows in another shape come with a snapshot"
        self.spec = spec

    def settle(self) -> None:
        """What was applied is visible at once."""

    async def drop(self) -> None:
        """Hold nothing."""
        await self._yield()
        self.spec, self.held = None, ()
        self.generation += 1

    async def export(self) -> pa.Table:
        """Return all rows."""
        assert self.spec is not None
        held = self.held
        await self._yield()
        schema = self.spec.arrow_schema
        columns = [pa.array(held, pa.int64())] + [pa.nulls(len(held), field.type) for field in list(schema)[1:]]
        return pa.Table.from_arrays(columns, schema=schema)

    async def pieces(self) -> AsyncIterator[pa.Table]:
        """Yield all rows."""
        yield await self.export()

    async def _yield(self) -> None:
        if self._rng.random() < 0.3:
            await asyncio.sleep(self._rng.choice((0, 0, 0.001, 0.05)))


class Replicas:
    """In place of `parallax.replica.replicas.Replicas`: of one table, without a catalog."""

    is_healing = False

    def __init__(self, world: World, member: Member) -> None:
        self.feed = Feed(world, member)
        self._world, self._member = world, member
        self._link = Link(world, member)
        self._replica: Replica | None = None
        self._tasks = Tasks(lambda name, error: world.fail(error))

    def __iter__(self) -> Iterator[Replica]:
        return iter([] if self._replica is None else [self._replica])

    def ensure(self, name: str) -> Replica:
        """Return the replica."""
        if self._replica is None:
            table: Any = Table(self._world.rng)
            feed: Any = self.feed
            pacing = Pacing(self._link, self._world.fleet_keys)
            self._replica = Replica(self._link, feed, self._world.keys, table, lambda replica: None, pacing)
            self._member.look = self.look
            self._tasks.start(self._replica.run(), name=f"replica of {self._member.name}")
        return self._replica

    def look(self) -> None:
        """Check that the replica holds what its position stands for."""
        replica = self._replica
        if replica is None or self._member.is_dead or replica._state_lock.locked():
            return
        table: Any = replica.table
        found = State(table.spec, table.held, tuple(replica.window.entries()))
        try:
            if replica.applied != replica.follower.position and replica.follower.is_empty:
                return  # what it holds is not to be built upon
            self._world.truth.check_state(self._member.name, replica.applied, found)
            self._world.truth.check_digest(self._member.name, replica.digest)
            replica.follower.validate()
        except AssertionError as error:
            self._world.fail(error)

    def is_at_the_top(self) -> bool:
        """Say whether the replica is LIVE where the log ends."""
        replica = self._replica
        return replica is not None and replica.state is Following.LIVE and replica.applied == self._world.truth.top()

    def report(self) -> dict[str, Any]:
        """Return what the registry says."""
        return {replica.keys.table: replica.report() for replica in self if not replica.is_dropped}

    async def close(self) -> None:
        """End."""
        await self._tasks.close()


async def node(world: World, member: Member, replicas: Replicas) -> None:
    """Be a node until cancelled."""
    replicas.ensure("t")
    await asyncio.Event().wait()


async def coordinator(world: World, member: Member, replicas: Replicas) -> None:
    """Be a coordinator until cancelled."""
    replicas.ensure("t")
    redis, keys, standing = Link(world, member), world.fleet_keys, replicas
    lease = Lease(redis, keys.lease, member.boot, SETTINGS.lease_ttl_seconds, Clock().monotonic)
    leadership = Leadership(redis, lease, standing, SETTINGS)  # type: ignore[arg-type]

    def describe() -> dict[str, Any]:
        return {"kind": "coordinator", "id": member.name, "boot": member.boot, "tables": replicas.report()}

    async with Tasks(lambda name, error: world.fail(error)) as tasks:
        tasks.start(leadership.run(), name=f"leadership of {member.name}")
        tasks.start(Announcer(redis, keys, member.boot, describe).run(), name="registry")
        await asyncio.Event().wait()


class Publishers:
    """Write numbers to ingest: those with a name write each until they know it is there, those without write it once."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._number = 0

    async def run(self, name: str | None, pause_seconds: float) -> None:
        """Publish until cancelled."""
        world, rng = self._world, self._world.rng
        redis = Link(world, Member(name or "anybody", "", 0.0))
        seq = 0
        while True:
            await asyncio.sleep(rng.expovariate(1 / pause_seconds))
            for _ in range(rng.choice((1, 1, 1, 3))):
                self._number += 1
                seq += 1
                data = f'[{{"{COLUMN}": {self._number}}}]' if rng.random() < 0.95 else f'[{{"{COLUMN}": "{self._number}x"}}]'
                fields: dict[Any, Any] = {"data": data}
                if name is not None:
                    fields |= {"producer": name.encode(), "seq": seq}
                while True:
                    try:
                        await redis.xadd(world.keys.ingest, fields)
                        break
                    except (RedisError, OSError):
                        if name is None:
                            break
                        await asyncio.sleep(0.1)

"""A model of the log: real coordinators, replicas and scripts on a real Valkey, in a time that jumps, in a world of faults.

Everything that `DESIGN` says of ordering, fencing and exactly-once runs as it is: lease, leadership, history, sequencer, snapshots, the Lua
scripts, replicas and their followers. In their places stand only the engine (a list of numbers), the sockets, the clock and chance.
`run` plays one schedule that a seed decides: `tests/model_world.py` says what may happen to each call.
"""

import asyncio
import contextvars
import json
import logging
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from redis.exceptions import RedisError

from coordinator import candidate, history, leadership, lease, sequencer
from parallax.replica import chunks, replica
from parallax.replication.position import ORIGIN
from parallax.replication.spec import TableSpec
from parallax.tasks import Tasks
from tests.model_fleet import SPEC, WIDER, Publishers, Replicas, coordinator, node
from tests.model_redis import Store, VirtualLoop
from tests.model_truth import Violation
from tests.model_world import MEMBER, Clock, Link, Member, Odds, World

SKEWS = (0.0, 0.0, -3600.0, 3600.0)
SETTLE_SECONDS = 120
MEMBER_TTL_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What happens in one schedule besides the faults of single calls: how often (times a second) which accident."""

    odds: Odds
    seconds: float
    accidents: dict[str, float]
    nodes: int = 1
    pause_seconds: float = 0.25
    declared: tuple[TableSpec, ...] = ()
    """What the tables file says."""
    cut_back: int | None = None
    """At the end of the schedule Redis forgets so many of its writes; None: not."""
    script: "Callable[[Fleet], Awaitable[None]] | None" = None
    """What happens in place of accidents by chance; the schedule ends with it."""
    dies_at: dict[str, int] = field(default_factory=dict)
    """By member: the number of the call to Redis behind which its first life ends."""


ACCIDENTS = (
    "kill coordinator",
    "kill node",
    "freeze coordinator",
    "freeze node",
    "cut",
    "wipe",
    "want",
    "alter",
    "drop",
    "create",
)
ACCIDENTS += ("verify", "forget scripts", "cut feeds", "delete manifest", "delete chunk", "trim")
DAMAGE = ("delete manifest", "delete chunk", "trim")


def draw(rng: random.Random) -> Plan:
    """Draw a plan: each has only some kinds of faults, so that each kind is seen in depth."""

    def some(odds: float) -> float:
        return rng.choice((0, 0, odds / 3, odds))

    odds = Odds(
        refused=some(0.03), lost=some(0.03), late=some(0.04), slow=some(0.02), die=some(0.004), freeze=some(0.01), lapsed=some(0.2),
        dropped=some(0.3), doubled=some(0.2), delayed=some(0.2),
    )  # fmt: skip
    kinds = [kind for kind in ACCIDENTS if rng.random() < (0.15 if kind in DAMAGE else 0.35)]
    accidents = {kind: rng.choice((0.1, 0.3)) for kind in kinds}
    return Plan(
        odds,
        rng.uniform(3, 12),
        accidents,
        nodes=rng.choice((1, 1, 2)),
        declared=rng.choice(((), (SPEC,))),
        pause_seconds=rng.choice((0.05, 0.2, 0.6)),
    )


class Fleet:
    """All members, and what befalls them."""

    def __init__(self, world: World, plan: Plan) -> None:
        self.world, self.plan = world, plan
        self.replicas: dict[str, Replicas] = {}
        self.members: dict[str, Member] = {}
        self._boots = 0
        self._operator = Link(world, Member("operator", "", 0.0))
        self._tasks = Tasks(lambda name, error: world.fail(error))
        self._calm = False
        self._script_ended = asyncio.Event()
        world.kill = self.kill

    def start(self, name: str) -> None:
        """Start a member afresh."""
        world = self.world
        self._boots += 1
        member = Member(name, f"{name}.{self._boots}", 0.0 if self._calm else world.rng.choice(SKEWS))
        member.dies_at = self.plan.dies_at.get(name) if name not in self.members else None
        self.members[name] = member
        replicas = self.replicas[name] = Replicas(world, member)
        world.tell(f"{member.boot} starts, its clock {member.skew_seconds:+.0f} s")

        async def live() -> None:
            MEMBER.set(member)
            try:
                await (coordinator if name.startswith("coordinator") else node)(world, member, replicas)
            except Exception as error:
                world.fail(error)
                raise
            finally:
                await replicas.close()

        context = contextvars.copy_context()
        member.task = asyncio.get_running_loop().create_task(live(), name=name, context=context)

    def kill(self, member: Member) -> None:
        """Kill a member; it comes again, remembering nothing."""
        if member.is_dead or member.task is None:
            return
        world, loop = self.world, asyncio.get_running_loop()
        world.tell(f"{member.boot} dies")
        member.is_dead = True
        member.thaws_at = 0.0
        member.task.cancel()
        loop.call_later(MEMBER_TTL_SECONDS, self._expire, member)
        if not world.ends.is_set():
            loop.call_later(world.rng.choice((0.1, 1, 3)), self._restart, member.name)

    def _expire(self, member: Member) -> None:
        if not self.world.ends.is_set():
            self.world.store.ask("DEL", self.world.fleet_keys.member(member.boot))

    def _restart(self, name: str) -> None:
        if self.members[name].is_dead and not self.world.ends.is_set():
            self.start(name)

    async def run(self) -> None:
        """Play the plan; then let all heal, and see that it does."""
        world = self.world
        names = ["coordinator-1", "coordinator-2", *(f"node-{number}" for number in range(1, self.plan.nodes + 1))]
        for name in names:
            self.start(name)
        publishers = Publishers(world)
        try:
            await self.ask("create", SPEC)
            async with Tasks(lambda name, error: world.fail(error)) as tasks:
                tasks.start(publishers.run("one", self.plan.pause_seconds), name="publisher one")
                tasks.start(publishers.run("two", self.plan.pause_seconds), name="publisher two")
                tasks.start(publishers.run(None, self.plan.pause_seconds), name="publisher without a name")
                for kind, rate in self.plan.accidents.items():
                    tasks.start(self._again_and_again(kind, rate), name=kind)
                if self.plan.script is not None:
                    tasks.start(self._follow(self.plan.script), name="script")
                with suppress(TimeoutError):
                    async with asyncio.timeout(self.plan.seconds):
                        await world.ends.wait() if self.plan.script is None else await self._script_ended.wait()
            if self.plan.script is not None and not self._script_ended.is_set():
                world.fail(Violation("the script did not come to its end"))
            if world.violation is None:
                await self._settle()
        finally:
            world.ends.set()
            self._calm = True
            for member in self.members.values():
                self.kill(member)
            await asyncio.gather(*(member.task for member in self.members.values() if member.task), return_exceptions=True)
        if world.violation is not None:
            raise world.violation

    async def _follow(self, script: "Callable[[Fleet], Awaitable[None]]") -> None:
        await script(self)
        self._script_ended.set()

    async def until(self, is_so: Callable[[], Any]) -> None:
        """Wait until something is so."""
        while not is_so():
            self.check()
            assert not self.world.ends.is_set(), "the model ended"
            await asyncio.sleep(0.01)

    def leader(self) -> Member | None:
        """Return the coordinator that has the lease."""
        value = self.world.store.ask("GET", self.world.fleet_keys.lease) or b""
        boot = value.decode().partition(":")[0]
        return next((member for member in self.members.values() if member.boot == boot), None)

    async def _again_and_again(self, kind: str, rate: float) -> None:
        while True:
            await asyncio.sleep(self.world.rng.expovariate(rate))
            if self.world.is_up:
                await self.happen(kind)
                self.check()

    async def happen(self, kind: str) -> None:
        """Let an accident happen."""
        world, rng, store = self.world, self.world.rng, self.world.store
        if kind in DAMAGE:
            world.truth.is_damaged = True
        if kind not in ("kill coordinator", "kill node"):
            world.tell(kind)
        match kind.split():
            case ["kill" | "freeze" as deed, whom]:
                member = rng.choice([member for name, member in self.members.items() if name.startswith(whom)])
                if deed == "kill":
                    self.kill(member)
                else:
                    world.freeze(member, rng.choice((0.5, 2, 5)))
            case ["cut"]:
                await self.forget(1 + rng.randrange(rng.choice((1, 3, 10, 30, 100))))
            case ["wipe"]:
                await self.forget(len(store.journal))
            case ["want"]:
                store.run([("SET", world.keys.want, "1", "EX", "10")])
            case ["verify"]:
                store.run([("SET", world.keys.verify, "1", "EX", "10")])
            case ["alter"]:
                await self.ask("alter", rng.choice((SPEC, WIDER)))
            case ["create"]:
                await self.ask("create", SPEC)
            case ["drop"]:
                await self.ask("drop", None)
            case ["forget", "scripts"]:
                store.ask("SCRIPT", "FLUSH")
            case ["cut", "feeds"]:
                world.cut_feeds()
            case ["delete", "manifest"]:
                store.run([("DEL", world.keys.manifest)])
            case ["delete", "chunk"]:
                found = store.ask("KEYS", f"{world.keys.chunk_prefix.replace('{', '[{]').replace('}', '[}]')}*")
                if found:
                    store.run([("DEL", rng.choice(sorted(found)))])
            case ["trim"]:
                store.run([("XTRIM", world.keys.log, "MAXLEN", rng.choice((0, 1, 3)))])

    async def forget(self, count: int) -> None:
        """Let Redis fall, and come again without its newest writes."""
        world, store = self.world, self.world.store
        keep = max(0, len(store.journal) - count)
        world.tell(f"Redis forgets {len(store.journal) - keep} of {len(store.journal)} writes")
        world.is_up = False
        store.cut(keep)
        world.truth.forgot()
        world.cut_feeds()
        await asyncio.sleep(world.rng.choice((0.01, 0.3, 2)))
        world.is_up = True

    async def ask(self, action: str, spec: Any) -> None:
        """Ask the leader as `parallax tables` does."""
        body = {"action": action, "name": "t", "spec": spec and spec.to_json()}
        with suppress(RedisError):
            await self._operator.xadd(self.world.fleet_keys.requests, {"body": json.dumps(body)})

    def check(self) -> None:
        """Check all that must be at any time."""
        try:
            self.world.truth.check_entries()
            for replicas in self.replicas.values():
                replicas.look()
        except AssertionError as error:
            self.world.fail(error)

    async def _settle(self) -> None:
        """Nothing goes wrong any more: soon nothing waits, and all replicas are where the log ends."""
        world = self.world
        self._calm = True
        world.odds = Odds()
        if self.plan.cut_back is not None:
            await self.forget(self.plan.cut_back)
        world.is_up = True
        world.tell("nothing goes wrong any more")
        for name, member in self.members.items():
            member.thaws_at = 0.0
            if member.is_dead:
                self.start(name)
        began = asyncio.get_running_loop().time()
        asked_at = began
        while not world.ends.is_set() and not self._is_settled():
            self.check()
            now = asyncio.get_running_loop().time()
            if now > began + SETTLE_SECONDS:
                world.fail(Violation(f"not settled within {SETTLE_SECONDS} s: {self._standing()}"))
                return
            if now > asked_at:
                asked_at = now + 20
                await self.ask("create", SPEC)
            await asyncio.sleep(0.25)
        world.tell(f"all is well after {asyncio.get_running_loop().time() - began:.1f} s")
        self.check()

    def _is_settled(self) -> bool:
        truth = self.world.truth
        top = truth.top()
        return (
            top != ORIGIN
            and truth.states[top].spec is not None
            and truth.is_ingested()
            and all(replicas.is_at_the_top() for replicas in self.replicas.values())
        )

    def _standing(self) -> str:
        stands = [
            f"{name} {each.state} at {each.applied} ({each.error})"
            for name, found in self.replicas.items()
            for each in found
        ]
        waiting = self.world.store.ask("XLEN", self.world.keys.ingest)
        return f"top {self.world.truth.top()}, in ingest {waiting}, {', '.join(stands)}"


@contextmanager
def virtual(rng: random.Random, witness: logging.Handler, declared: Sequence[TableSpec]) -> Iterator[None]:
    """Give the fleet's code the model's clock, and chance from the seed."""
    clock: Any = Clock()
    secrets = SimpleNamespace(randbits=rng.getrandbits, token_hex=lambda size: rng.randbytes(size).hex())
    changes: list[tuple[Any, dict[str, Any]]] = [
        (candidate, {"time": clock}),
        (history, {"time": clock, "secrets": secrets}),
        (sequencer, {"time": clock, "random": rng}),
        (replica, {"time": clock, "random": rng, "TICK_SECONDS": 0.4}),
        (lease, {"secrets": secrets}),
        (chunks, {"secrets": secrets}),
        (leadership, {"read_tables_file": lambda path: list(declared)}),
    ]
    patches = [
        patch.multiple(module, **{key: value for key, value in values.items() if hasattr(module, key)})
        for module, values in changes
    ]
    for each in patches:
        each.start()
    logging.getLogger("parallax.tasks").addHandler(witness)
    try:
        yield
    finally:
        logging.getLogger("parallax.tasks").removeHandler(witness)
        for each in patches:
            each.stop()


class Witness(logging.Handler):
    """Takes a task of the fleet's that ended by what nobody foresaw for a violation."""

    def __init__(self, worlds: list[World]) -> None:
        super().__init__(logging.ERROR)
        self._worlds = worlds

    def emit(self, record: logging.LogRecord) -> None:
        """Note it."""
        if not self._worlds[0].ends.is_set():
            self._worlds[0].fail(Violation(record.getMessage()))


def run(store: Store, seed: int | str, plan: Plan | Callable[[random.Random], Plan] = draw) -> World:
    """Play the schedule of a seed.

    Raises:
        Violation: what must never be was; the story is in its notes.
    """
    rng = random.Random(f"model {seed}")
    drawn = plan(rng) if callable(plan) else plan
    store.empty()
    worlds: list[World] = []

    async def play() -> None:
        worlds.append(World(store, rng, drawn.odds))
        await Fleet(worlds[0], drawn).run()

    with virtual(rng, Witness(worlds), drawn.declared), asyncio.Runner(loop_factory=VirtualLoop) as runner:
        try:
            runner.run(play())
        except BaseException as error:
            error.add_note(f"seed {seed!r}, {drawn}")
            error.add_note("\n".join(worlds[0].story[-60:]) if worlds else "")
            raise
    return worlds[0]

"""What can go wrong between a member of the fleet and Redis, drawn from a seed: for `tests/model.py`."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from redis import exceptions
from redis.asyncio import Redis

from parallax.replica.feed import Inbox
from parallax.replication.keys import FleetKeys, TableKeys
from parallax.replication.record import Heartbeat
from tests.model_redis import Command, Store
from tests.model_truth import Truth

EPOCH = 1_700_000_000.0


@dataclass(frozen=True, slots=True)
class Odds:
    """How likely is what, for each call to Redis or message of the feed."""

    refused: float = 0.0  # the call fails and is never done
    lost: float = 0.0  # it is done and its answer is lost
    late: float = 0.0  # it fails, and is done later, whatever happened meanwhile
    slow: float = 0.0
    die: float = 0.0  # its caller dies with it, done or not
    freeze: float = 0.0  # its caller stands still, before or behind it
    lapsed: float = 0.0  # a chunk that it wrote a while ago, and that nothing refers to yet, is gone by then
    dropped: float = 0.0  # messages
    doubled: float = 0.0
    delayed: float = 0.0


class Member:
    """One process, as its surroundings see it."""

    def __init__(self, name: str, boot: str, skew_seconds: float) -> None:
        self.name = name
        self.boot = boot
        self.skew_seconds = skew_seconds
        """How wrong its clock is; that which only counts seconds is right."""
        self.is_dead = False
        self.calls = 0
        self.dies_at: int | None = None
        """The number of the call to Redis behind which it dies."""
        self.before_call: dict[int, Callable[[], Awaitable[None]]] = {}
        """By the number of a call to Redis: what happens just before it is done."""
        self.thaws_at = 0.0
        self.task: asyncio.Task[None] | None = None
        self.look: Callable[[], None] = lambda: None
        """Checks what it holds."""


MEMBER: ContextVar[Member] = ContextVar("member")


class Clock:
    """In place of the module `time`, in the code of the fleet."""

    def monotonic(self) -> float:
        """Return the seconds of the model."""
        return asyncio.get_running_loop().time()

    def time(self) -> float:
        """Return what this member takes for the time."""
        return EPOCH + self.monotonic() + MEMBER.get().skew_seconds


class World:
    """Redis, and the ways there."""

    def __init__(self, store: Store, rng: random.Random, odds: Odds) -> None:
        self.store = store
        self.rng = rng
        self.odds = odds
        self.keys = TableKeys("parallax", "t")
        self.fleet_keys = FleetKeys("parallax")
        self.truth = Truth(store, self.keys)
        self.kill: Callable[[Member], None] = lambda member: None
        self.is_up = True
        self.violation: BaseException | None = None
        self.news = asyncio.Event()
        """Set, and replaced, when something was written to ingest."""
        self.ends = asyncio.Event()
        self.deaf: set[str] = set()
        """Names of members that the feed does not reach."""
        self.story: list[str] = []
        self._inboxes: dict[bytes, list[tuple[Member, Inbox]]] = {}
        self._loop = asyncio.get_running_loop()

    def tell(self, what: str) -> None:
        """Note what happened, for the one who has to understand it."""
        self.story.append(f"{self._loop.time() - 1000:7.3f} {what}")

    # Calls -----------------------------------------------------------------------------------------------------------

    async def call(self, member: Member, commands: Sequence[Command]) -> list[Any]:
        """Bring commands to Redis, as one transaction, and the answers back."""
        if member.is_dead:
            raise exceptions.ConnectionError("dead")
        member.look()
        member.calls += 1
        rng, odds = self.rng, self.odds
        kinds = ("refused", "lost", "late", "slow", "die", "freeze")
        weights = [getattr(odds, kind) for kind in kinds]
        fate = rng.choices([*kinds, ""], [*weights, max(0.0, 1 - sum(weights))])[0]
        is_behind = rng.random() < 0.5
        if member.task is None and fate in ("die", "freeze"):
            fate = ""  # a publisher
        if member.calls == member.dies_at:
            fate, is_behind = "die", True
        await asyncio.sleep(rng.uniform(0.5, 3) if fate == "slow" else rng.uniform(0.0002, 0.003))
        if fate == "freeze" and not is_behind:
            self.freeze(member, rng.uniform(0.3, 6))
        await self.thawed(member)
        if fate == "refused" or not self.is_up:
            raise exceptions.ConnectionError("refused")
        if fate == "late":
            self._loop.call_later(rng.choice((0.1, 0.5, 1, 2, 5)) * rng.random(), self._do_late, member, commands)
            await asyncio.sleep(0.4)
            raise exceptions.TimeoutError("late")
        if fate == "die" and not is_behind:
            await self._die(member)
        if member.calls in member.before_call:
            await member.before_call.pop(member.calls)()
        answers = self._do(commands)
        if fate == "die":
            await self._die(member)
        if fate == "freeze":
            self.freeze(member, rng.uniform(0.3, 6))
        await self.thawed(member)
        if fate == "lost":
            await asyncio.sleep(0.4)
            raise exceptions.TimeoutError("lost")
        return answers

    def freeze(self, member: Member, seconds: float) -> None:
        """Let a member stand still."""
        self.tell(f"{member.name} stands still for {seconds:.1f} s")
        member.thaws_at = self._loop.time() + seconds

    async def thawed(self, member: Member) -> None:
        """Wait while a member stands still."""
        while (wait := member.thaws_at - self._loop.time()) > 0:  # noqa: ASYNC110 - it may be made longer meanwhile
            await asyncio.sleep(wait)

    async def _die(self, member: Member) -> None:
        self._loop.call_soon(self.kill, member)
        await asyncio.Event().wait()

    def _do_late(self, member: Member, commands: Sequence[Command]) -> None:
        if self.is_up and not self.ends.is_set():
            self.tell(f"late, of {member.name}: {str(commands[0][:2])[:80]}")
            with suppress(exceptions.ResponseError):
                self._do(commands)

    def _do(self, commands: Sequence[Command]) -> list[Any]:
        if self.rng.random() < self.odds.lapsed:
            self._lapse(commands)
        answers, published = self.store.run(commands)
        try:
            for command, answer in zip(commands, answers, strict=True):
                self.truth.ran(command, answer)
            for channel, message in published:
                if not message.startswith(Heartbeat.PREFIX):
                    self.truth.appended(message)
                self._publish(channel, message)
            if commands[0][0] in ("EVALSHA", "EVAL") and self.keys.manifest in commands[0]:
                self.truth.look_at_manifest()
        except BaseException as error:
            self.fail(error)
            raise
        if any(command[0] == "XADD" for command in commands):
            self.news.set()
            self.news = asyncio.Event()
        return answers

    def _lapse(self, commands: Sequence[Command]) -> None:
        for name in (each for command in commands if command[0] in ("EVALSHA", "EVAL") for each in command[2:]):
            if isinstance(name, str) and name.startswith(self.keys.chunk_prefix) and self.store.ask("TTL", name) > 0:
                self.tell(f"{name} lapses")
                self.store.run([("DEL", name)])

    def fail(self, error: BaseException) -> None:
        """End the model: what must never be was."""
        if self.violation is None:
            self.violation = error
            self.ends.set()

    # The feed --------------------------------------------------------------------------------------------------------

    def listen(self, member: Member, channel: str, inbox: Inbox) -> None:
        """Let an inbox have what is published from now on, after it heard so."""
        self._inboxes.setdefault(channel.encode(), []).append((member, inbox))
        inbox.put(None)

    def unlisten(self, inbox: Inbox) -> None:
        """Let an inbox have no more."""
        for channel, pairs in self._inboxes.items():
            self._inboxes[channel] = [pair for pair in pairs if pair[1] is not inbox]

    def cut_feeds(self) -> None:
        """Let all subscriptions be lost, and made again."""
        for pairs in self._inboxes.values():
            for pair in list(pairs):
                pairs.remove(pair)
                self._loop.call_later(self.rng.uniform(0.05, 2), self._listen_again, pairs, pair)

    def _listen_again(self, pairs: list[tuple[Member, Inbox]], pair: tuple[Member, Inbox]) -> None:
        if not pair[0].is_dead:
            pairs.append(pair)
            pair[1].put(None)

    def _publish(self, channel: bytes, message: bytes) -> None:
        rng, odds = self.rng, self.odds
        for member, inbox in self._inboxes.get(channel, ()):
            if rng.random() < odds.dropped or member.name in self.deaf:
                continue
            delay = max(rng.uniform(0.0001, 0.002), member.thaws_at - self._loop.time())
            if rng.random() < odds.delayed:
                delay += rng.uniform(0, 2)
            self._loop.call_later(delay, inbox.put, message)
            if rng.random() < odds.doubled:
                self._loop.call_later(delay + rng.uniform(0, 1), inbox.put, message)


class Link(Redis):
    """A member's client for Redis, all of whose commands go through the world."""

    def __init__(self, world: World, member: Member) -> None:
        self._world, self._member = world, member

    def __del__(self, *_: Any) -> None:
        """Nothing to close."""

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Run one command."""
        if args[0] == "XREAD" and b"BLOCK" in args:
            return await self._wait_for_entries(args)
        (answer,) = await self._world.call(self._member, [args])
        options.pop("keys", None)
        callback = self._world.store.callbacks.get(args[0])
        return callback(answer, **options) if callback else answer

    async def _wait_for_entries(self, args: tuple[Any, ...]) -> Any:
        at = args.index(b"BLOCK")
        seconds, args = int(args[at + 1]) / 1000, (*args[:at], *args[at + 2 :])
        found = await self.execute_command(*args)
        if not found:
            news = self._world.news
            try:
                async with asyncio.timeout(seconds):
                    await news.wait()
            except TimeoutError:
                return found
            found = await self.execute_command(*args)
        return found

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Any:
        """Gather commands that are one call."""
        return Transaction(self._world, self._member)


class Transaction(Redis):
    """Commands that go to Redis together."""

    def __init__(self, world: World, member: Member) -> None:
        self._world, self._member = world, member
        self._queued: list[Command] = []

    def __del__(self, *_: Any) -> None:
        """Nothing to close."""

    async def __aenter__(self) -> "Transaction":
        return self

    async def __aexit__(self, *_: Any) -> None:
        self._queued.clear()

    def execute_command(self, *args: Any, **options: Any) -> "Transaction":  # type: ignore[override]
        """Note a command."""
        self._queued.append(args)
        return self

    async def execute(self) -> list[Any]:
        """Run what was gathered."""
        return await self._world.call(self._member, list(self._queued))


class Feed:
    """In place of `parallax.replica.feed.Feed`: the subscriptions of one member."""

    def __init__(self, world: World, member: Member) -> None:
        self._world, self._member = world, member
        self._inboxes: dict[str, Inbox] = {}

    async def add(self, channel: str, *, is_sharded: bool = True) -> Inbox:
        """Subscribe to a channel."""
        inbox = self._inboxes[channel] = Inbox()
        self._world.listen(self._member, channel, inbox)
        return inbox

    async def remove(self, channel: str) -> None:
        """Give up a channel."""
        if channel in self._inboxes:
            self._world.unlisten(self._inboxes.pop(channel))

    def resubscribe(self, channel: str | None = None) -> None:
        """Subscribe afresh."""
        for name, inbox in self._inboxes.items():
            self._world.unlisten(inbox)
            self._world.listen(self._member, name, inbox)

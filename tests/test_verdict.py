"""The decision after a verify, for any set of reports; and what a process makes of a row of decisions."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from coordinator.leadership import Leadership
from coordinator.lease import Lease
from coordinator.settings import CoordinatorSettings
from parallax.demo.ports import choose_ports
from parallax.registry import Announcer
from parallax.replica import healing
from parallax.replica.healing import Healing
from parallax.replication.keys import FleetKeys, TableKeys
from parallax.replication.position import ORIGIN, Position
from parallax.replication.verdict import Digest, Verdict, judge
from parallax.tasks import Tasks
from tests.processes import RedisServer, until

HERE = Position(7, 9)
KEYS = FleetKeys("p")

values = st.sampled_from("abcd")
elsewhere = st.builds(
    Digest, st.sampled_from([HERE, Position(7, 8), Position(8, 9)]), st.sampled_from(["spec", "other"]), values
).filter(lambda digest: (digest.position, digest.spec) != (HERE, "spec"))


def reports(texts: list[str]) -> list[Digest]:
    return [Digest(HERE, "spec", text) for text in texts]


def verdicts(texts: list[str], noise: list[Digest]) -> list[Verdict]:
    """Return what each of them concludes from what the others reported."""
    found = reports(texts)
    return [judge(own, [*noise, *found[:number], *found[number + 1 :]]) for number, own in enumerate(found)]


@given(st.lists(values, min_size=1, max_size=9), st.lists(elsewhere, max_size=5))
def test_all_conclude_the_same_whatever_was_reported_elsewhere(texts: list[str], noise: list[Digest]) -> None:
    found = verdicts(texts, noise)
    value, most = Counter(texts).most_common(1)[0]
    if most == len(texts):
        assert set(found) == {Verdict.EQUAL}
    elif 2 * most > len(texts):
        expected = {True: Verdict.ELSEWHERE, False: Verdict.MINORITY}
        assert found == [expected[text == value] for text in texts]
    else:
        assert set(found) == {Verdict.TIE}


@given(st.lists(values, min_size=1, max_size=9), st.randoms())
def test_the_order_of_reports_does_not_count(texts: list[str], random: Any) -> None:
    own, *others = reports(texts)
    shuffled = random.sample(others, len(others))
    assert judge(own, others) == judge(own, shuffled)


@given(st.lists(values, min_size=1, max_size=9))
def test_those_who_start_again_are_fewer_than_half_or_all(texts: list[str]) -> None:
    found = verdicts(texts, [])
    wrong = sum(verdict in (Verdict.MINORITY, Verdict.TIE) for verdict in found)
    assert 2 * wrong < len(texts) or wrong == len(texts)
    assert (wrong == 0) == (len(set(texts)) == 1)


@pytest.mark.parametrize("values", [None, {}, {"position": "x", "spec": "", "value": ""}, {"position": "1-2"}, "text"])
def test_what_is_no_digest_is_none(values: Any) -> None:
    assert Digest.from_json(values) is None


def test_a_digest_comes_back_from_json() -> None:
    assert Digest.from_json(Digest(HERE, "s", "v").to_json()) == Digest(HERE, "s", "v")


@dataclass
class Replica:
    """As much of a replica as `Healing` sees."""

    keys: TableKeys = field(default_factory=lambda: TableKeys("p", "t"))
    digest: Digest | None = None
    applied: Position = HERE
    loaded: Position = ORIGIN
    verdict: Verdict | None = None
    verdicts: Counter[Verdict] = field(default_factory=Counter)
    healed: list[Position] = field(default_factory=list)

    def heal(self, since: Position) -> None:
        self.healed.append(since)


class Fleet:
    """One process that compares, among others that only report."""

    def __init__(self, redis: Any) -> None:
        self.redis = redis
        self.replica = Replica()
        self.is_leader = False
        self.healing = Healing(redis, KEYS, "me.1", [self.replica], lambda: self.is_leader)  # type: ignore[list-item]

    async def report(self, *members: tuple[str, Position, str | None]) -> None:
        for name, position, value in members:
            told = None if value is None else Digest(position, "spec", value).to_json()
            table = {"digest": told, "position": str(position)}
            member = {"kind": name.partition("-")[0], "id": name, "boot": name, "tables": {"t": table}}
            await Announcer(self.redis, KEYS, name, lambda member=member: member).announce()  # type: ignore[misc]

    async def look(self, offset: int, own: str, *others: tuple[str, str]) -> None:
        position = Position(7, offset)
        await self.report(*[(name, position, value) for name, value in others])
        self.replica.digest = Digest(position, "spec", own)
        await self.healing.look()


@pytest.fixture
async def fleet(tmp_path: Path) -> Any:
    server = RedisServer(tmp_path, choose_ports({"redis": 0})["redis"])
    try:
        server.start()
        await server.ready()
        async with Redis(port=server.port) as redis:
            yield Fleet(redis)
    finally:
        server.destroy()


async def test_who_is_in_the_minority_heals_once_for_each_verify(fleet: Fleet) -> None:
    for _ in range(3):
        await fleet.look(9, "wrong", ("node-1", "right"), ("node-2", "right"))
    assert fleet.replica.healed == [HERE]
    await fleet.look(10, "wrong", ("node-1", "right"), ("node-2", "right"))
    assert fleet.replica.healed == [HERE, Position(7, 10)]
    assert fleet.replica.verdicts == {Verdict.MINORITY: 2}


async def test_who_has_started_again_does_not_do_so_for_a_digest_of_before(fleet: Fleet) -> None:
    fleet.replica.loaded = HERE
    await fleet.look(9, "wrong", ("node-1", "right"), ("node-2", "right"))
    assert (fleet.replica.verdict, fleet.replica.healed) == (Verdict.MINORITY, [])
    await fleet.look(10, "wrong", ("node-1", "right"), ("node-2", "right"))
    assert fleet.replica.healed == [Position(7, 10)]


async def test_a_leader_waits_for_his_successors_snapshot_if_there_can_be_one(fleet: Fleet) -> None:
    fleet.is_leader = True
    await fleet.look(9, "wrong", ("node-1", "right"), ("node-2", "right"))
    await fleet.look(10, "wrong", ("coordinator-2", "right"), ("node-1", "right"), ("node-2", "right"))
    assert fleet.replica.healed == [ORIGIN, Position(8, 0)]


async def test_a_tie_that_stays_makes_nobody_start_again_twice(fleet: Fleet) -> None:
    for offset in range(9, 14):
        await fleet.look(offset, "mine", ("node-1", "his"))
    assert fleet.replica.healed == [ORIGIN]
    assert fleet.replica.verdicts == {Verdict.TIE: 5}
    await fleet.look(14, "same", ("node-1", "same"))
    await fleet.look(15, "mine", ("node-1", "his"))
    assert fleet.replica.healed == [ORIGIN, ORIGIN]


async def test_nothing_is_decided_before_all_have_reported(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Position(7, 8)
    await fleet.report(("node-2", before, "old"), ("node-3", ORIGIN, None))
    await fleet.look(9, "wrong", ("node-1", "right"))
    assert fleet.replica.verdict is None, "node-2 may still report"
    await fleet.look(9, "wrong", ("node-2", "right"))
    assert fleet.replica.verdict is Verdict.MINORITY, "node-3 holds nothing"
    await fleet.report(("node-2", before, "old"))
    await fleet.look(10, "fine", ("node-1", "fine"))
    assert fleet.replica.verdict is Verdict.MINORITY
    monkeypatch.setattr(healing, "REPORT_SECONDS", 0.0)
    await fleet.healing.look()
    assert fleet.replica.verdict is Verdict.EQUAL, "who stays silent is not waited for"


class Replicas:
    """As much of a process's replicas as a candidate sees."""

    def __init__(self) -> None:
        self.heals = True
        self.asked = 0

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    @property
    def is_healing(self) -> bool:
        self.asked += 1
        return self.heals


async def test_who_is_being_healed_does_not_take_the_lease(fleet: Fleet) -> None:
    lease, replicas = Lease(fleet.redis, "lease", "me", 0.5), Replicas()
    leadership = Leadership(fleet.redis, lease, replicas, CoordinatorSettings())  # type: ignore[arg-type]
    async with Tasks() as tasks:
        tasks.start(leadership.run(), name="leadership")

        async def was_asked() -> bool:
            return replicas.asked > 3

        async def leads() -> bool:
            return leadership.is_leader

        await until(was_asked, 10, "it looked for the lease")
        assert not await fleet.redis.exists("lease")
        replicas.heals = False
        await until(leads, 10, "it leads")

"""The follower over a channel that drops, doubles, reorders and delays, and a log that trims, forks, vanishes and comes back.

Safety, after every step: what the replica holds is exactly the state at its position. Liveness: once the faults stop, one
heartbeat brings it to the top.
"""

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parallax.replication import events as e
from parallax.replication import follower as f
from parallax.replication.position import ORIGIN, Position, new_term
from parallax.replication.record import Op, Record
from parallax.replication.snapshot import Manifest
from parallax.replication.spec import TableSpec

SPEC = TableSpec.declare("t", {"schema": {"id": "string"}, "index": "id"})
Content = tuple[int, ...]  # a state, as the history of payload numbers that made it


@dataclass
class Store:
    """Redis, and the one true leader: a log, a manifest, and what each position stands for in any history."""

    rng: random.Random
    log: list[Record] = field(default_factory=list)
    last: Position | None = None  # last-generated ID; survives trimming
    manifest: tuple[Manifest, Content] | None = None
    chunks_gone: bool = False
    truth: dict[Position, Content] = field(default_factory=lambda: {ORIGIN: ()})
    term: int = 0
    number: int = 0
    sent: list[e.Event] = field(default_factory=list)  # what was published since it was last looked at

    def append(self, op: Op = Op.UPDATE, *, prev: Position | None = None, content: Content | None = None) -> Record:
        top = self.last or ORIGIN
        before = top if prev is None else prev
        if self.term == 0 or op is Op.BEGIN:
            op = Op.BEGIN
            self.term = new_term(self.rng.randrange(1 << 20), max(self.term, top.term), self.rng.getrandbits(20))
        position = Position(self.term, before.offset + 1)
        self.number += 1
        told = None if content is not None else before
        record = Record(op, position, told, str(self.number).encode(), spec=SPEC if op is Op.BEGIN else None)
        self.log.append(record)
        self.last = position
        assert position not in self.truth, "a position never stands for two contents"
        self.truth[position] = (*(self.truth[before] if content is None else content), self.number)
        self.sent.append(e.RecordArrived(record))
        return record

    def snapshot(self) -> None:
        if self.last is not None and self.log:
            # Of the leader's present history: what was before a begin without prev, whose call set a manifest, it is past.
            begun = max((at for at, record in enumerate(self.log) if record.prev in (None, ORIGIN)), default=0)
            position = self.rng.choice(self.log[begun:]).position
            if self.manifest and self.holds(self.manifest[0].position) and position < self.manifest[0].position:
                return  # refused: the present one is newer on this log
            self.manifest = (Manifest(position, SPEC, "s", 1, 1, 1, "", ()), self.truth[position])
            self.chunks_gone = False

    def trim(self, to: int) -> None:
        self.log = self.log[to:]

    def lose_tail(self, count: int) -> None:
        """A failover: the newest records are gone, and the leader goes back and on from there in a new term."""
        if 0 < count < len(self.log):
            self.log = self.log[:-count]
            self.last = self.log[-1].position
            if self.manifest and not self.holds(self.manifest[0].position):
                self.manifest = None
            self.append(Op.BEGIN)

    def wipe(self, held: Position) -> None:
        """Redis lost everything; a leader that stands at `held` gives its state back, or there is none yet."""
        self.log, self.last, self.manifest = [], None, None
        if held == ORIGIN:
            return
        record = self.append(Op.BEGIN, prev=held)
        self.manifest = (Manifest(record.position, SPEC, "s", 1, 1, 1, "", ()), self.truth[record.position])
        self.chunks_gone = False

    def alter(self) -> None:
        """Another schema: a `begin` without prev, and in the same call the manifest of the converted state."""
        record = self.append(Op.BEGIN, content=(-self.number,))
        self.manifest = (Manifest(record.position, SPEC, "s", 1, 1, 1, "", ()), self.truth[record.position])
        self.chunks_gone = False

    def holds(self, position: Position) -> bool:
        return position == self.last or any(record.position == position for record in self.log)

    def has_usable_snapshot(self) -> bool:
        return self.manifest is not None and not self.chunks_gone and self.holds(self.manifest[0].position)

    def page(self, start: Position, size: int) -> e.PageRead:
        # Redis orders IDs by number; that is all that is used of their size, and only inside one log.
        records = [record for record in self.log if record.position >= start][: max(2, size)]
        return e.PageRead(records, self.last)

    def beat(self) -> e.BeatArrived:
        return e.BeatArrived(self.last or ORIGIN)


class Machine:
    """A replica: the follower, and a shell without IO whose `content` stands for the engine."""

    def __init__(self, store: Store, follower: f.Follower | None = None) -> None:
        self.store = store
        self.follower = follower or f.Follower()
        self.content: Content = ()
        self.now = 0.0
        self.questions: list[e.Command] = []
        self.wants = 0
        self.resubscribed = 0

    def feed(self, event: e.Event, luck: float = 0.5) -> None:
        commands = self.follower.handle(event, now=self.now, luck=luck)
        self.follower.validate()
        for command in commands:
            match command:
                case e.Apply(record):
                    if record.prev == ORIGIN:
                        self.content = ()
                    self.content = (*self.content, int(record.payload))
                case e.SetWant():
                    self.wants += 1
                case e.Resubscribe():
                    self.resubscribed += 1
                case question:
                    self.questions.append(question)
        assert len(self.questions) <= 1, "one question at a time"
        if self.follower.position != ORIGIN:
            assert self.content == self.store.truth[self.follower.position], "the state is the one at the position"

    def go_back(self, records: int, *, is_gone: bool) -> None:
        """As if the last so many records that the follower gave to apply were not applied."""
        held = next(
            (position for position, content in self.store.truth.items() if content == self.content[:-records]), ORIGIN
        )
        if held != ORIGIN:
            self.content = self.store.truth[held]
            self.feed(e.PayloadMissing(held, is_gone))

    def answer(self, *, page_size: int = 3, fail: bool = False) -> None:
        if not self.questions:
            return
        question = self.questions.pop()
        if fail:
            self.feed(e.ReadFailed())
            return
        match question:
            case e.ReadLog(start):
                self.feed(self.store.page(start, page_size))
            case e.ReadManifest():
                manifest = self.store.manifest
                held = manifest is not None and self.store.holds(manifest[0].position)
                self.feed(e.ManifestRead(manifest[0] if manifest else None, held))
            case e.LoadSnapshot(manifest):
                present = self.store.manifest
                if self.store.chunks_gone or present is None or present[0] != manifest:
                    self.feed(e.SnapshotFailed(is_intact=True))
                else:
                    self.content = present[1]
                    self.feed(e.SnapshotLoaded(manifest.position))

    def settle(self) -> None:
        """No more faults: answers come, time passes, the leader answers `want`, and one beat a second arrives."""
        for _ in range(200):
            for _ in range(1000):
                self.answer(page_size=4)
            assert not self.questions, "it asks and asks"
            if self.follower.state is f.State.LIVE and self.follower.position == self.store.last:
                return
            if self.wants and self.store.last is not None and not self.store.has_usable_snapshot():
                # The leader's own replica follows the same rule, so a snapshot that leads to the top has to be enough.
                self.wants = 0
                top = self.store.last
                self.store.manifest = (Manifest(top, SPEC, "s", 1, 1, 1, "", ()), self.store.truth[top])
                self.store.chunks_gone = False
            self.now += 1.0
            self.feed(self.store.beat())
            self.feed(e.Ticked())
        raise AssertionError(
            f"never came to the top: {self.follower.state} at {self.follower.position}, top {self.store.last}"
        )


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "append", "append", "append", "begin", "deliver", "deliver", "drop", "double", "reorder", "beat", "answer",
                "answer", "fail", "tick", "subscribe", "snapshot", "trim", "lose_tail", "wipe", "wipe_behind", "lose_chunks",
                "alter", "apply_fails", "diverge", "payload_missing", "payload_gone",
            ]
        ),
        st.integers(0, 2**16),
    ),
    min_size=20,
    max_size=120,
)  # fmt: skip


def play(steps: list[tuple[str, int]], follower: f.Follower | None = None) -> Machine:
    store = Store(random.Random(7))
    machine = Machine(store, follower)
    store.append(Op.BEGIN)
    channel: list[e.Event] = []
    for step, number in steps:
        channel += store.sent
        store.sent.clear()
        match step:
            case "append" | "begin":
                store.append(Op.BEGIN if step == "begin" or store.last is None else Op.UPDATE)
            case "deliver" if channel:
                machine.feed(channel.pop(0))
            case "drop" if channel:
                channel.pop(number % len(channel))
            case "double" if channel:
                channel.insert(number % (len(channel) + 1), channel[number % len(channel)])
            case "reorder" if len(channel) > 1:
                channel.insert(number % len(channel), channel.pop())
            case "beat":
                channel.append(store.beat())
            case "answer":
                machine.answer(page_size=number % 5)
            case "fail":
                machine.answer(fail=True)
            case "tick":
                machine.now += number % 5
                machine.feed(e.Ticked())
            case "subscribe":
                machine.feed(e.Subscribed())
            case "alter" if store.last is not None:
                store.alter()
            case "snapshot":
                store.snapshot()
            case "trim":
                store.trim(number % (len(store.log) + 1))
            case "lose_tail":
                store.lose_tail(number % 6)
            case "wipe":
                store.wipe(machine.follower.position)
            case "wipe_behind":
                store.wipe(random.Random(number).choice(sorted(store.truth)))
            case "lose_chunks":
                store.chunks_gone = True
            case "apply_fails":
                machine.content = (-1,)
                machine.feed(e.ApplyFailed())
            case "payload_missing" | "payload_gone" if number % 4 and not machine.follower.is_empty:
                machine.go_back(number % 4, is_gone=step == "payload_gone")
            case "diverge" if not machine.follower.is_empty:
                held = machine.follower.position
                machine.feed(e.DivergenceFound([ORIGIN, held, Position(held.term + 1, 0)][number % 3]))
    if store.last is None:
        store.append(Op.BEGIN)
    machine.settle()
    return machine


@pytest.mark.deep
@pytest.mark.timeout(900)
@settings(max_examples=20_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(STEPS)
def test_the_same_for_long(steps: list[tuple[str, int]]) -> None:
    assert play(steps).follower.state is f.State.LIVE


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(STEPS)
def test_the_state_is_the_one_at_the_position_and_faults_are_survived(steps: list[tuple[str, int]]) -> None:
    machine = play(steps)
    assert machine.follower.state is f.State.LIVE
    assert machine.content == machine.store.truth[machine.store.last or ORIGIN]


def live(store: Store) -> Machine:
    machine = Machine(store)
    machine.feed(e.Subscribed())
    machine.settle()
    return machine


@pytest.fixture
def store() -> Store:
    store = Store(random.Random(1))
    for _ in range(5):
        store.append()
    store.sent.clear()
    return store


def test_a_new_replica_reads_a_log_that_begins_at_the_origin(store: Store) -> None:
    machine = live(store)
    assert machine.follower.position == store.last
    assert machine.follower.resyncs == 0


def test_a_live_replica_follows_the_feed_without_asking(store: Store) -> None:
    machine = live(store)
    machine.feed(e.RecordArrived(store.append()))
    assert machine.follower.state is f.State.LIVE
    assert machine.questions == []


def test_a_lost_message_shows_as_a_gap_and_is_read_from_the_log(store: Store) -> None:
    machine = live(store)
    store.append()
    machine.feed(e.RecordArrived(store.append()))
    assert machine.follower.state is f.State.RECOVERING
    assert machine.questions == [e.ReadLog(machine.follower.position)]
    machine.settle()
    assert machine.follower.resyncs == 0


def test_a_lost_last_message_is_noticed_at_the_next_heartbeat(store: Store) -> None:
    machine = live(store)
    store.append()
    machine.feed(store.beat())
    assert machine.questions == [e.ReadLog(machine.follower.position)]


def test_a_doubled_message_costs_nothing(store: Store) -> None:
    machine = live(store)
    record = store.append()
    machine.feed(e.RecordArrived(record))
    machine.feed(e.RecordArrived(record))
    assert machine.questions == []


def test_silence_makes_it_ask_and_subscribe_afresh_less_and_less_often(store: Store) -> None:
    machine = live(store)
    asked = []
    for _ in range(1200):
        machine.now += 0.1
        before = machine.resubscribed
        machine.feed(e.Ticked())
        machine.answer()
        if machine.resubscribed > before:
            asked.append(machine.now)
    assert f.SILENT_BEATS - 1 < asked[0] < f.SILENT_BEATS + 1.5
    assert 3 <= len(asked) <= 8


def test_a_lower_top_than_our_own_is_a_reason_to_ask(store: Store) -> None:
    machine = live(store)
    store.snapshot()
    store.lose_tail(2)
    store.sent.clear()
    machine.feed(store.beat())
    machine.settle()
    assert machine.follower.resyncs == 1


def test_an_empty_log_changes_nothing(store: Store) -> None:
    machine = live(store)
    position = machine.follower.position
    store.wipe(ORIGIN)
    machine.feed(store.beat())
    machine.feed(e.Subscribed())
    machine.answer()
    assert machine.follower.position == position
    assert machine.content == store.truth[position]


def test_a_replica_exactly_at_the_state_given_back_goes_on_without_a_resync(store: Store) -> None:
    machine = live(store)
    store.wipe(machine.follower.position)
    machine.feed(store.sent.pop())
    assert machine.follower.position == store.last
    assert machine.questions == []


def test_an_empty_replica_asks_for_a_snapshot_when_the_log_was_trimmed(store: Store) -> None:
    store.trim(3)
    machine = Machine(store)
    machine.feed(e.Subscribed())
    machine.answer()
    machine.answer()
    assert machine.wants == 1
    machine.settle()
    assert machine.follower.resyncs == 1


def test_a_refused_record_leads_to_a_resync_and_three_in_a_row_to_failed(store: Store) -> None:
    machine = live(store)
    for _ in range(f.FAILURES):
        machine.content = (-1,)
        machine.feed(e.ApplyFailed())
    assert machine.follower.state is f.State.FAILED
    machine.settle()
    assert machine.follower.state is f.State.LIVE


def test_a_log_trimmed_to_nothing_still_holds_its_last_position(store: Store) -> None:
    machine = live(store)
    store.trim(len(store.log))
    machine.feed(e.Subscribed())
    machine.answer()
    assert machine.follower.state is f.State.LIVE
    assert machine.follower.resyncs == 0


def test_a_beat_with_a_lower_top_than_our_position_makes_it_ask(store: Store) -> None:
    machine = live(store)
    machine.feed(e.BeatArrived(Position(1, 1)))
    assert machine.follower.state is f.State.RECOVERING
    assert machine.questions == [e.ReadLog(machine.follower.position)]


def test_a_snapshot_that_the_log_does_not_hold_is_not_for_one_who_holds_something(store: Store) -> None:
    machine = live(store)
    before = machine.content
    other = Position(5, 500)
    store.truth[other] = (500,)
    store.manifest = (Manifest(other, SPEC, "s", 1, 1, 1, "", ()), (500,))
    store.trim(len(store.log))
    store.last = Position(99, 99)
    machine.feed(store.beat())
    machine.answer()
    machine.answer()
    assert machine.questions == []
    assert machine.content == before
    assert machine.wants == 1
    empty = Machine(store)
    empty.feed(e.Subscribed())
    empty.answer()
    empty.answer()
    assert empty.content == (500,), "one who holds nothing takes what there is"


def test_another_history_within_a_page_is_not_applied(store: Store) -> None:
    machine = live(store)
    store.append()
    store.alter()
    store.append()
    machine.feed(store.beat())
    machine.answer(page_size=10)
    assert machine.questions == [e.ReadManifest()]
    machine.settle()
    assert machine.follower.resyncs == 1


def test_a_payload_that_cannot_be_read_takes_it_back_to_what_it_holds(store: Store) -> None:
    machine = live(store)
    held, content = machine.follower.position, machine.content
    for _ in range(2):
        machine.feed(e.RecordArrived(store.append()))
    machine.content = content
    machine.feed(e.PayloadMissing(held, is_gone=False))
    assert machine.follower.position == held
    machine.settle()
    assert machine.follower.resyncs == 0
    machine.feed(e.RecordArrived(store.append()))
    machine.go_back(1, is_gone=True)
    machine.settle()
    assert machine.follower.resyncs == 1, "gone for good: only a snapshot leads on"


def test_late_messages_after_a_snapshot_are_not_taken_for_what_is_held(store: Store) -> None:
    machine = live(store)
    old = store.log[-1]
    store.manifest = (Manifest(store.log[1].position, SPEC, "s", 1, 1, 1, "", ()), store.truth[store.log[1].position])
    store.chunks_gone = False
    machine.feed(e.DivergenceFound())
    machine.answer()
    machine.answer()
    assert machine.follower.position == store.log[1].position
    machine.questions.clear()
    machine.follower._question = None  # the page is lost; only the feed goes on
    machine.feed(e.RecordArrived(old))
    assert machine.questions, "a record beyond what is held now is news"


def test_a_log_that_went_back_behind_us_is_followed_from_a_snapshot_that_we_had_passed(store: Store) -> None:
    machine = live(store)
    position = store.log[1].position
    store.manifest = (Manifest(position, SPEC, "s", 1, 1, 1, "", ()), store.truth[position])
    store.chunks_gone = False
    store.lose_tail(2)
    machine.settle()
    assert machine.follower.position == store.last
    assert machine.follower.resyncs == 1


def test_a_snapshot_that_was_passed_already_is_not_loaded_again_and_again(store: Store) -> None:
    machine = live(store)
    store.alter()
    store.manifest = (Manifest(store.log[2].position, SPEC, "s", 1, 1, 1, "", ()), store.truth[store.log[2].position])
    store.chunks_gone = False
    machine.feed(store.beat())
    for _ in range(10):
        machine.answer()
    assert machine.questions == []
    assert machine.wants == 1
    assert machine.follower.resyncs == 0

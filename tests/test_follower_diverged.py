"""The follower of a replica that was found to be wrong."""

import random

import pytest

from parallax.replication import events as e
from parallax.replication import follower as f
from parallax.replication.position import Position
from parallax.replication.record import Op, Record
from tests.test_follower import Store, live


@pytest.fixture
def store() -> Store:
    store = Store(random.Random(1))
    for _ in range(5):
        store.append()
    store.sent.clear()
    return store


def test_a_replica_that_diverged_loads_the_snapshot_once(store: Store) -> None:
    machine = live(store)
    store.snapshot()
    machine.feed(e.DivergenceFound())
    assert machine.follower.state is f.State.RECOVERING
    assert machine.questions == [e.ReadManifest()]
    machine.settle()
    assert machine.follower.resyncs == 1


def test_a_replica_that_diverged_asks_for_a_snapshot_that_was_taken_since(store: Store) -> None:
    machine = live(store)
    store.snapshot()
    verify = store.append()
    machine.feed(e.RecordArrived(verify))
    machine.feed(e.DivergenceFound(verify.position))
    machine.answer()
    assert (machine.questions, machine.wants) == ([], 1), "the one that stands may be as wrong"
    later = store.append()
    machine.feed(e.RecordArrived(later))
    machine.answer()
    assert machine.follower.position == verify.position, "nothing is built upon a wrong state"
    store.snapshot()
    machine.settle()
    assert (machine.follower.resyncs, machine.follower.diverged_at) == (1, None)


def test_a_snapshot_that_was_being_loaded_when_the_divergence_was_found_does_not_count(store: Store) -> None:
    machine = live(store)
    store.snapshot()
    machine.feed(e.DivergenceFound())
    machine.answer()
    assert isinstance(machine.questions[0], e.LoadSnapshot)
    machine.feed(e.DivergenceFound(Position(store.last.term + 1, 0)))
    machine.answer()
    machine.answer()
    machine.answer()
    assert machine.follower.state is not f.State.LIVE
    assert machine.wants == 1
    store.append(Op.BEGIN)
    store.snapshot()
    machine.settle()
    assert machine.follower.resyncs == 2


def test_when_nobody_takes_a_snapshot_the_one_that_stands_has_to_do(store: Store) -> None:
    machine = live(store)
    store.snapshot()
    machine.feed(e.DivergenceFound(Position(store.last.term + 1, 0)))
    for _ in range(int(f.DISTRUST_SECONDS) - 1):
        machine.now += 1
        machine.feed(store.beat())
        machine.answer()
    assert machine.follower.resyncs == 0
    machine.now += 1
    machine.settle()
    assert machine.follower.resyncs == 1


def test_that_the_table_was_dropped_is_learnt_without_a_snapshot(store: Store) -> None:
    machine = live(store)
    follower = machine.follower
    held = store.last
    assert held is not None
    drop = Record(Op.DROP, held.next().next(), held.next())
    assert follower.handle(e.DivergenceFound(held), now=1.0) == [e.ReadManifest()]
    assert follower.handle(e.ManifestRead(None, False), now=1.0) == [e.ReadLog(held)]
    assert follower.handle(e.PageRead([drop], drop.position), now=1.0) == [e.Apply(drop)]
    follower.validate()
    assert (follower.state, follower.position, follower.diverged_at) == (f.State.LIVE, drop.position, None)


def test_a_missing_snapshot_is_asked_for_and_waited_for(store: Store) -> None:
    machine = live(store)
    machine.feed(e.DivergenceFound())
    machine.answer()
    machine.answer()
    assert (machine.questions, machine.wants) == ([], 1)
    store.snapshot()
    machine.settle()
    assert machine.follower.resyncs == 1

"""When nothing in Redis leads to the log's top the follower says so, and only then."""

from parallax.replication import events as e
from parallax.replication import follower as f
from parallax.replication.position import ORIGIN, Position
from parallax.replication.record import Op, Record
from parallax.replication.snapshot import Manifest
from parallax.replication.spec import TableSpec

SPEC = TableSpec.declare("t", {"schema": {"id": "string"}, "index": "id"})


def record(offset: int, term: int = 7, prev: Position | None = None) -> Record:
    op = Op.BEGIN if offset == 1 else Op.UPDATE
    before = prev or (ORIGIN if offset == 1 else Position(term, offset - 1))
    return Record(op, Position(term, offset), before, spec=SPEC if op is Op.BEGIN else None)


def manifest(offset: int) -> Manifest:
    return Manifest(Position(7, offset), SPEC, "s", 1, 1, 1, "", ())


def at(offset: int) -> f.Follower:
    """A follower that stands at 7-offset, by a snapshot there."""
    found = f.Follower()
    found.handle(e.Subscribed(), now=0)
    found.handle(e.ManifestRead(manifest(offset), is_held=True), now=0)
    found.handle(e.SnapshotLoaded(Position(7, offset)), now=0)
    found.handle(e.PageRead([record(offset)], Position(7, offset)), now=0)
    assert (found.state, found.is_stranded) == (f.State.LIVE, False)
    return found


def off_the_log(found: f.Follower, *records: Record) -> list[e.Command]:
    """The log has only these records, and there is no manifest: what the follower asks then."""
    top = records[-1].position
    assert found.handle(e.BeatArrived(top), now=1) == [e.ReadLog(found.position)]
    assert found.handle(e.PageRead(records, top), now=1) == [e.ReadManifest()]
    return found.handle(e.ManifestRead(None, is_held=False), now=1)


def test_a_log_without_its_beginning_and_without_a_manifest_strands() -> None:
    found = at(9)
    assert off_the_log(found, record(4), record(5)) == [e.ReadLog(ORIGIN)]
    assert not found.is_stranded
    assert found.handle(e.PageRead([record(4), record(5)], Position(7, 5)), now=1) == [e.SetWant()]
    assert found.is_stranded
    assert found.position == Position(7, 9), "it keeps what it has"
    found.validate()


def test_a_whole_log_is_read_from_its_beginning() -> None:
    found = at(9)
    records = [record(1, term=8), record(2, term=8)]
    assert off_the_log(found, *records) == [e.ReadLog(ORIGIN)]
    assert found.handle(e.PageRead(records, Position(8, 2)), now=1) == [e.Apply(one) for one in records]
    assert (found.state, found.position, found.is_stranded) == (f.State.LIVE, Position(8, 2), False)
    found.validate()


def test_a_missing_chunk_strands_one_who_has_nothing_else() -> None:
    found = f.Follower()
    found.handle(e.Subscribed(), now=0)
    found.handle(e.ManifestRead(manifest(5), is_held=True), now=0)
    found.handle(e.SnapshotFailed(is_intact=True), now=0)
    assert found.is_stranded


def test_what_cannot_be_read_or_asked_strands_nobody() -> None:
    for event in (e.Unreadable(), e.ReadFailed(), e.ApplyFailed()):
        found = at(9)
        off_the_log(found, record(4), record(5))
        found.handle(e.PageRead([record(4), record(5)], Position(7, 5)), now=1)
        assert found.is_stranded
        found.handle(event, now=2)
        assert not found.is_stranded, event


def test_one_who_finds_a_way_is_stranded_no_more() -> None:
    found = at(9)
    off_the_log(found, record(4), record(5))
    found.handle(e.PageRead([record(4), record(5)], Position(7, 5)), now=1)
    begin = Record(Op.BEGIN, Position(9, 10), Position(7, 9), spec=SPEC)  # a leader gave what we have, too
    assert found.handle(e.RecordArrived(begin), now=2) == [e.Apply(begin)]
    assert not found.is_stranded
    assert found.highest == Position(9, 10)


def test_a_schema_that_changed_without_its_snapshot_strands() -> None:
    found = at(9)
    top = Position(8, 10)
    changed = Record(Op.BEGIN, top, None, spec=SPEC)
    assert found.handle(e.BeatArrived(top), now=1) == [e.ReadLog(found.position)]
    assert found.handle(e.PageRead([record(9), changed], top), now=1) == [e.ReadManifest()]
    assert found.handle(e.ManifestRead(None, is_held=False), now=1) == [e.SetWant()]
    assert found.is_stranded
    assert found.position == Position(7, 9), "it keeps what it has"
    found.validate()

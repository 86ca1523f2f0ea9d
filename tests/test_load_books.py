"""The load test's books: every update counted once, nothing lost by adding up, nothing passed that is wrong."""

import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import perspective
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests import load, looks, shapes
from loadtests.accounting import Books, Deltas, Freshness
from loadtests.load_verdict import Check, Outcome, Run, Thresholds, checks, knee, outcome, report
from loadtests.looks import EXPLORED, RAW, SHARED, Look, Oracle, newest_in
from loadtests.mix import weights
from loadtests.requests import VIEWPORT_ROWS
from loadtests.schedule import SPEC, Schedule, encode
from loadtests.soak import Growth
from node.gateway import messages
from tests.oracle import Oracle as TableOracle
from tests.oracle import comparable_rows
from tests.processes import ROOT

SCHEDULE = Schedule(1_000.0, rate=10.0, seconds=2.3, rows=60, symbols=10)


# What was seen ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 23), st.integers(0, 400_000)), min_size=1, max_size=30))
def test_each_update_counts_once_at_the_first_answer_that_shows_it(answers: list[tuple[int, int]]) -> None:
    freshness, now_us = Freshness(SCHEDULE), 1_000_000_000
    counted: list[int] = []
    first_seen: dict[int, int] = {}  # by the book: update -> when an answer first showed it, or a newer one
    for newest, later_us in answers:
        now_us += later_us
        counted += freshness.see(newest, now_us)
        for seq in range(newest + 1):
            first_seen.setdefault(seq, now_us)
    expected = [max(0, at - SCHEDULE.due_us(seq)) for seq, at in sorted(first_seen.items()) if seq > answers[0][0]]
    assert counted == expected
    assert freshness.missing == SCHEDULE.count - max(newest for newest, _ in answers)
    highest = [max(newest for newest, _ in answers[: number + 1]) for number in range(len(answers))]
    assert freshness.backwards == sum(newest < top for (newest, _), top in zip(answers, highest, strict=True))


def test_a_screen_is_fresh_when_all_is_on_it_that_was_due() -> None:
    freshness = Freshness(SCHEDULE)
    assert not freshness.shows(SCHEDULE.due_us(3))
    freshness.see(3, SCHEDULE.due_us(5))
    assert freshness.shows(SCHEDULE.due_us(3))
    assert freshness.shows(SCHEDULE.due_us(4) - 1)
    assert not freshness.shows(SCHEDULE.due_us(4))
    assert SCHEDULE.overdue_us(3, SCHEDULE.due_us(4) + 7) == 7
    assert SCHEDULE.overdue_us(4, SCHEDULE.due_us(4) + 7) == 0
    freshness.see(SCHEDULE.count, SCHEDULE.due_us(SCHEDULE.count))
    assert freshness.shows(2**62)
    assert SCHEDULE.overdue_us(SCHEDULE.count, 2**62) == 0


def held(upto: int) -> list[int]:
    """Return the update of each row of the table after so many updates."""
    found = [0] * SCHEDULE.rows
    for seq in range(1, upto + 1):
        for key in SCHEDULE.ids(seq):
            found[key] = seq
    return found


@st.composite
def streams(draw: Any) -> list[tuple[str, list[int]]]:
    """A subscriber's stream as a right server sends it: the table, then deltas of whole updates, at times connected again."""
    at = draw(st.integers(0, 5))
    parts = [("table", held(at))]
    while at < SCHEDULE.count:
        upto = min(SCHEDULE.count, at + draw(st.integers(1, 12)))
        if draw(st.booleans()):
            # The sixth update before was written over by the last.
            delta = [seq for seq in range(max(at + 1, upto - 5), upto + 1) for _ in range(SCHEDULE.symbols)]
            parts.append(("delta", draw(st.permutations(delta)) if len(delta) < 25 else delta))
        else:
            parts += [
                ("table", held(upto)),
                ("delta", [upto] * SCHEDULE.symbols),
            ]  # what is told twice around it is no fault
        at = upto
    return parts


def subscribed(parts: Sequence[tuple[str, list[int]]]) -> Deltas:
    deltas = Deltas(SCHEDULE)
    for what, seqs in parts:
        (deltas.begin if what == "table" else deltas.add)(seqs)
    deltas.end()
    return deltas


@given(streams())
def test_a_stream_without_fault_has_no_gaps(parts: list[tuple[str, list[int]]]) -> None:
    deltas = subscribed(parts)
    assert (deltas.lost, deltas.doubled) == (0, 0)


@given(st.integers(1, 23), st.integers(1, 10))
def test_each_row_that_is_missing_or_comes_twice_is_a_gap(seq: int, rows: int) -> None:
    def stream(rows_of_seq: int) -> list[tuple[str, list[int]]]:
        return [("table", held(0))] + [
            ("delta", [one] * (rows_of_seq if one == seq else SCHEDULE.symbols)) for one in range(1, SCHEDULE.count + 1)
        ]

    assert subscribed(stream(SCHEDULE.symbols - rows)).lost == rows
    assert subscribed(stream(SCHEDULE.symbols + rows)).doubled == rows
    late = stream(SCHEDULE.symbols)
    assert subscribed([*late, ("delta", [seq] * rows)]).doubled == rows
    again = [*stream(SCHEDULE.symbols)[:4], ("table", [0 if one == 5 else one for one in held(6)])]
    assert subscribed([*again, *stream(SCHEDULE.symbols)[7:]]).lost == SCHEDULE.symbols


# Adding up --------------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from("ab"), st.integers(0, 2**33)), max_size=60))
def test_merged_books_are_the_books_of_the_union(values: list[tuple[int, str, int]]) -> None:
    parts, union, merged = [Books(), Books(), Books()], Books(), Books()
    for part, name, value in values:
        for books in (parts[part], union):
            books.record(name, value)
            books.counts[name] += value % 7
    for books in parts:
        merged.add(Books.from_json(books.to_json()))
    assert merged.counts == union.counts
    for name in "ab":
        assert merged.count(name) == union.count(name) == sum(one == name for _, one, _ in values)
        for percentile in (0, 10, 50, 99, 99.9, 100):
            assert merged.ms(name, percentile) == union.ms(name, percentile)


# What is published, and what views show of it -----------------------------------------------------------------------------


def test_the_last_contents_are_those_of_all_updates_in_order() -> None:
    for seconds in (0.1, 0.5, 0.6, 0.7, 2.3):
        plan = replace(SCHEDULE, seconds=seconds)
        oracle = TableOracle(SPEC)
        for seq in range(plan.count + 1):
            oracle.update(plan.update(seq))
        assert comparable_rows(plan.final(), SPEC.columns) == oracle.rows()


@pytest.fixture(scope="module")
def table() -> Any:
    """A table of Perspective's with all updates of the schedule in it."""
    client = perspective.Server().new_local_client()
    made = client.table(encode(SCHEDULE.update(0)), index="id")
    for seq in range(1, SCHEDULE.count + 1):
        made.update(encode(SCHEDULE.update(seq)))
    return made


def view_of(table: Any, look: Look) -> Any:
    config: dict[str, Any] = {"columns": list(look.columns), "sort": [list(pair) for pair in look.sort]}
    if look.group_by:
        config |= {"group_by": list(look.group_by)}
        config["aggregates"] = {name: looks.AGGREGATES[name][0] for name in look.columns}
    if look.symbol:
        config["filter"] = [["symbol", "==", look.symbol]]
    return table.view(**config)


@pytest.mark.parametrize("look", [*EXPLORED, RAW])
def test_the_oracle_agrees_with_perspective_and_with_nothing_else(table: Any, look: Look) -> None:
    view = view_of(table, look)
    data = view.to_arrow()
    assert Oracle(SCHEDULE).agrees(look, data)
    rows = pa.ipc.open_stream(data).read_all()
    for wrong in (rows.slice(1), pa.concat_tables([rows, rows.slice(0, 1)])):
        assert not Oracle(SCHEDULE).agrees(look, stream(wrong))
    if look.sort and not look.group_by:
        assert not Oracle(SCHEDULE).agrees(look, stream(rows.take(list(reversed(range(len(rows)))))))
    assert not Oracle(replace(SCHEDULE, seconds=2.2)).agrees(look, data)
    if look in SHARED:
        shown = view.to_columns_string(start_row=0, end_row=VIEWPORT_ROWS, id=True).encode()
        assert newest_in(shown) == SCHEDULE.count, "every update shows in what a viewer reads"


def stream(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def test_requests_are_what_the_gateway_reads() -> None:
    config = messages.parse("MakeView", b"\x0a\x01x" + looks.own(SHARED[3].dialogue.config, 42)).config
    assert [(one.column, one.op) for one in config.filter] == [("symbol", "=="), ("id", ">")]
    assert config.filter[1].value[0].float == -42
    viewport = messages.parse("ToText", looks.rows(300)[1]).viewport
    assert (viewport.start_row, viewport.end_row) == (300, 300 + VIEWPORT_ROWS)
    assert looks.rows(0) == SHARED[0].dialogue.refresh[-1]
    assert messages.parse("Edit", looks.edit("[]")[1]).data.rows == "[]"


@pytest.mark.parametrize(("sharing", "distinct"), [(1.0, {1, 2, 3, 4}), (0.0, {200})])
def test_sharing_decides_how_many_views_differ(sharing: float, distinct: set[int]) -> None:
    chance = random.Random(1)
    assert len({looks.choose(sharing, chance)[1] for _ in range(200)}) in distinct


# Shapes, and the verdict ----------------------------------------------------------------------------------------------------


def test_shapes() -> None:
    def users(shape: str) -> list[int | None]:
        plan = shapes.Plan(shape, peak=30, seconds=60)
        return [plan.users_at(elapsed) for elapsed in (-5, 0, 15, 25, 35, 45, 55, 65, 81)]

    assert users("steady") == users("soak") == users("rolling") == [30] * 8 + [None]
    assert users("ladder") == [5, 5, 10, 15, 20, 25, 30, 30, None]
    assert users("spike") == [6, 6, 6, 30, 30, 6, 6, 6, None]


def finished(**changes: Any) -> Run:
    """Return a run in which all went well, unless told otherwise."""
    books = Books()
    for name in ("end to end", "staleness", "first row", "edit", "reconnect to fresh", "generator lag"):
        books.record(name, changes.get(name, 20_000), 100)
    books.counts.update({"proofs": 10} | changes.get("counts", {}))
    pacer = Books()
    pacer.record("lateness", changes.get("lateness", 1_000), 50)
    pacer.counts["lateness"] = changes.get("tried", 50)
    result = {
        "books": books.to_json(),
        "steps": [{"step": 0, "users": 10, "books": books.to_json()}],
        "workers": {"w": changes.get("processor", [0.2, 0.4])},
        "exceptions": changes.get("exceptions", 0),
    }
    return Run(result, pacer, 50, 10, changes.get("shape", "steady"), Thresholds(), False, changes.get("differences", ()))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, Outcome.PASSED),
        ({"end to end": 760_000}, Outcome.SLOW),
        ({"end to end": 210_000}, Outcome.SLOW),
        ({"staleness": 760_000}, Outcome.SLOW),
        ({"first row": 3_100_000}, Outcome.SLOW),
        ({"reconnect to fresh": 3_100_000}, Outcome.SLOW),
        ({"edit": 2_100_000}, Outcome.SLOW),
        ({"counts": {"gaps": 1}}, Outcome.WRONG),
        ({"counts": {"rows lost": 1}}, Outcome.WRONG),
        ({"counts": {"rows doubled": 1}}, Outcome.WRONG),
        ({"counts": {"edits lost": 1}}, Outcome.WRONG),
        ({"counts": {"unequal": 1}}, Outcome.WRONG),
        ({"counts": {"connections lost": 1}}, Outcome.WRONG),
        ({"counts": {"failed: make view": 1}}, Outcome.WRONG),
        ({"counts": {"proofs": -1}}, Outcome.WRONG),
        ({"differences": ["load differs"]}, Outcome.WRONG),
        ({"counts": {"gaps": 1}, "end to end": 760_000}, Outcome.WRONG),
        ({"exceptions": 1}, Outcome.BROKEN),
        ({"processor": [0.8, 0.95]}, Outcome.INVALID),
        ({"generator lag": 160_000}, Outcome.INVALID),
        ({"lateness": 110_000}, Outcome.INVALID),
        ({"tried": 49}, Outcome.INVALID),
        ({"generator lag": 160_000, "counts": {"gaps": 1}}, Outcome.INVALID),
    ],
)
def test_the_verdict(changes: dict[str, Any], expected: Outcome) -> None:
    decided, text = report(finished(**changes), 10)
    assert decided is expected, text
    assert text.splitlines()[-1] == f"{expected.name} (exit code {int(expected)})"
    assert ("FAIL" in text) is (expected is not Outcome.PASSED)


def test_a_run_without_any_measurement_is_invalid() -> None:
    empty = finished()
    result = dict(empty.result) | {"books": Books().to_json(), "steps": []}
    assert outcome(list(checks(replace(empty, result=result)))) is Outcome.INVALID


def test_the_knee_is_the_last_step_that_was_fast_enough() -> None:
    steps = []
    for step, late_us in enumerate((10_000, 700_000, 800_000, 600_000)):
        books = Books()
        books.record("end to end", late_us)
        steps.append({"step": step, "users": 5 * (step + 1), "books": books.to_json()})
    run = finished(shape="ladder")
    assert knee(replace(run, result=dict(run.result) | {"steps": steps})) == 10
    assert knee(replace(run, result=dict(run.result) | {"steps": steps[2:]})) is None


def test_thresholds_grow_with_patience_but_for_a_share() -> None:
    limits = Thresholds.parse(["end_to_end_p99=100", "generator_cpu=0.5"]).times(3)
    assert (limits.end_to_end_p99, limits.edit_p99, limits.generator_cpu) == (300, 6_000, 0.5)
    assert Check("x", None, 1, "", Outcome.SLOW).is_met
    assert not Check("x", 1.1, 1, "", Outcome.SLOW).is_met


def test_mixes() -> None:
    assert weights("viewer=3,raw=1,editor=0") == {"viewer": 3, "raw": 1}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--mix viewer", "--mix is 'viewer'"),
        ("--mix viewer=1,pirate=2", "pirate"),
        ("--mix viewer=0", "--mix"),
        ("--limit speed=3", "no threshold is called speed"),
        ("--limit edit_p99=soon", "--limit: could not convert"),
        ("--table-rows 150", "multiple of --symbols"),
        ("--rate 0", "--rate and --seconds"),
        ("--nodes 0", "must be at least 1"),
        ("--sharing 2", "between 0 and 1"),
        ("--shape round", "invalid choice"),
    ],
)
def test_what_makes_no_sense_ends_with_code_2(arguments: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        load.main(arguments.split())
    assert ended.value.code == Outcome.MISUSED
    assert words in capsys.readouterr().err


def test_what_swings_does_not_grow_and_what_creeps_does() -> None:
    mib = 1 << 20
    swinging = [(100 + 60 * (number % 9)) * mib for number in range(120)]
    filling = [min(400, 100 + 10 * number) * mib for number in range(120)]
    creeping = [(300 + number) * mib for number in range(120)]
    growth = Growth({"swinging": swinging, "filling": filling, "creeping": creeping, "new": [1]})
    assert growth.grown() == {"creeping": "creeping grew from at most 359 MiB to 419 MiB"}


def test_every_module_can_be_loaded():
    """Those that nothing else tests, too; in a process of their own, since Locust changes the one that loads it."""
    names = sorted(f"loadtests.{path.stem}" for path in (ROOT / "loadtests").glob("*.py"))
    program = f"import importlib\nfor name in {names}: importlib.import_module(name)"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr

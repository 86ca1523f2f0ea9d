"""How a view's answer depends on when the view was made: what may be shared, and what must not be."""

import random
from collections.abc import Iterator
from typing import Any

import perspective
import pyarrow as pa
import pytest

from node.gateway import messages
from parallax.replica.engine import to_ipc
from parallax.wire import Envelope, decode

TYPES = {
    "id": pa.string(),
    "g": pa.string(),
    "s": pa.string(),
    "n": pa.int64(),
    "x": pa.float64(),
    "i": pa.int32(),
    "__INDEX__": pa.int32(),
}
KINDS: dict[str, dict[str, Any]] = {"keyed": {"index": "id"}, "last": {"limit": 8}, "all": {}}
WITHOUT_NULLS = {"id": "first", "g": "a", "s": "p", "n": 1, "x": 0.5, "i": 1}


class Bare:
    """A table of the engine itself, in deferred mode."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.server = perspective.Server(on_poll_request=lambda *_: None)
        empty = {name: [] for name in TYPES if name != "__INDEX__"}
        self.table = self.server.new_local_client().table(to_ipc(rows(**empty)), name="t", **KINDS[kind])
        self.views: list[Any] = []

    def update(self, *, polls: bool = True, **columns: list[Any]) -> None:
        self.table.update(to_ipc(rows(**columns)))
        if polls:
            self.server.poll()

    def view(self, **config: Any) -> Any:
        view = self.table.view(**config)
        self.views.append(view)
        return view

    def fresh(self, **config: Any) -> dict[str, list[Any]]:
        """What a view says that is made now."""
        view = self.table.view(**config)
        found: dict[str, list[Any]] = view.to_columns()
        view.delete()
        return found

    def change(self, rng: random.Random, *, nulls: bool = False, whole_rows: bool = True) -> None:
        """A random update, or removal; the row `first` stays."""
        while rng.random() < 0.3:
            self._add(rng, nulls=nulls, whole_rows=whole_rows)
        if self.kind == "keyed" and rng.random() < 0.25:
            self.server.poll()
            self.table.remove(to_ipc(rows(id=rng.sample("abcdef", 2))))
            self.server.poll()
            return
        self._add(rng, nulls=nulls, whole_rows=whole_rows)
        self.server.poll()

    def _add(self, rng: random.Random, *, nulls: bool, whole_rows: bool) -> None:
        count = rng.randrange(1, 4)
        values = {
            "id": "abcdef",
            "g": "abc",
            "s": "pq",
            "n": range(-9, 10),
            "x": [0.25 * number for number in range(-40, 40)],
            "i": range(4),
        }
        columns = {name: [rng.choice(list(choice)) for _ in range(count)] for name, choice in values.items()}
        if nulls:
            columns["g"] = [value if rng.random() < 0.7 else None for value in columns["g"]]
        if not whole_rows and self.kind == "keyed" and rng.random() < 0.5:
            columns = {name: columns[name] for name in ("id", "n")}
        self.update(polls=False, **columns)

    def close(self) -> None:
        for view in self.views:
            view.delete()
        self.table.delete()


def rows(**columns: list[Any]) -> pa.Table:
    return pa.table({name: pa.array(values, TYPES[name]) for name, values in columns.items()})


@pytest.fixture(params=KINDS)
def bare(request: pytest.FixtureRequest) -> Iterator[Bare]:
    bare = Bare(request.param)
    yield bare
    bare.close()


@pytest.fixture
def keyed() -> Iterator[Bare]:
    bare = Bare("keyed")
    yield bare
    bare.close()


def grows_old(kind: str, config: dict[str, Any], seeds: int = 6, **changes: bool) -> bool:
    """Say whether a view that lives through random changes ever says something else than a fresh one.

    No null arrives in the poll that fills the empty table.
    """
    for seed in range(seeds):
        bare, rng = Bare(kind), random.Random(seed)
        try:
            bare.update(**{name: [value] for name, value in WITHOUT_NULLS.items()})
            for _ in range(4):
                bare.change(rng, **changes)
            view = bare.view(**config)
            for _ in range(20):
                bare.change(rng, **changes)
                if view.to_columns() != bare.fresh(**config):
                    return True
        finally:
            bare.close()
    return False


def null_groups(found: dict[str, list[Any]]) -> list[Any]:
    return [value for path, value in zip(found["__ROW_PATH__"], found["n"], strict=True) if path == [None]]


# Nulls as groups ------------------------------------------------------------------------------------------------------

BY_GROUP: dict[str, Any] = {"group_by": ["g"], "columns": ["n"]}


def fill(bare: Bare) -> None:
    bare.update(id=["a", "b"], g=[None, "x"], n=[1, 10])
    bare.update(id=["c", "d"], g=[None, "y"], n=[2, 20])


def test_nulls_that_fill_an_empty_table_are_another_group_than_later_ones(bare: Bare) -> None:
    """Even for a view that is made afterwards: a replica that was just loaded differs from one that saw all updates."""
    fill(bare)
    assert sorted(null_groups(bare.fresh(**BY_GROUP))) == [1, 2]


def test_nulls_of_one_poll_are_one_group(bare: Bare) -> None:
    bare.update(id=["a", "b", "c"], g=[None, "x", None], n=[1, 10, 2])
    assert null_groups(bare.fresh(**BY_GROUP)) == [3]


def test_nulls_are_one_group_if_none_fills_an_empty_table(bare: Bare) -> None:
    bare.update(**{name: [value] for name, value in WITHOUT_NULLS.items()})
    fill(bare)
    assert null_groups(bare.fresh(**BY_GROUP)) == [3]


def test_an_indexed_table_can_be_filled_by_a_row_without_nulls_first(keyed: Bare) -> None:
    keyed.update(id=["a"], g=["anything"], n=[7])
    fill(keyed)
    assert null_groups(keyed.fresh(**BY_GROUP)) == [3]
    assert keyed.fresh(columns=["id", "g", "n"])["n"] == [1, 10, 2, 20]


def test_a_plain_table_can_be_filled_by_a_row_that_the_true_first_row_overwrites() -> None:
    bare = Bare("all")
    for _ in range(2):
        bare.update(id=["?"], g=["?"], n=[0], __INDEX__=[-1])
        bare.update(id=["a"], g=[None], n=[1], __INDEX__=[-1])
        bare.update(id=["b", "c"], g=["x", None], n=[10, 2])
        assert null_groups(bare.fresh(**BY_GROUP)) == [3]
        assert bare.fresh(columns=["id", "n"]) == {"id": ["a", "b", "c"], "n": [1, 10, 2]}
        bare.table.clear()
        bare.server.poll()
    bare.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "config",
    [
        BY_GROUP,
        {"group_by": ["s", "g"], "columns": ["n"]},
        {"group_by": ["s"], "split_by": ["g"], "columns": ["n"]},
        {"split_by": ["g"], "columns": ["n"]},
        {"group_by": ["g"], "columns": ["n"], "group_rollup_mode": "flat"},
        {"group_by": ["g"], "columns": ["n", "s"], "filter": [["n", ">", 0]]},
    ],
    ids=["group", "second level", "both", "split", "flat", "filter"],
)
def test_then_pivots_do_not_grow_old(kind: str, config: dict[str, Any]) -> None:
    assert not grows_old(kind, config, nulls=True)


# What grows old -------------------------------------------------------------------------------------------------------


def by_group(aggregate: Any, column: str = "n") -> dict[str, Any]:
    return {"group_by": ["g"], "columns": [column], "aggregates": {column: aggregate}}


@pytest.mark.parametrize(
    "aggregate",
    ["last", "dominant", "median", "q3", "high", "low", ["min by", ["i"]], ["max by", ["i"]]],
    ids=str,
)
def test_these_aggregates_grow_old(aggregate: Any) -> None:
    """So do "any" and "q1", which were only seen to after the table had been empty."""
    assert grows_old("keyed", by_group(aggregate, "x"), seeds=60)


@pytest.mark.parametrize(
    "aggregate",
    [
        "sum",
        "avg",
        "count",
        "min",
        "max",
        "first",
        "last by index",
        "unique",
        "distinct count",
        "stddev",
        ["weighted mean", ["i"]],
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", KINDS)
def test_these_aggregates_do_not(kind: str, aggregate: Any) -> None:
    config = by_group(aggregate)
    for seed in range(4):
        bare, rng = Bare(kind), random.Random(seed)
        bare.update(**{name: [value] for name, value in WITHOUT_NULLS.items()})
        view = bare.view(**config)
        for _ in range(15):
            bare.change(rng)
            for live, fresh in zip(view.to_columns()["n"], bare.fresh(**config)["n"], strict=True):
                assert live == pytest.approx(fresh)
        bare.close()


@pytest.mark.parametrize("kind", ["keyed", "last"])
def test_sums_of_32_bits_grow_old_once_a_value_changes_by_more_than_they_hold(kind: str) -> None:
    """The engine adds what changed, and computes that in the column's own type."""
    bare = Bare(kind)
    view = bare.view(**by_group("sum", "i"))
    for value in (-(2**31), 2**31 - 1):
        row = {name: [there] for name, there in (WITHOUT_NULLS | {"i": value}).items()}
        for _ in range(8 if kind == "last" else 1):  # until it takes the place of another one
            bare.update(**row)
    assert view.to_columns()["i"] != bare.fresh(**by_group("sum", "i"))["i"]
    bare.close()


LOUD = {"columns": ["n"], "expressions": {"loud": 'upper("g")'}}


@pytest.mark.parametrize("pivot", ["group_by", "split_by"])
def test_pivots_by_an_expression_grow_old_with_an_index_and_partial_updates(pivot: str) -> None:
    config = LOUD | {pivot: ["loud"]}
    assert grows_old("keyed", config, whole_rows=False)
    assert not grows_old("keyed", config)
    assert not grows_old("last", config, nulls=True)
    assert not grows_old("all", config, nulls=True)


@pytest.mark.parametrize("text", ['"n" * 2', 'bucket("n", 5)', "index()", 'upper("g")', "order(\"s\", 'q', 'p')"])
@pytest.mark.parametrize("kind", KINDS)
def test_expressions_that_are_only_shown_do_not(kind: str, text: str) -> None:
    assert not grows_old(kind, {"columns": ["id", "e"], "expressions": {"e": text}}, whole_rows=False, seeds=3)


def test_a_view_with_vlookup_makes_every_other_view_miss_rows(keyed: Bare) -> None:
    """Why the gateway must refuse it: viewers would spoil each other's views."""
    keyed.update(id=["a", "b"], n=[1, 2])
    others: list[dict[str, Any]] = [{"columns": ["id"]}, {"columns": ["id"], "filter": [["n", ">", 0]]}]
    views = [keyed.view(**config) for config in others]
    lookup = keyed.table.view(columns=["e"], expressions={"e": "vlookup('n', 'a')"})
    keyed.update(id=["c"], n=[3])
    lookup.delete()
    keyed.update(id=["b"], n=[9])
    assert [keyed.fresh(**config)["id"] for config in others] == [["a", "b", "c"]] * 2
    assert [view.to_columns()["id"] for view in views] != [["a", "b", "c"]] * 2


def test_windows_of_an_indexed_table_grow_old() -> None:
    """Each time differently; fresh ones agree."""
    frames: list[bytes] = []
    bare = Bare("keyed")
    session = bare.server.new_session(frames.append)

    def read(view_id: str, *, makes: bool) -> bytes:
        message = messages.new("MakeView")
        message.view_id = view_id
        message.config.columns.columns.columns.extend(["id", "sum"])
        window = message.config.windows["sum"]
        window.source, window.op, window.rows = "n", "sum", 3
        if makes:
            session.handle_request(Envelope(1, "t", 6, messages.encode(message)).encode())
        text = messages.new("ToText")
        text.viewport.SetInParent()
        frames.clear()
        session.handle_request(Envelope(1, view_id, 24, messages.encode(text)).encode())
        return decode(frames[0]).body

    bare.update(id=list("abcdefgh"), n=list(range(8)))
    read("live", makes=True)
    rng = random.Random(1)
    for _ in range(10):
        bare.change(rng)
    fresh = [read(f"fresh {number}", makes=True) for number in range(3)]
    assert len(set(fresh)) == 1
    assert read("live", makes=False) != fresh[0]
    for view_id in ("live", "fresh 0", "fresh 1", "fresh 2"):
        session.handle_request(Envelope(1, view_id, 11, b"").encode())
    session.close()
    bare.close()

"""Pivots over nulls: whatever empties and fills a table, a grouped view that lives through it says what plain Python says."""

import random
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from typing import Any

import perspective
import pyarrow as pa
import pytest

from node.gateway import Gateway
from node.settings import NodeSettings
from parallax.replica.engine import Engine, EngineRefused, EngineTable, to_ipc
from parallax.replication.record import Op
from parallax.replication.spec import TableSpec
from tests.viewers import Viewer

COLUMNS = {"id": "integer", "k": "string", "j": "date", "n": "integer"}
KINDS = {"indexed": {"index": "id"}, "limit": {"limit": 7}, "plain": {"max_rows": 10_000}}
Row = dict[str, Any]


def spec_of(kind: str) -> TableSpec:
    return TableSpec.declare("t", {"schema": COLUMNS, **KINDS[kind]})


def some_rows(rng: random.Random, count: int) -> list[Row]:
    return [
        {
            "id": rng.randrange(12),
            "k": rng.choice([None, None, "a", "b"]),
            "j": rng.choice([None, "2020-01-01", "2021-05-05"]),
            "n": rng.choice([None, 1, 2, 30]),
        }
        for _ in range(count)
    ]


def encode(spec: TableSpec, rows: list[Row], columns: list[str]) -> bytes:
    schema = spec.arrow_schema
    arrays = {
        name: pa.array([row[name] for row in rows]).cast(schema.field(name).type)
        if any(row[name] is not None for row in rows)
        else pa.nulls(len(rows), schema.field(name).type)
        for name in columns
    }
    return to_ipc(pa.table(arrays))


class Model:
    """The rows, in plain Python."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.rows: list[Row] = []

    def update(self, rows: list[Row], columns: list[str]) -> None:
        for row in rows:
            held = [one for one in self.rows if one["id"] == row["id"]] if self.kind == "indexed" else []
            if held:
                held[0].update({name: row[name] for name in columns})
            else:
                self.rows.append({name: row[name] if name in columns else None for name in COLUMNS})
        if self.kind == "limit":
            self.rows = self.rows[-7:]

    def remove(self, keys: list[int]) -> None:
        self.rows = [row for row in self.rows if row["id"] not in keys]

    def pivot(
        self, by: tuple[str, ...], passes: Callable[[Row], bool] = lambda row: True
    ) -> dict[tuple[Any, ...], tuple[int, int]]:
        groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
        for row in filter(passes, self.rows):
            groups[tuple(row[name] for name in by)].append(row)
        return {path: (len(rows), sum(row["n"] or 0 for row in rows)) for path, rows in groups.items()}


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    engine = Engine(frame_seconds=0.001)
    yield engine
    await engine.close()


async def steps(rng: random.Random, kind: str, table: EngineTable, model: Model) -> AsyncIterator[str]:
    """Change table and model alike, one step after the other."""
    spec = spec_of(kind)
    for _ in range(25):
        columns = list(COLUMNS) if rng.random() < 0.6 else ["id", *rng.sample(["k", "j", "n"], rng.randint(1, 2))]
        rows = some_rows(rng, rng.choice([1, 2, 9]))
        step = rng.choice(["update"] * 4 + ["clear", "replace"] + ["remove"] * (kind == "indexed"))
        match step:
            case "update":
                model.update(rows, columns)
                await table.apply([(Op.UPDATE, encode(spec, rows, columns))])
            case "clear":
                model.rows = []
                await table.apply([(Op.CLEAR, b"")])
            case "replace":
                model.rows = []
                model.update(rows, columns)
                await table.apply([(Op.REPLACE, encode(spec, rows, columns))])
            case "remove":
                keys = rng.sample(range(12), rng.choice([3, 12]))
                model.remove(keys)
                await table.apply([(Op.REMOVE, to_ipc(pa.table({"id": pa.array(keys, pa.int32())})))])
        await table.flush()
        yield step


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(6))
async def test_nulls_are_one_group_however_the_table_was_filled(engine: Engine, kind: str, seed: int) -> None:
    rng = random.Random(f"{kind} {seed}")
    spec, table, model = spec_of(kind), engine.table("t"), Model(kind)
    first = some_rows(rng, rng.choice([0, 1, 5]))
    model.update(first, list(COLUMNS))
    snapshot = pa.Table.from_pylist([], spec.arrow_schema) if not first else None
    loaded = pa.ipc.open_stream(encode(spec, model.rows, list(COLUMNS))).read_all() if snapshot is None else snapshot
    await table.load(spec, loaded)
    gateway = Gateway(NodeSettings())
    gateway.add_table("t", table)
    viewer = Viewer(gateway)
    hosted = await (await viewer.connect()).open_table("t")
    pivots = {
        by: await hosted.view(group_by=list(by), columns=["id", "n"], aggregates={"id": "count", "n": "sum"})
        for by in (("k",), ("j",), ("k", "j"))
    }
    async for step in steps(rng, kind, table, model):
        gateway.add_table("t", table)  # as a node does when a table was made anew
        for by, view in pivots.items():
            rows = await view.to_json()
            found = {
                tuple(row["__ROW_PATH__"]): (row["id"], row["n"] or 0) for row in rows if len(row["__ROW_PATH__"]) == len(by)
            }
            expected = model.pivot(by)
            if "j" in by:  # dates come as the milliseconds of their first moment
                expected = {
                    tuple(moment(part) if name == "j" else part for name, part in zip(by, path, strict=True)): value
                    for path, value in expected.items()
                }
            assert found == expected, f"{step}, grouped by {by}"
    await viewer.close()
    await gateway.close()


FILTERS: dict[str, tuple[list[list[Any]], Callable[[Row], bool]]] = {
    "not this": ([["n", "!=", 1]], lambda row: row["n"] != 1),
    "no value": ([["n", "is null", None]], lambda row: row["n"] is None),
    "not these": ([["k", "not in", ["a", "c"]]], lambda row: row["k"] not in ("a", "c")),
    "two": ([["k", "!=", "b"], ["j", "is not null", None]], lambda row: row["k"] != "b" and row["j"] is not None),
}
"""What passes nulls: a row that is new was one of nulls before, for the engine."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
async def test_filters_that_pass_nulls_take_no_row_from_the_group_of_nulls(engine: Engine, kind: str, seed: int) -> None:
    rng = random.Random(f"{kind} {seed}")
    spec, table, model = spec_of(kind), engine.table("t"), Model(kind)
    await table.load(spec, spec.arrow_schema.empty_table())
    gateway = Gateway(NodeSettings())
    gateway.add_table("t", table)
    viewer = Viewer(gateway)
    hosted = await (await viewer.connect()).open_table("t")
    common: dict[str, Any] = {"columns": ["id", "n"], "aggregates": {"id": "count", "n": "sum"}}
    grouped = {name: await hosted.view(group_by=["k"], filter=terms, **common) for name, (terms, _) in FILTERS.items()}
    split = {
        name: await hosted.view(group_by=["k"], split_by=["j"], filter=terms, **common)
        for name, (terms, _) in FILTERS.items()
    }
    async for step in steps(rng, kind, table, model):
        gateway.add_table("t", table)
        for name, (terms, passes) in FILTERS.items():
            rows = [row for row in await grouped[name].to_json() if row["__ROW_PATH__"]]
            found = {tuple(row["__ROW_PATH__"]): (row["id"], row["n"] or 0) for row in rows}
            assert found == model.pivot(("k",), passes), f"{step}, {name}"
            cells = {
                (row["__ROW_PATH__"][0], None if day == "null" else day): row[f"{day}|id"]
                for row in await split[name].to_json()
                if row["__ROW_PATH__"]
                for day in {column.split("|")[0] for column in row if "|" in column}
                if row[f"{day}|id"]
            }
            assert cells == {path: count for path, (count, _) in model.pivot(("k", "j"), passes).items()}, f"{step}, {name}"
            told = (await grouped[name].get_config())["filter"]
            assert [term[:2] for term in map(list, told)] == [term[:2] for term in terms]
    await viewer.close()
    await gateway.close()


async def test_a_filter_of_which_any_term_is_enough_and_one_passes_nulls_is_refused_for_pivots(engine: Engine) -> None:
    spec, table = spec_of("plain"), engine.table("t")
    await table.load(spec, spec.arrow_schema.empty_table())
    gateway = Gateway(NodeSettings())
    gateway.add_table("t", table)
    viewer = Viewer(gateway)
    hosted = await (await viewer.connect()).open_table("t")
    either: dict[str, Any] = {"filter": [["n", "is null", None], ["k", "in", ["a"]]], "filter_op": "or"}
    with pytest.raises(Exception, match="use an expression"):
        await hosted.view(group_by=["k"], **either)
    flat = await hosted.view(**either)
    one = await hosted.view(group_by=["k"], filter=[["n", "is null", None]], filter_op="or")
    assert (await one.get_config())["filter_op"] == "or"
    instead = await hosted.view(
        group_by=["k"],
        columns=["n"],
        aggregates={"n": "count"},
        expressions={"none": 'is_null("n")'},
        filter=[["none", "==", True], ["k", "in", ["a"]]],
        filter_op="or",
    )
    rows = [
        {"id": 1, "k": "a", "j": None, "n": 1},
        {"id": 2, "k": None, "j": None, "n": None},
        {"id": 3, "k": "b", "j": None, "n": 2},
    ]
    for _ in range(3):
        await table.apply([(Op.UPDATE, encode(spec, rows, list(COLUMNS)))])
        await table.flush()
    assert [row["n"] for row in await flat.to_json()] == [1, None] * 3
    strings = await hosted.view(columns=["id"], filter=[["k", "==", "a"], ["k", "==", "b"]], filter_op="or")
    assert [row["id"] for row in await strings.to_json()] == [1, 3] * 3  # the engine alone finds none
    assert [list(term) for term in (await strings.get_config())["filter"]] == [["k", "==", "a"], ["k", "==", "b"]]
    assert [(row["__ROW_PATH__"], row["n"]) for row in await instead.to_json()] == [([], 6), ([None], 3), (["a"], 3)]
    await viewer.close()
    await gateway.close()


async def test_a_limit_table_is_made_anew_when_nulls_fill_it_again(engine: Engine) -> None:
    spec, table = spec_of("limit"), engine.table("t")
    row = {"id": 1, "k": None, "j": None, "n": 1}
    await table.load(spec, spec.arrow_schema.empty_table())
    gateway = Gateway(NodeSettings())
    gateway.add_table("t", table)
    viewer = Viewer(gateway)
    hosted = await (await viewer.connect()).open_table("t")
    common: dict[str, Any] = {"group_by": ["k"], "columns": ["n"]}
    told: list[str] = []
    plain, own, followed = [await hosted.view(**common, sort=[[name, "asc"]]) for name in ("n", "k", "id")]
    await plain.on_update(lambda *_: told.append("changed"))
    await followed.on_update(lambda *_: told.append("rows"), mode="row")
    await own.collapse(0)
    for view, name in ((plain, "plain"), (own, "own"), (followed, "followed")):
        await view.on_delete(lambda name=name: told.append(f"{name} ended"))
    for op, rows in ((Op.UPDATE, [row]), (Op.CLEAR, []), (Op.UPDATE, [row] * 2)):
        await table.apply([(op, encode(spec, rows, list(COLUMNS)) if rows else b"")])
        await table.flush()
        gateway.add_table("t", table)
    assert [(row["__ROW_PATH__"], row["n"]) for row in await plain.to_json()] == [([], 2), ([None], 2)]
    assert [what for what in told if what.endswith("ended")] == ["followed ended"]
    assert len(await own.to_json()) == 2  # what was collapsed is open again
    told.clear()
    await table.apply([(Op.UPDATE, encode(spec, [row], list(COLUMNS)))])
    await table.flush()
    assert (await plain.to_json())[0]["n"] == 3
    assert "changed" in told
    await viewer.close()
    await gateway.close()


async def test_a_very_large_limit_table_is_not_grouped_and_split_at_once(engine: Engine) -> None:
    spec = TableSpec.declare("t", {"schema": COLUMNS, "limit": 2_000_001})
    table = engine.table("t")
    await table.load(spec, spec.arrow_schema.empty_table())
    gateway = Gateway(NodeSettings())
    gateway.add_table("t", table)
    viewer = Viewer(gateway)
    hosted = await (await viewer.connect()).open_table("t")
    for allowed in ({"group_by": ["k"]}, {"split_by": ["k"]}):
        await hosted.view(columns=["n"], **allowed)
    with pytest.raises(Exception, match="cannot be grouped and split at once"):
        await hosted.view(columns=["n"], group_by=["k"], split_by=["j"])
    await viewer.close()
    await gateway.close()


def moment(day: str | None) -> int | None:
    return None if day is None else pa.scalar(day).cast(pa.date32()).cast(pa.timestamp("ms")).value


@pytest.mark.parametrize("kind", KINDS)
async def test_a_table_that_the_engine_spoils_while_it_fills_is_made_anew(
    engine: Engine, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, table = spec_of(kind), engine.table("t")
    await table.load(spec, spec.arrow_schema.empty_table())
    gateway = Gateway(NodeSettings())
    gateway.add_table("t", table)
    viewer = Viewer(gateway)
    view = await (await (await viewer.connect()).open_table("t")).view(group_by=["k"], columns=["n"])
    fill, failures = table._fill, [EngineRefused("t", "poll", "spoilt")]

    def fails_once(first: bytes, others: list[bytes]) -> None:
        fill(first, others[:1])
        if failures:
            raise perspective.PerspectiveError(str(failures.pop()))
        for step in others[1:]:
            table._table.update(step)

    monkeypatch.setattr(table, "_fill", fails_once)
    rows = [{"id": number, "k": None, "j": None, "n": number} for number in (1, 2, 3)]
    await table.apply([(Op.UPDATE, encode(spec, rows, list(COLUMNS)))])
    await table.flush()
    gateway.add_table("t", table)
    assert not failures
    assert [(row["__ROW_PATH__"], row["n"]) for row in await view.to_json()] == [([], 6), ([None], 6)]
    assert (await table.export())["id"].to_pylist() == [1, 2, 3]
    await viewer.close()
    await gateway.close()

"""Pivots over nulls: whatever empties and fills a table, a grouped view that lives through it says what plain Python says."""

import random
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any

import pyarrow as pa
import pytest

from node.gateway import Gateway
from node.settings import NodeSettings
from parallax.replica.engine import Engine, EngineTable, to_ipc
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

    def pivot(self, *by: str) -> dict[tuple[Any, ...], tuple[int, int]]:
        groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
        for row in self.rows:
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
        # A limit table that was emptied is the one case that has no remedy.
        step = rng.choice(
            ["update"] * 4 + ([] if kind == "limit" else ["clear", "replace"]) + ["remove"] * (kind == "indexed")
        )
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
        for by, view in pivots.items():
            rows = await view.to_json()
            found = {
                tuple(row["__ROW_PATH__"]): (row["id"], row["n"] or 0) for row in rows if len(row["__ROW_PATH__"]) == len(by)
            }
            expected = model.pivot(*by)
            if "j" in by:  # dates come as the milliseconds of their first moment
                expected = {
                    tuple(moment(part) if name == "j" else part for name, part in zip(by, path, strict=True)): value
                    for path, value in expected.items()
                }
            assert found == expected, f"{step}, grouped by {by}"
    await viewer.close()
    await gateway.close()


def moment(day: str | None) -> int | None:
    return None if day is None else pa.scalar(day).cast(pa.date32()).cast(pa.timestamp("ms")).value

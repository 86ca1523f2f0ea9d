"""The engine behind its facade, held against the oracle: what records carry, applied in any portions, on any frame clock."""

import asyncio
import os
import random
from collections.abc import Sequence

import pytest

from parallax.replica.digest import digest
from parallax.replica.engine import Engine, EngineTable
from parallax.replication.record import Op
from parallax.replication.spec import ARROW_TYPES, NOT_AN_INDEX, TableSpec
from tests.encodings import arrow_streams
from tests.operations import EVERY_TYPE, INDEXED, LIMITED, PLAIN, Mix, Operation, Operations
from tests.oracle import Oracle, comparable_rows, difference

FIRST = int(os.environ.get("PARALLAX_TEST_SEED", "0"))
SEEDS = range(FIRST, FIRST + int(os.environ.get("PARALLAX_TEST_RUNS", "1")))
KEYED_BY = [
    TableSpec(f"by_{word}", (("id", word), *EVERY_TYPE), index="id") for word in ARROW_TYPES if word not in NOT_AN_INDEX
]
RESETS = Mix(replace=30, clear=5, remove=30)


def records(spec: TableSpec, operations: Sequence[Operation]) -> list[tuple[Op, bytes]]:
    """What the coordinator makes of operations, as far as the engine is concerned."""
    found: list[tuple[Op, bytes]] = []
    for operation in operations:
        op = Op(operation.op)
        payloads = arrow_streams(spec, operation.rows)
        if op is Op.CLEAR or (op is Op.REPLACE and not payloads):
            found.append((Op.CLEAR, b""))
        for payload in payloads:
            found.append((op, payload))
            op = Op.UPDATE if op is Op.REPLACE else op
    return found


async def assert_equal(oracle: Oracle, table: EngineTable, spec: TableSpec) -> None:
    exported = await table.export()
    assert exported.schema == spec.arrow_schema
    assert difference(oracle.rows(), comparable_rows(exported.to_pylist(), spec.columns)) == ""
    assert table.rows == len(oracle)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("mix", [Mix(replace=0.3, clear=0.1), RESETS], ids=["updates", "resets"])
@pytest.mark.parametrize("spec", [INDEXED, LIMITED, PLAIN, *KEYED_BY], ids=lambda spec: spec.name)
async def test_a_table_holds_what_the_oracle_holds(spec: TableSpec, mix: Mix, seed: int) -> None:
    """Applied in portions of any size; polled, exported, loaded again in place and anew at any moments."""
    rng = random.Random(f"{seed} facade")
    engine = Engine(frame_seconds=rng.choice((0.0, 0.001, 1000.0)), threads=2)
    try:
        table, oracle = engine.table(spec.name), Oracle(spec)
        await table.load(spec, spec.arrow_schema.empty_table())
        operations = Operations(spec, seed, mix).take(150)
        while operations:
            count = rng.choice((1, 1, 2, 10))
            together, operations = operations[:count], operations[count:]
            await table.apply(records(spec, together))
            for operation in together:
                oracle.apply(operation.op, operation.rows)
            chance = rng.random()
            if chance < 0.2:
                await asyncio.sleep(0)  # the frame clock's turn
            elif chance < 0.4:
                await table.flush()
            elif chance < 0.7:
                await assert_equal(oracle, table, spec)
            elif chance < 0.75:
                await table.load(spec, await table.export())
            elif chance < 0.8:
                exported = await table.export()
                other = engine.table(spec.name)
                await other.load(spec, exported)
                assert digest(await other.export()) == digest(exported)
                await table.close()
                table = other
        await assert_equal(oracle, table, spec)
    finally:
        await engine.close()

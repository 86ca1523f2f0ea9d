"""The benchmark of the safety compares what it says: one gateway checks nothing, and no other is harmed by that."""

import pyarrow as pa
import pytest

from loadtests.bench_safety import table, unchecked
from node.gateway import Gateway
from node.settings import NodeSettings
from parallax.replica.engine import Engine
from parallax.replication.spec import TableSpec
from parallax.wire import SERVER_ERROR
from tests.test_gateway import make
from tests.viewers import Viewer

SPEC = TableSpec.declare("t", {"schema": {"n": "integer"}, "limit": 9})
MAKE = 6


@pytest.mark.parametrize("checks", [True, False])
async def test_only_the_gateway_without_checks_lets_an_expression_pass_that_is_too_long(checks: bool) -> None:
    engine = Engine(frame_seconds=0.001)
    gateway = Gateway(NodeSettings(linger_seconds=0, max_expression_length=3))
    one = engine.table("t")
    await one.load(SPEC, pa.table({"n": pa.array([1, 2], pa.int32())}))
    gateway.add_table("t", one)
    viewer, too_long = Viewer(gateway), make("v", expressions={"e": '"n" + 1'}, columns=["e"])
    if not checks:
        with unchecked():
            assert (await viewer.ask(MAKE, too_long, "t"))[0].number == MAKE
    assert (await viewer.ask(MAKE, make("w", expressions={"e": '"n" + 2'}, columns=["e"]), "t"))[0].number == SERVER_ERROR
    await viewer.close()
    await gateway.close()
    await engine.close()


def test_ratios_are_those_of_rounds() -> None:
    found = {"x": {"mine": [10.0, 30.0, 20.0], "theirs": [5.0, 30.0, 40.0]}, "other": {"mine": [1.0]}}
    (row,) = table(found, ("mine", "theirs"), "mine").splitlines()[2:]
    assert [cell.strip() for cell in row.strip("|").split("|")] == ["x", "20", "30", "1.00"]

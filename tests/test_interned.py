"""Regular expressions and texts stay in the engine for ever: how much viewers may make it keep."""

import secrets
import subprocess
import sys

import pyarrow as pa
import pytest

from node.gateway import Gateway, messages, safety
from node.gateway.interned import MOST_BY_PATTERN, Interned, cost
from node.settings import NodeSettings
from parallax.replica.engine import Engine
from parallax.replication.spec import TableSpec
from parallax.wire import SERVER_ERROR, Refused
from tests.processes import ROOT
from tests.test_gateway import make
from tests.viewers import Viewer

SPEC = TableSpec.declare("t", {"schema": {"g": "string"}, "limit": 9})
DESCRIBE, MAKE = 41, 6


def test_each_text_costs_once() -> None:
    texts = Interned()
    for expression in ("'abc'", "upper('abc')", "// 'not this'\n concat('abc', 'abc') /* 'nor this' */", '"column" + 1'):
        texts.admit({"e": expression})
    assert texts.bytes == cost("'abc'", is_pattern=False)
    texts.admit({"e": "match(\"g\", 'abc')", "f": "Search(\"g\", 'abc')"})
    assert texts.bytes == cost("'abc'", is_pattern=False) + cost("'abc'", is_pattern=True)
    texts.admit({"e": "match(\"g\", 'ABC')"})
    assert texts.bytes == cost("'abc'", is_pattern=False) + 2 * cost("'abc'", is_pattern=True), "case counts"


def test_what_is_too_much_is_refused_and_what_is_known_goes_on() -> None:
    texts = Interned(limit=10_000)
    texts.admit({"e": "match(\"g\", 'known')"})
    with pytest.raises(Refused, match="as many different texts"):
        texts.admit({"e": f"match(\"g\", '{'x' * 100}')"})
    before = texts.bytes
    texts.admit({"e": "match_all(\"g\", 'known')"})
    assert texts.bytes == before < 10_000


@pytest.mark.parametrize(
    "pattern", ["'.{1000}'", "'.{1,1000}'", "'(.{30}){30}'", f"'{'x{9999999999}' * 300}'", f"'{'a' * 8190}'"]
)
def test_repetitions_count(pattern: str) -> None:
    assert MOST_BY_PATTERN / 2 < cost(pattern, is_pattern=True) - cost(pattern, is_pattern=False) <= MOST_BY_PATTERN


async def test_a_viewer_cannot_make_the_engine_keep_more(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(frame_seconds=0.001)
    gateway = Gateway(NodeSettings(linger_seconds=0))
    table = engine.table("t")
    await table.load(SPEC, pa.table({"g": ["a"]}))
    gateway.add_table("t", table)
    (hosted,) = gateway.hosted
    monkeypatch.setattr(hosted, "interned", Interned(limit=100_000))
    viewer, other = Viewer(gateway), Viewer(gateway)
    known = make("v", expressions={"e": "match(\"g\", 'known')"}, columns=["e"])
    assert (await other.ask(MAKE, known, "t"))[0].number == MAKE
    refused = 0
    for _ in range(30):
        expression = f"match(\"g\", '{secrets.token_hex(50)}')"
        describe = messages.new("Describe")
        describe.config.CopyFrom(safety.only_expressions({"e": expression}))
        for number, body in ((DESCRIBE, messages.encode(describe)), (MAKE, make("w", expressions={"e": expression}))):
            refused += (await viewer.ask(number, body, "t"))[0].number == SERVER_ERROR
    assert 30 < refused < 60
    assert (await other.ask(MAKE, known.replace(b"v", b"w", 1), "t"))[0].number == MAKE, "what is known goes on"
    for one in (viewer, other):
        await one.close()
    await gateway.close()
    await engine.close()


PROGRAM = """
import perspective, secrets, sys
from pathlib import Path
def resident():
    return int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0]) << 10
table = perspective.Server().new_local_client().table({"g": ["a"]})
before = resident()
for _ in range(int(sys.argv[1])):
    table.validate_expressions({"e": sys.argv[2].replace("?", secrets.token_hex(int(sys.argv[3])))})
print(resident() - before)
"""


@pytest.mark.parametrize(
    ("expression", "length"), [("match(\"g\", '?')", 500), ("match(\"g\", '?.{1000}')", 4), ("'?'", 1000)]
)
def test_it_costs_what_is_counted(expression: str, length: int) -> None:
    """When this fails because it costs nothing any more, the bound may go."""
    times = 100 if "match" in expression else 5000
    argv = [sys.executable, "-c", PROGRAM, str(times), expression, str(length)]
    grown = int(subprocess.run(argv, cwd=ROOT, capture_output=True, check=True, text=True).stdout.split()[-1])
    text = expression[expression.index("'") : expression.rindex("'") + 1].replace("?", "x" * 2 * length)
    counted = cost(text, is_pattern="match" in expression)
    assert counted / 8 < grown / times < counted * 1.2

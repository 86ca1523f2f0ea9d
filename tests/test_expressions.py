"""Expressions that would take for ever, or all memory, are refused, whatever they look like; others are not."""

import random
from collections.abc import AsyncIterator

import perspective
import pytest

from node.gateway import Gateway, expressions
from node.settings import NodeSettings
from parallax.replica.engine import Engine
from parallax.replication.spec import TableSpec
from parallax.wire import Refused
from tests.viewers import Viewer

REFUSED = {
    "for (var i := 0; i < 10; i += 1) { 1 }": "'for'",
    "FOR(var i:=0;i<3;i+=1){}; 1": "'for'",
    "1;while/* */(true) { 1 }": "'while'",
    "var i := 0; repeat i += 1; until (i > 3)": "'repeat'",
    "'it''s' for (;;) {}": "'for'",
    "'\\\\' for (;;) {}": "'for'",
    "// a comment\nfor (;;) {}": "'for'",
    "var v[100000000]; v[0]": "vectors",
    "var v/* */\n[10]; v[0]": "vectors",
    "VLookup('n', 1)": "vlookup",
    'var x := concat("s", "s"); ' + "x := concat(x, x); " * 13 + "x": "longer",
    "var x := replace_all(\"s\", 'a', 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'); "
    + "x := replace_all(x, 'a', 'aaaa'); " * 2: "longer",
    'var x := concat("s", ' + ", ".join(['"s"'] * 101) + "); concat(" + ", ".join(["x"] * 100) + ")": "longer",
}

ALLOWED = [
    '"n" * 2',
    "'for while [x] vlookup'",
    '"for" + "vector[1]"',
    "1 // for ever [",
    "/* while */ 1",
    "# repeat\n1",
    'var fore := 1; var x := concat("s", \'-\', "s"); concat(x, x)',
    'if ("n" > 3) 1; else 0;',
    "match(\"s\", '[a-z]\\\\d+')",
    'concat(concat("s", "s"), concat("s", "s"))',
    "",
]

LIMITS = {"most": 50, "longest": 4000, "allow_loops": False}


@pytest.mark.parametrize("text", REFUSED)
def test_refused(text: str) -> None:
    with pytest.raises(Refused, match=REFUSED[text]):
        expressions.check({"e": text}, **LIMITS)


@pytest.mark.parametrize("text", ALLOWED)
def test_allowed(text: str) -> None:
    expressions.check({"e": text}, **LIMITS)


def test_how_many_and_how_long() -> None:
    expressions.check({"e": "1" * 10}, most=1, longest=10, allow_loops=False)
    with pytest.raises(Refused, match="PARALLAX_MAX_EXPRESSION_LENGTH"):
        expressions.check({"e": "1" * 11}, most=1, longest=10, allow_loops=False)
    with pytest.raises(Refused, match="PARALLAX_MAX_EXPRESSIONS"):
        expressions.check({"e": "1", "f": "2"}, most=1, longest=10, allow_loops=False)
    expressions.check({"e": "for (;;) { var v[10]; }"}, most=1, longest=100, allow_loops=True)


BITS = [
    "'",
    '"',
    "\\",
    "'",
    "a",
    " ",
    "#",
    "//",
    "/*",
    "*/",
    "\n",
    "'x'",
    '"a"',
    "\\'",
    '\\"',
    "1",
    ";",
    "length(",
    ")",
    "'\\\\'",
]
LOOP = "var z := 0; for (var i := 0; i < 5; i += 1) { z += 1; }; z"


def _compare(rng: random.Random, cases: int) -> int:
    """Look for a loop that the engine runs and that is not seen here; return how many it took that have none for us."""
    table = perspective.Server().new_local_client().table({"a": [1, 2, 3], "s": ["x", "y", "z"]})
    valid = 0
    for _ in range(cases):
        before = "".join(rng.choice(BITS) for _ in range(rng.randrange(1, 7))) + rng.choice([";", "", "\n", " "])
        text = before + LOOP + "".join(rng.choice(BITS) for _ in range(rng.randrange(4)))
        if ("word", "for") in expressions.tokens(text):
            continue
        try:
            found = table.validate_expressions({"e": text})["expression_schema"]
        except perspective.PerspectiveError:
            continue
        valid += bool(found)
        if found.get("e") == "float":
            view = table.view(expressions={"e": text}, columns=["e"])
            assert view.to_columns()["e"][0] != 5, f"it runs, and was not seen: {text!r}"
            view.delete()
    return valid


def test_what_is_quoted_here_is_quoted_for_the_engine() -> None:
    assert _compare(random.Random(1), 4000) > 20


@pytest.mark.deep
def test_what_is_quoted_here_is_quoted_for_the_engine_however_it_is_mixed() -> None:
    assert _compare(random.Random(2), 400_000) > 2000


@pytest.fixture
async def viewer() -> AsyncIterator[Viewer]:
    engine = Engine(frame_seconds=0.001)
    spec = TableSpec.declare("t", {"schema": {"s": "string", "n": "integer"}, "max_rows": 100})
    table = engine.table("t")
    await table.load(spec, spec.arrow_schema.empty_table())
    gateway = Gateway(NodeSettings(max_expressions=1))
    gateway.add_table("t", table)
    viewer = Viewer(gateway)
    yield viewer
    await viewer.close()
    await gateway.close()
    await engine.close()


async def test_the_gateway_refuses_them_in_every_request(viewer: Viewer) -> None:
    table = await (await viewer.connect()).open_table("t")
    for bad in ({"e": "var v[10]; v[0]"}, {"e": '"n" + 1', "f": '"n" + 2'}):
        with pytest.raises(Exception, match="allowed"):
            await table.view(expressions=bad)
        with pytest.raises(Exception, match="allowed"):
            await table.validate_expressions(bad)
    view = await table.view(expressions={"e": '"n" + 1'}, columns=["e"])
    assert await view.num_columns() == 1

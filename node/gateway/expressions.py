"""The texts of expressions, checked before the engine computes them for each row of a table, which nobody can stop.

The engine's language has loops and vectors, which cost as much as their author likes, and variables, with which a few words
become gigabytes: `x := concat(x, x)`, again and again.
"""

import re
from collections.abc import Mapping

from parallax.wire import Refused

TOKEN = re.compile(
    r"""(?P<space>\s+|//[^\n]*|\#[^\n]*|/\*.*?\*/)
    |(?P<text>'(?:\\.|[^'\\])*')
    |(?P<column>"(?:\\.|[^"\\])*")
    |(?P<number>\d[\w.]*)
    |(?P<word>[^\W\d]\w*)
    |(?P<sign>:=|.)""",
    re.VERBOSE | re.DOTALL,
)
LOOPS = frozenset({"for", "while", "repeat", "until"})
GROWS = frozenset({"concat", "replace", "replace_all"})
MOST_GROWTH = 10_000
"""So many times its arguments an expression with variables may make a string longer."""

Token = tuple[str, str]
"""What it is, a group of `TOKEN`; and the text of it, in lower case."""


def check(expressions: Mapping[str, str], *, most: int, longest: int, allow_loops: bool) -> None:
    """Check the expressions of a view.

    Raises:
        Refused: there are too many, or one is too long, or could take for ever, or all memory, or spoil other views.
    """
    if len(expressions) > most:
        raise Refused(f"{len(expressions)} expressions, at most {most} are allowed (PARALLAX_MAX_EXPRESSIONS)")
    for name, text in expressions.items():
        if len(text) > longest:
            raise Refused(
                f"expression {name!r} has {len(text)} characters, at most {longest} are allowed (PARALLAX_MAX_EXPRESSION_LENGTH)"
            )
        _check(name, tokens(text), allow_loops)


def tokens(text: str) -> list[Token]:
    """Return the tokens of an expression, without spaces and comments; `tests/test_expressions.py` holds them against the engine's."""
    found = ((str(match.lastgroup), match.group().lower()) for match in TOKEN.finditer(text))
    return [(kind, part) for kind, part in found if kind != "space"]


def _check(name: str, found: list[Token], allow_loops: bool) -> None:
    words = {part for kind, part in found if kind == "word"}
    if "vlookup" in words:
        raise Refused(f"expression {name!r}: vlookup is not available, it would spoil the views of all others")
    if not allow_loops:
        for loop in sorted(LOOPS & words):
            raise Refused(f"expression {name!r}: {loop!r} is not allowed, nor are other loops (PARALLAX_ALLOW_LOOPS)")
        if ("sign", "[") in found:
            raise Refused(f"expression {name!r}: vectors are not allowed (PARALLAX_ALLOW_LOOPS)")
    if ("sign", ":=") in found and GROWS & words and growth(found) > MOST_GROWTH:
        raise Refused(f"expression {name!r} could make a string more than {MOST_GROWTH:,} times longer than its arguments")


def growth(found: list[Token]) -> int:
    """Return how many times longer, at most, all calls of functions that make strings longer make one."""
    longest = max((len(part) for kind, part in found if kind == "text"), default=2)
    most = 1
    for at, (kind, part) in enumerate(found):
        if kind == "word" and part in GROWS:
            most *= arguments(found[at + 1 :]) if part == "concat" else longest
    return most


def arguments(found: list[Token]) -> int:
    """Return how many arguments the call has whose name stands before these tokens."""
    depth, count = 0, 1
    for token in found:
        if token == ("sign", "("):
            depth += 1
        elif token == ("sign", ")"):
            depth -= 1
        elif token == ("sign", ",") and depth == 1:
            count += 1
        if depth <= 0:
            break
    return count

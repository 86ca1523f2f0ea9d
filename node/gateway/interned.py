"""What the engine keeps of expressions as long as a table lives, and how much of it viewers may make it keep.

Of every text in an expression it keeps copies, and of every regular expression its program: 10 KiB for 100 characters, 340 for
4,000, as many for `.{1000}`, measured in `tests/test_interned.py`. Views that are deleted give nothing of it back.
"""

import re
from collections.abc import Mapping

from node.gateway.expressions import TOKEN
from parallax.wire import Refused

MOST_BYTES = 64 << 20
"""What the texts of one table's expressions may cost together; with texts of 20 characters that are 25,000 regular expressions."""
BY_CHARACTER, BY_PATTERN_CHARACTER = 4, 128
MOST_BY_PATTERN = 1 << 20
PATTERNS = frozenset({"match", "match_all", "search", "indexof", "replace", "replace_all", "fullmatch"})
_REPEATED = re.compile(r"\{(\d*),?(\d*)\}")


class Interned:
    """The texts that one table's engine was told. Each costs once, whoever says it."""

    def __init__(self, limit: int = MOST_BYTES) -> None:
        self.bytes = 0
        self._limit = limit
        self._known: set[int] = set()

    def admit(self, expressions: Mapping[str, str]) -> None:
        """Take note of all texts in some expressions.

        Raises:
            Refused: with those that are new it would be too much.
        """
        new: dict[int, int] = {}
        for expression in expressions.values():
            found = [(match.lastgroup, match.group()) for match in TOKEN.finditer(expression)]
            are_patterns = any(kind == "word" and part.lower() in PATTERNS for kind, part in found)
            for kind, part in found:
                known_as = hash((part, are_patterns))
                if kind == "text" and known_as not in self._known:
                    new[known_as] = cost(part, is_pattern=are_patterns)
        size = sum(new.values())
        if self.bytes + size > self._limit:
            raise Refused(
                "this node has seen as many different texts and patterns in expressions of this table as it can keep; "
                "those that it knows can go on being used"
            )
        self.bytes += size
        self._known.update(new)


def cost(text: str, *, is_pattern: bool) -> int:
    """Return about how many bytes the engine keeps of a text; rather more."""
    size = 200 + BY_CHARACTER * len(text)
    if is_pattern:
        times = 1
        for least, most in _REPEATED.findall(text):
            times = min(MOST_BY_PATTERN, times * max(1, int(least[-6:] or 0), int(most[-6:] or 0)))
        size += min(MOST_BY_PATTERN, BY_PATTERN_CHARACTER * len(text) * times)
    return size

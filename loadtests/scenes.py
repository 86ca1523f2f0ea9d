"""Who looks at what: views of one table, of which a share of the viewers has the same and the others each one of their own."""

from collections import Counter
from dataclasses import dataclass
from functools import cache
from math import floor
from typing import Any

from loadtests import market
from loadtests.plan import Dialogue
from loadtests.requests import record

KINDS: dict[str, dict[str, Any]] = {
    "sorted": {"sort": [["price", "desc"]]},
    "grouped": {"group_by": ["symbol"], "columns": ["price", "size"], "aggregates": {"price": "max"}},
}
"""Both have the newest price, which is the newest tick's instant, in the first row that they show."""


@cache
def view(kind: str, number: int) -> Dialogue:
    """Return the dialogue of a viewer of the view of that kind and number: all show the same rows, none is equal to another."""
    return record(market.SCHEMA, **KINDS[kind], filter=[["size", ">", -1 - number]])


@dataclass(frozen=True, slots=True)
class Scene:
    """What viewers look at."""

    kinds: tuple[str, ...] = tuple(KINDS)
    share: float = 1.0
    """Of the viewers, who look at the same as others: at one view of each kind."""
    table: str = "middle"

    def views(self, viewers: int) -> list[tuple[str, int]]:
        """Return each viewer's kind and number of view; those with one of their own are spread among the others."""
        found = []
        turns = Counter[bool]()
        for viewer in range(viewers):
            is_shared = floor((viewer + 1) * self.share + 1e-9) > floor(viewer * self.share + 1e-9)
            kind = self.kinds[turns[is_shared] % len(self.kinds)]
            turns[is_shared] += 1
            found.append((kind, 0 if is_shared else viewer + 1))
        return found


def distinct(views: list[tuple[str, int]]) -> dict[str, int]:
    """Return how many different views of each kind there are."""
    return dict(Counter(kind for kind, _ in set(views)))

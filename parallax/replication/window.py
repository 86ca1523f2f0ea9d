"""Which writes of which producers are already in a table's history."""

from collections.abc import Iterable, Mapping

CAPACITY = 10_000
"""Producers remembered for each table; beyond it the longest unseen is forgotten."""


class Window:
    """The highest sequence number of each producer, in the order in which they were last seen.

    It is part of a table's state: a pure function of its records, so every replica holds the same one.
    """

    def __init__(self, entries: Iterable[tuple[str, int]] = ()) -> None:
        self._highest = dict(entries)

    def is_duplicate(self, producer: str, seq: int) -> bool:
        """Say whether this write, or a later one of the same producer, is in the history already."""
        return seq <= self._highest.get(producer, -1)

    def advance(self, producers: Mapping[str, int]) -> None:
        """Take in the producers of one record."""
        for producer, seq in producers.items():
            highest = self._highest.pop(producer, -1)
            self._highest[producer] = max(highest, seq)
        while len(self._highest) > CAPACITY:
            del self._highest[next(iter(self._highest))]

    def entries(self) -> list[tuple[str, int]]:
        """Return (producer, highest seq), the longest unseen first."""
        return list(self._highest.items())

    def copy(self) -> "Window":
        """Return an independent copy."""
        return Window(self._highest.items())

"""Where a record stands in its table's history."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A record's place, and its Redis stream ID: `term-offset`.

    A Position stands for one content and one resulting state in any history. Replicas compare positions for equality and
    membership only: after a loss of Redis's data a newer history may hold smaller positions.
    """

    term: int  # fencing token, unique to one `begin`, grows with each
    offset: int  # number of the record in the table's history, from 1, +1 each, through all terms

    def __str__(self) -> str:
        return f"{self.term}-{self.offset}"

    @classmethod
    def parse(cls, text: str | bytes) -> "Position":
        """Read `term-offset`.

        Raises:
            ValueError: `text` is not two whole numbers joined by a dash.
        """
        if isinstance(text, bytes):
            text = text.decode("ascii")
        term, dash, offset = text.partition("-")
        if not (dash and term.isdecimal() and offset.isdecimal()):
            raise ValueError(f"{text!r} is no position: expected term-offset, such as 7-42")
        return cls(int(term), int(offset))

    def next(self) -> "Position":
        """Return the position of the record that follows in the same term."""
        return Position(self.term, self.offset + 1)


ORIGIN = Position(0, 0)
"""Before the first record of a table; also where a replica stands that holds nothing."""


def new_term(now_ms: int, highest: int, random: int) -> int:
    """Return a term above `highest`, the highest seen in log or replica, unique by its 20 low bits of `random`.

    It fits a stream ID's 64 bits until the year 2527.
    """
    return max(now_ms, (highest >> 20) + 1) << 20 | random & 0xFFFFF

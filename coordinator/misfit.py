"""What does not fit, and where: rows are counted from 0, lines of ndjson from 1."""

from parallax.errors import BadEntry


class Misfit(Exception):
    """A value, row or column that the table cannot take. Not to be confused with BadEntry, which is the whole text."""

    def __init__(self, reason: str, *, row: int | None = None, column: str | None = None) -> None:
        self.reason, self.row, self.column = reason, row, column
        super().__init__(reason)

    def refusal(self, place: str | None) -> BadEntry:
        """Return the refusal; `place` says where the row is, in the words of the entry's format."""
        column = None if self.column is None else f"column {shortened(self.column)!r}"
        where = ", ".join(word for word in (place, column) if word)
        return BadEntry(f"{where}: {self.reason}" if where else self.reason)


def shortened(text: str, most: int = 80) -> str:
    """Return a text that was sent, cut to what fits into a message."""
    return text if len(text) <= most else text[: most - 3] + "..."

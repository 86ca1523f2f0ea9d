"""What an entry's data holds once it is read, before it is held against the table: rows, columns or Arrow.

Neighbouring entries whose content is alike are joined and checked together, which costs a fraction.
"""

from collections.abc import Sequence
from typing import Protocol, Self

import pyarrow as pa

from parallax.replication.spec import TableSpec


class Content(Protocol):
    """Rows in one of the forms in which they are sent."""

    def __len__(self) -> int: ...

    def is_like(self, other: object) -> bool:
        """Say whether the two can be joined."""

    def joined(self, others: Sequence[Self]) -> Self:
        """Return all rows in their order."""

    def fit(self, spec: TableSpec) -> list[pa.Table]:
        """Return tables whose columns are a subset of the spec's, in the spec's order and types.

        Raises:
            Misfit: something does not fit; its row counts from the first of all rows.
        """

    def place(self, row: int) -> str:
        """Return where a row is, in words that its publisher understands."""

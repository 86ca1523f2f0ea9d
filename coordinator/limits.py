"""How much of ingest is looked at in one go, and how much one entry may take."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one record, one look at ingest, and one entry may hold."""

    batch_rows: int = 100_000
    batch_bytes: int = 4 << 20
    batch_entries: int = 5_000
    inline_max: int = 1 << 20  # neighbours are merged up to this payload; what is larger by itself is stored beside the log
    max_entry_bytes: int = 64 << 20  # data of one entry; more is refused unread
    max_entry_rows_bytes: int = 512 << 20  # what one entry's data may take in memory once it is read; checked before

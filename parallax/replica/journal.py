"""What the engine is at work on, in memory that outlives a process that the engine ends: see `parallax.guard`."""

import json
import mmap
import os
import struct
import time
from collections.abc import Iterable
from typing import Any

VARIABLE = "PARALLAX_JOURNAL"
"""Set by the guard for its child: the number of the file descriptor."""

VIEW, ROWS = "view", "rows"
"""Kinds of work: a view is made, read or changed; the table's rows are changed or read."""
SLOTS = 1024
SLOT_BYTES = 1 << 15
_LENGTH = struct.Struct("<I")


class Journal:
    """One slot for each table: its lane does one thing at a time. Memory is used only where something was noted."""

    def __init__(self, descriptor: int = -1) -> None:
        """Map a file of `SLOTS * SLOT_BYTES` bytes; without one, nobody will read what is noted."""
        self._memory = mmap.mmap(descriptor, SLOTS * SLOT_BYTES)
        self._free = list(range(SLOTS - 1, -1, -1))

    @classmethod
    def inherited(cls) -> "Journal":
        """Return the one that the guard handed to this process, if there is a guard."""
        return cls(int(os.environ.get(VARIABLE, "-1")))

    def open(self, table: str) -> "Work":
        """Return a table's slot. With more tables than slots, the last ones share one, and what it says of them may be wrong."""
        return Work(table, self._memory, self._free.pop() if self._free else SLOTS - 1)

    def close(self, work: "Work") -> None:
        """Take a slot back."""
        work.end()
        self._free.append(work.slot)


class Work:
    """What one table's lane is at work on. To note it takes a few hundred nanoseconds: it is done for every request."""

    def __init__(self, table: str, memory: mmap.mmap, slot: int) -> None:
        self.slot = slot
        self.position = ""
        """Where in its log the table will be after the next change of its rows, if whoever changes them says so."""
        self.visible = ""
        """Where it was at the last poll."""
        self.view: tuple[str, float] | None = None
        """The fingerprint of the view for which the lane is at work, and since when (time.monotonic())."""
        self._table = json.dumps(table)
        self._view = f'{{"kind":"{VIEW}","table":{self._table},"view":"'.encode()
        self._memory = memory
        self._offset = slot * SLOT_BYTES

    def on_view(self, fingerprint: str) -> None:
        """Note that a view is about to be made, read or changed."""
        self.view = (fingerprint, time.monotonic())
        self._begin(self._view + fingerprint.encode() + b'"}')

    def on_rows(self, views: Iterable[str]) -> None:
        """Note that the rows are about to change, or to be read; the table has views with these fingerprints."""
        names = ",".join(f'"{view}"' for view in sorted(set(views)) if view)
        text = f'{{"kind":"{ROWS}","table":{self._table},"position":"{self.position}","views":[{names}]}}'
        self._begin(text.encode())

    def end(self) -> None:
        """Note that it is done."""
        self.view = None
        _LENGTH.pack_into(self._memory, self._offset, 0)

    def _begin(self, text: bytes) -> None:
        text = text[: SLOT_BYTES - _LENGTH.size]
        begin = self._offset + _LENGTH.size
        self._memory[begin : begin + len(text)] = text
        _LENGTH.pack_into(self._memory, self._offset, len(text))


def create() -> int:
    """Return the descriptor of a new, empty journal, in memory and not in any file system."""
    descriptor = os.memfd_create("parallax-journal")
    os.ftruncate(descriptor, SLOTS * SLOT_BYTES)
    return descriptor


def read(descriptor: int) -> list[dict[str, Any]]:
    """Return what was under way in each slot when the process that wrote it ended. What cannot be read is left out."""
    found = []
    for number in range(SLOTS):
        (length,) = _LENGTH.unpack(os.pread(descriptor, _LENGTH.size, number * SLOT_BYTES))
        if not length:
            continue
        text = os.pread(descriptor, min(length, SLOT_BYTES), number * SLOT_BYTES + _LENGTH.size)
        try:
            found.append(json.loads(text))
        except ValueError:
            continue
    return found

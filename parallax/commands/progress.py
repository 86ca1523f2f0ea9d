"""A line that says how far a command is, on a terminal."""

import sys
import time
from typing import TextIO

WIDTH = 30
PAUSE_SECONDS = 0.1


class Progress:
    """Counts rows and bytes; where the stream is a terminal, shows them as a bar (or as a count, if the end is not known)."""

    def __init__(self, total_bytes: int | None = None, stream: TextIO | None = None) -> None:
        self.rows = self.entries = 0
        self._bytes, self._total = 0, total_bytes
        self._stream = stream or sys.stderr
        self._is_shown = self._stream.isatty()
        self._started = time.monotonic()
        self._shown_at = 0.0

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    @property
    def rate(self) -> float:
        """Rows a second since the start."""
        return self.rows / max(self.seconds, 1e-9)

    def read(self, count: int) -> None:
        """Count bytes that were read."""
        self._bytes += count

    def sent(self, rows: int) -> None:
        """Count one entry."""
        self.rows += rows
        self.entries += 1
        if self._is_shown and time.monotonic() - self._shown_at > PAUSE_SECONDS:
            self._shown_at = time.monotonic()
            self._stream.write(f"\r{self.line()}\x1b[K")
            self._stream.flush()

    def line(self) -> str:
        """Return the line as it is shown."""
        count = f"{self.rows:,} rows, {self.rate:,.0f} rows/s"
        if not self._total:
            return count
        part = min(1.0, self._bytes / self._total)
        bar = "#" * round(part * WIDTH)
        return f"[{bar:<{WIDTH}}] {part:4.0%}  {count}"

    def end(self) -> None:
        """Remove the line."""
        if self._is_shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

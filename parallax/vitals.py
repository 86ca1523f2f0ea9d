"""How a process fares: what every member announces of itself."""

import time
from typing import Any

from parallax.memory import resident_bytes

LEAST_SECONDS = 0.9
"""Over a shorter time it is not measured how busy the loop is."""


class Vitals:
    """Memory, and which part of the time the event loop was at work. Ask on the event loop's thread."""

    def __init__(self) -> None:
        self._at, self._used = time.monotonic(), time.thread_time()
        self._busy = 0.0

    def describe(self) -> dict[str, Any]:
        """Return what is announced."""
        now, used = time.monotonic(), time.thread_time()
        if now - self._at >= LEAST_SECONDS:
            self._busy = (used - self._used) / (now - self._at)
            self._at, self._used = now, used
        return {"memory_bytes": resident_bytes(), "loop_busy": round(self._busy, 3)}

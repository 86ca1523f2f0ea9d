"""What may not grow while a fleet works for long: memory of its processes, and the log."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

SAMPLES = 120
"""Of a run: often enough to see the log grow and be cut."""
TIMES, BYTES = 1.1, 24 << 20
"""The most in the last half may be so many times the most in the second quarter, and so much more: caches fill, allocators keep."""


@dataclass(slots=True)
class Growth:
    """Samples of sizes in bytes, by what they are the size of."""

    samples: dict[str, list[int]] = field(default_factory=dict)

    async def watch(self, look: Callable[[], Awaitable[Mapping[str, int]]], start: float, seconds: float) -> None:
        """Sample from `start` (time.time()) on for so many seconds."""
        for number in range(SAMPLES):
            await asyncio.sleep(max(0.0, start + number * seconds / SAMPLES - time.time()))
            for name, size in (await look()).items():
                self.samples.setdefault(name, []).append(size)

    def grown(self) -> dict[str, str]:
        """Return what has grown, and how it did in words."""
        return {
            name: f"{name} grew from at most {before >> 20:,} MiB to {after >> 20:,} MiB"
            for name, (before, after) in self._extremes().items()
            if after > TIMES * before + BYTES
        }

    def __str__(self) -> str:
        """One line for each: the most in the second quarter, and in the last half."""
        return "\n".join(
            f"{name:<16}{before / 2**20:>10,.1f} MiB in the second quarter{after / 2**20:>10,.1f} MiB in the last half, at most"
            for name, (before, after) in self._extremes().items()
        )

    def _extremes(self) -> dict[str, tuple[int, int]]:
        return {name: extremes(sizes) for name, sizes in self.samples.items() if len(sizes) >= 4}


def extremes(sizes: Sequence[int]) -> tuple[int, int]:
    """Return the largest of the second quarter, and of the last half."""
    quarter, half = len(sizes) // 4, len(sizes) // 2
    return max(sizes[quarter:half]), max(sizes[half:])

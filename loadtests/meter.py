"""What a process uses, from /proc."""

import os
from collections.abc import Sequence
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


class Meter:
    """Counts a process's processor time from now on."""

    def __init__(self, pid: int) -> None:
        self._process = Path(f"/proc/{pid}")
        self._main = self._process / "task" / str(pid)
        self._began = _used(self._process)
        self._main_began = _used(self._main)

    def cpu_seconds(self) -> float:
        """Return the processor time of all its threads since the meter was made."""
        return _used(self._process) - self._began

    def main_thread_seconds(self) -> float:
        """Return that of its first thread, which in a node runs the event loop."""
        return _used(self._main) - self._main_began

    def rss_bytes(self) -> int:
        """Return its resident memory."""
        for line in (self._process / "status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        return 0


def busy_seconds() -> float:
    """Return the processor time of all processes of the machine so far, and what a hypervisor took; without interrupts."""
    user, nice, system, _, _, _, _, steal = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9])
    return (user + nice + system + steal) / TICKS


def _used(process: Path) -> float:
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def percentile(values: Sequence[float], share: float) -> float | None:
    """Return the value that `share` of all do not exceed, None if there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else None

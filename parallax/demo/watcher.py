"""The demo's last will: a small process that outlives it and clears up after it, however it ended.

Run by path, without Parallax: `python -I -S watcher.py DIRECTORY-PREFIX`. It makes the demo's temporary directory, prints its path, and reads
lines from stdin: `+PID` for a process group that runs, `-PID` for one that has ended. At the end of its input, which the
kernel sees to even after `kill -9`, it ends the groups that remain and removes the directory.
"""

import os
import shutil
import signal
import sys
import tempfile
import time

GRACE_SECONDS = 3.0  # between SIGTERM and SIGKILL


def main(prefix: str) -> None:
    """Watch until the end of stdin, then clear up."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # what ends the demo must not end this first
    directory = tempfile.mkdtemp(prefix=prefix)
    print(directory, flush=True)
    groups: set[int] = set()
    for line in sys.stdin:
        group = int(line[1:])
        if line[0] == "+":
            groups.add(group)
        else:
            groups.discard(group)
    try:
        end(groups)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def end(groups: set[int]) -> None:
    """Ask the process groups to end; kill those that do not."""
    alive = {group for group in groups if signalled(group, signal.SIGTERM)}
    deadline = time.monotonic() + GRACE_SECONDS
    while alive and time.monotonic() < deadline:
        time.sleep(0.05)
        alive = {group for group in alive if signalled(group, 0)}
    for group in alive:
        signalled(group, signal.SIGKILL)


def signalled(group: int, number: int) -> bool:
    """Send a signal to a process group and return whether it still exists."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):  # macOS: the latter for a group of zombies
        return False
    return True


if __name__ == "__main__":
    main(sys.argv[1])

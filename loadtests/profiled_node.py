"""A node under cProfile, `python -m loadtests.profiled_node LOOP.profile ENGINE.profile`: one for its event loop, one for all other threads.

Times are of the threads' processors, not of the clock: what waits costs nothing.
"""

import cProfile
import pstats
import sys
import threading
import time
from functools import partialmethod

from node.__main__ import run as run_node

profiles: list[cProfile.Profile] = []


def _run(thread: threading.Thread) -> None:
    """Run a thread under a profile of its own."""
    made = cProfile.Profile(time.thread_time)
    profiles.append(made)
    made.enable()
    try:
        run_thread(thread)
    finally:
        made.disable()


run_thread = threading.Thread.run


def main() -> int:
    """Run a node, and write what was found when it ends."""
    loop_file, engine_file = sys.argv[1:]
    threading.Thread.run = partialmethod(_run)  # type: ignore[assignment,method-assign]
    own = cProfile.Profile(time.thread_time)
    own.enable()
    try:
        return run_node()
    finally:
        own.disable()
        own.dump_stats(loop_file)
        made = [one for one in profiles if one.getstats()]
        if made:
            pstats.Stats(*made).dump_stats(engine_file)


if __name__ == "__main__":
    sys.exit(main())

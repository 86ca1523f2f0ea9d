"""The guard: a small process that runs a service as its child, and tells the fleet what the engine did when it ended that one.

A crash in native code leaves nobody behind who could say what led to it. So a service notes in memory that it shares with its
guard what it hands to the engine; the guard reads the note when the engine has ended its child, before any viewer is back.
"""

import asyncio
import ctypes
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial

from parallax.errors import ConfigurationError
from parallax.logs import complain
from parallax.settings import CommonSettings, load

CRASHES = {signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE}
"""How native code ends a process. SIGKILL is not among them: it says nothing about what the process was at work on."""

AFRESH = 75
"""The exit code of a service that wants to be started again (EX_TEMPFAIL): at once by its guard, else by whoever runs it."""
OWNER = "PARALLAX_GUARD_ID"
"""Set for the child: a name that stays the same when it is started again."""
REPORT_SECONDS = 3.0
_PR_SET_PDEATHSIG = 1


def run(kind: type[CommonSettings], service: Callable[[], int], command: Sequence[str]) -> int:
    """Run `command`, which shall run `service` in this way again, under guard; return its exit code, 128 + n after signal n.

    In the child, and if the settings want no guard, or are wrong, which is for the service to say, `service` is run at once.
    """
    from parallax.replica import journal  # what the guard needs is little: it stays in memory for as long as its child

    if journal.VARIABLE in os.environ:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # the kernel ends us when the guard is gone
        return service()
    try:
        settings = load(kind)
    except ConfigurationError:
        return service()
    if not settings.guard or not sys.platform.startswith("linux"):
        return service()
    environ = os.environ | {OWNER: secrets.token_hex(8)}
    code = AFRESH
    while code == AFRESH:
        descriptor = journal.create()
        environ[journal.VARIABLE] = str(descriptor)
        child = subprocess.Popen(command, env=environ, pass_fds=[descriptor])
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, partial(_pass_on, child))
        from parallax import quarantine, store  # noqa: F401 - now, while the child starts: when it has died, there is no time

        code = child.wait()
        works = journal.read(descriptor)
        os.close(descriptor)
    if code >= 0:
        return code
    ending = signal.Signals(-code)
    if ending in CRASHES:
        complain(f"the engine ended the process ({ending.name}) while at work on {works}"[:2000])
        try:
            asyncio.run(asyncio.wait_for(_report(settings, works), REPORT_SECONDS))
        except Exception as error:  # noqa: BLE001 - Redis is away, or whatever else: the exit code must be told all the same
            complain(f"the fleet could not be told: {error!r}")
    return 128 - code


def _pass_on(child: "subprocess.Popen[bytes]", number: int, _: object) -> None:
    child.send_signal(number)


async def _report(settings: CommonSettings, works: list[dict[str, object]]) -> None:
    from parallax import quarantine
    from parallax.replication.keys import FleetKeys
    from parallax.store import connect

    redis = connect(settings.redis(), timeout_seconds=REPORT_SECONDS)
    try:
        await quarantine.blame(redis, FleetKeys(settings.prefix), works, settings.quarantine_seconds)
    finally:
        await redis.aclose()

"""What is free is given back to the system."""

import asyncio
import ctypes
import platform
from pathlib import Path

import pytest

from parallax import memory
from parallax.tasks import Tasks
from tests.processes import until

PIECES, SIZE = 60_000, 2000


def resident() -> int:
    return int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0]) << 10


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another malloc")
async def test_what_malloc_keeps_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]

    def come_and_go() -> int:
        """Leave one small piece above many that are free; it may stay for ever."""
        pieces = [libc.malloc(SIZE) for _ in range(PIECES)]
        for piece in pieces:
            ctypes.memset(piece, 1, SIZE)
        for piece in pieces[:-1]:
            libc.free(piece)
        return int(pieces[-1])

    last = await asyncio.to_thread(come_and_go)
    held = resident()
    monkeypatch.setattr(memory, "TRIM_SECONDS", 0.01)
    async with Tasks() as tasks:
        tasks.start(memory.give_back(), name="free memory")

        async def is_given_back() -> bool:
            return held - resident() > PIECES * SIZE // 2

        await until(is_given_back, 10, "most of it is given back")
    libc.free(last)


async def test_where_there_is_no_such_malloc_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    await asyncio.wait_for(memory.give_back(), 1)

"""A node or coordinator whose tables can be spoiled behind their replicas' backs: `python -m tests.corruptible node|coordinator`.

At SIGUSR1 the first row of each of its tables gets another value in column `x`, which the replica knows nothing of: one that no
other process gives it; at SIGUSR2 one that all do.
"""

import asyncio
import importlib
import os
import signal
import sys
from typing import Any

import pyarrow as pa

from parallax.process import run_service
from parallax.replica.encodings import to_ipc
from parallax.replica.engine import Engine, EngineTable
from parallax.replication.record import Op
from parallax.tasks import Tasks

TABLES: list[EngineTable] = []


class WatchedEngine(Engine):
    """Remembers its tables."""

    def table(self, name: str) -> EngineTable:
        table = super().table(name)
        TABLES.append(table)
        return table


async def spoil(x: int) -> None:
    for table in TABLES:
        rows = await table.export()
        row = rows.slice(0, 1).to_pylist()[0] | {"x": x}
        await table.apply([(Op.UPDATE, to_ipc(pa.Table.from_pylist([row], schema=rows.schema)))])
        await table.flush()
    print("spoiled", flush=True)


def main() -> int:
    server = importlib.import_module(f"{sys.argv[1]}.server")
    settings = importlib.import_module(f"{sys.argv[1]}.settings")
    server.Engine = WatchedEngine

    async def serve(values: Any, stop: asyncio.Event) -> None:
        async with Tasks() as tasks:
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGUSR1, lambda: tasks.start(spoil(os.getpid()), name="spoiling"))
            loop.add_signal_handler(signal.SIGUSR2, lambda: tasks.start(spoil(-1), name="spoiling"))
            await server.serve(values, stop)

    return run_service(getattr(settings, f"{sys.argv[1].capitalize()}Settings"), serve)


if __name__ == "__main__":
    sys.exit(main())

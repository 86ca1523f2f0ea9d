"""A node or coordinator whose tables can be spoiled behind their replicas' backs: `python -m tests.corruptible node|coordinator`.

At SIGUSR1 the first row of each of its tables gets another value in column `x`, which the replica knows nothing of.
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


async def spoil() -> None:
    for table in TABLES:
        rows = await table.export()
        row = rows.slice(0, 1).to_pylist()[0] | {"x": os.getpid()}
        await table.apply([(Op.UPDATE, to_ipc(pa.Table.from_pylist([row], schema=rows.schema)))])
        await table.flush()
    print("spoiled", flush=True)


def main() -> int:
    server = importlib.import_module(f"{sys.argv[1]}.server")
    settings = importlib.import_module(f"{sys.argv[1]}.settings")
    server.Engine = WatchedEngine

    async def serve(values: Any, stop: asyncio.Event) -> None:
        async with Tasks() as tasks:
            asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, lambda: tasks.start(spoil(), name="spoiling"))
            await server.serve(values, stop)

    return run_service(getattr(settings, f"{sys.argv[1].capitalize()}Settings"), serve)


if __name__ == "__main__":
    sys.exit(main())

"""Clients that read a feed and throw it away, `python -m loadtests.subscribers PORT CHANNEL COUNT`: what Redis sends to as many nodes."""

import asyncio
import sys

import uvloop


async def read(port: int, channel: str) -> None:
    """Subscribe, and read until killed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    writer.write(f"*2\r\n$9\r\nSUBSCRIBE\r\n${len(channel)}\r\n{channel}\r\n".encode())
    while await reader.read(1 << 20):
        pass


async def read_all(port: int, channel: str, count: int) -> None:
    """Read as often."""
    await asyncio.gather(*(read(port, channel) for _ in range(count)))


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(read_all(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])))

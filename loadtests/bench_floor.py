"""What a refresh costs a Tornado websocket that computes nothing: the floor under what it costs a node.

    python -m loadtests.bench_floor [--viewers 50] [--seconds 4]

The server is `ready` of loadtests/rivals.py. Viewers send six messages in one write, and again when they have all answers.
"""

import argparse
import asyncio
import tempfile
from pathlib import Path

import uvloop

from loadtests.meter import Meter
from loadtests.rivals import ReadyHandler
from loadtests.servers import rival
from tests.processes import HOST

REQUEST = bytes([0x82, 0x80 | 20, 0, 0, 0, 0]) + bytes(20)  # masked with zeros, so as it is
HELLO = (
    "GET /websocket HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
FRAMES = sum(len(answer) + (2 if len(answer) < 126 else 4) for answer in ReadyHandler.answers)


async def look(port: int, until: float) -> int:
    """Refresh until then; return how often."""
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(HELLO.encode())
    await reader.readuntil(b"\r\n\r\n")
    count = 0
    while asyncio.get_running_loop().time() < until:
        writer.write(REQUEST * 6)
        await reader.readexactly(FRAMES)
        count += 1
    writer.close()
    return count


async def run(viewers: int, seconds: float) -> float:
    """Return refreshes for each second of the server's processor."""
    with tempfile.TemporaryDirectory(prefix="parallax-bench-") as directory:
        async with rival("ready", Path(directory)) as server:
            meter = Meter(server.pid)
            until = asyncio.get_running_loop().time() + seconds
            counts = await asyncio.gather(*(look(server.port, until) for _ in range(viewers)))
            return sum(counts) / meter.cpu_seconds()


def main() -> None:
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--viewers", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=4)
    arguments = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(run(arguments.viewers, arguments.seconds))
    print(f"a Tornado websocket with ready answers: {found:,.0f} refreshes a CPU second")


if __name__ == "__main__":
    main()

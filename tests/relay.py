"""A line between a viewer and a server that tests can cut, slow down, or let go silent."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.processes import HOST

CHUNK_BYTES = 16_384
GREETING = b'{"hello"'


class Relay:
    """Passes TCP connections on to a port of this machine; `rate` (bytes a second, 0: any) holds for what the server sends."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._writers: set[asyncio.StreamWriter] = set()
        self._silent: set[asyncio.StreamWriter] = set()
        self.rate = 0
        self.silent_after = b""
        """Once the server has sent this, it is not heard on that connection any more, which stays open. Holds for one connection."""
        self.connections = 0
        self.greetings = 0
        """How many links were greeted by a node."""
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}/"

    def cut(self) -> None:
        """End all connections, without a word."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        self.connections += 1
        try:
            there, back = await asyncio.open_connection(HOST, self._target)
        except OSError:
            writer.transport.abort()
            return
        ends = {writer, back}
        self._writers |= ends
        try:
            await asyncio.gather(self._copy(reader, back, 0), self._copy(there, writer, 1), return_exceptions=True)
        finally:
            self._writers -= ends
            for end in ends:
                end.transport.abort()

    async def _copy(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, is_answer: int) -> None:
        while data := await source.read(CHUNK_BYTES):
            if sink in self._silent:
                continue
            sink.write(data)
            await sink.drain()
            self.greetings += is_answer * data.count(GREETING)
            if is_answer and self.silent_after and self.silent_after in data:
                self.silent_after = b""
                self._silent.add(sink)
            if is_answer and self.rate:
                await asyncio.sleep(len(data) / self.rate)
        if sink not in self._silent:
            sink.transport.abort()


@asynccontextmanager
async def relay_to(port: int) -> AsyncIterator[Relay]:
    """A relay to a port, closed at the end."""
    relay = Relay(port)
    server = await asyncio.start_server(relay.pass_on, HOST, 0)
    relay.port = server.sockets[0].getsockname()[1]
    try:
        yield relay
    finally:
        server.close()
        relay.cut()

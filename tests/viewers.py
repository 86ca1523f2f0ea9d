"""Viewers of a gateway in this process: sessions without a socket."""

import asyncio
from collections.abc import Sequence

import perspective

from node.auth import EVERYTHING, Access
from node.gateway import Gateway
from node.gateway.outbox import Frame
from parallax.wire import SERVER_ERROR, Envelope, decode
from tests.processes import PATIENCE


class Viewer:
    """A session, with what was sent to it; `connect` puts a Perspective client on top."""

    def __init__(self, gateway: Gateway, access: Access = EVERYTHING) -> None:
        self.frames: list[bytes] = []
        self.closed: list[tuple[int, str]] = []
        self.client: perspective.AsyncClient | None = None
        self._arrived = asyncio.Event()
        self._pump: asyncio.Task[None] | None = None
        self.blocked: asyncio.Future[None] | None = None
        """Set to a future, the socket takes nothing more until it is done."""
        self.session, self.outbox = gateway.open(
            self._write, lambda code, reason: self.closed.append((code, reason)), access
        )

    def _write(self, frames: Sequence[Frame]) -> "asyncio.Future[None] | None":
        self.frames += [frame.head + frame.body for frame in frames]
        size = sum(len(frame.head) + len(frame.body) for frame in frames)
        self._arrived.set()
        if self.blocked is not None:
            self.blocked.add_done_callback(lambda _: self.outbox.accepted(size))
            return self.blocked
        self.outbox.accepted(size)
        return None

    async def settled(self) -> None:
        """Wait until all that was asked is answered, and all answers were taken."""
        async with asyncio.timeout(30 * PATIENCE):
            while self.session._chains or (self.outbox.waiting_bytes and self.blocked is None):  # noqa: ASYNC110 - no event tells
                await asyncio.sleep(0)

    async def receive(self, frame: bytes) -> None:
        """Hand over a frame, and wait until it is answered."""
        self.session.receive(frame)
        await self.settled()

    async def ask(self, number: int, body: bytes = b"", entity: str = "", msg_id: int = 7) -> list[Envelope]:
        """Send one request as raw bytes, and return what came back."""
        before = len(self.frames)
        await self.receive(Envelope(msg_id, entity, number, body).encode())
        return [decode(frame) for frame in self.frames[before:]]

    async def refused(self, number: int, body: bytes = b"", entity: str = "") -> str:
        """Send a request that must be answered by an error, and return its text."""
        (answer,) = await self.ask(number, body, entity)
        assert (answer.msg_id, answer.number) == (7, SERVER_ERROR)
        return answer.body.decode("utf-8", "replace")

    async def connect(self) -> perspective.AsyncClient:
        """Put a Perspective client on this session."""

        async def send(frame: bytes) -> None:
            self.session.receive(frame)

        self.client = perspective.AsyncClient(send)
        self._pump = asyncio.get_running_loop().create_task(self._hand_over(self.client))
        return self.client

    async def _hand_over(self, client: perspective.AsyncClient) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self.frames:
                await client.handle_response(self.frames.pop(0))

    async def close(self) -> None:
        """End the session."""
        self.session.close()
        if self._pump is not None:
            self._pump.cancel()

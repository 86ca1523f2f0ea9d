"""The websocket of one viewer."""

import asyncio
import socket
import struct
import time
from collections.abc import Awaitable, Sequence
from typing import Any
from urllib.parse import urlsplit

from tornado.iostream import StreamClosedError

from node.auth import EVERYTHING, Auth, Unauthorized
from node.gateway.frames import FINAL, FrameHandler
from node.gateway.gateway import Gateway
from node.gateway.link import NotALink
from node.gateway.outbox import BINARY, LOT_BYTES, Frame
from node.gateway.pace import Pace
from node.gateway.session import Session
from node.settings import NodeSettings, listed

UNSUPPORTED = 1003
CONTINUATION = 0x0
"""Of a websocket frame's first byte, RFC 6455, section 5.2."""
CHUNK_BYTES = 1 << 13
"""Tornado makes, and clears, a buffer of this size whenever it asks the system; requests are small."""
UNSENT_BYTES = 1 << 17
"""What the kernel holds unsent for one viewer: the less, the newer is what a slow viewer gets."""


class ViewerHandler(FrameHandler):
    """Hands frames to the session and back."""

    def initialize(self, gateway: Gateway, settings: NodeSettings, auth: Auth) -> None:
        """Take over what the route says."""
        self.gateway = gateway
        self._auth = auth
        self._access = EVERYTHING
        self._settings = settings
        self._pace = Pace(settings.max_requests_per_second)
        self.session: Session | None = None

    def check_origin(self, origin: str) -> bool:
        """Say whether a page of `origin` may connect: our own, or one that the settings allow."""
        allowed = listed(self._settings.allowed_origins)
        if "*" in allowed or origin in allowed:
            return True
        try:
            place = urlsplit(origin).netloc.lower()
        except ValueError:
            return False
        return bool(place) and place == self.request.headers.get("Host", "").lower()

    async def get(self, *args: Any, **kwargs: Any) -> None:
        """Refuse those without a good token, and new viewers when there are too many.

        A browser does not tell a page why a websocket was refused: `link.js` then asks by plain HTTP, and may read the answer.
        """
        is_question = self.request.headers.get("Upgrade", "").lower() != "websocket"
        origin = self.request.headers.get("Origin", "")
        if is_question and origin and self.check_origin(origin):
            self.set_header("Access-Control-Allow-Origin", origin)
            self.set_header("Vary", "Origin")
        try:
            self._access = await self._auth.admit(self.request)
        except Unauthorized as refused:
            self.gateway.counts.auth_refusals[refused.reason] += 1
            self.set_status(401)
            self.set_header("WWW-Authenticate", "Bearer")
            self.set_header("Content-Type", "text/plain; charset=utf-8")
            await self.finish(f"{refused}\n")
            return
        if is_question:
            self.set_header("Content-Type", "text/plain; charset=utf-8")
            self.finish("viewers connect here, by websocket\n")
            return
        if self.gateway.is_full:
            self.gateway.counts.full_refusals += 1
            self.set_status(503)
            self.set_header("Retry-After", "1")
            await self.finish("this node has as many viewers as it may have\n")
            return
        await super().get(*args, **kwargs)

    def open(self, *args: str, **kwargs: str) -> None:
        """Begin a session."""
        assert self.ws_connection is not None
        self.set_nodelay(True)
        stream = self.ws_connection.stream
        assert stream is not None
        self._stream = stream
        stream.read_chunk_size = CHUNK_BYTES
        if stream.closed():
            return  # he left while his token was checked
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            stream.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        self.session, self._outbox = self.gateway.open(self._write, self.close, self._access)

    def on_message(self, message: str | bytes) -> Awaitable[None] | None:
        """Handle a frame; the next is read when the viewer may ask for more."""
        if self.session is None:
            return None
        if isinstance(message, str):
            return self._hear(self.session, message)
        self.session.receive(message)
        wait = self._pace.wait(self.session.heard_at)
        if wait or not self.session.may_ask:
            return self._rest(self.session, wait)
        return None

    def on_handled(self) -> None:
        """Write the answers before other viewers' requests are looked at: all viewers ask in the same instant."""
        if self.session is not None:
            self._outbox.flush()

    async def _hear(self, session: Session, message: str) -> None:
        session.heard_at = session.alive_at = time.monotonic()
        try:
            await session.link.hear(message)
        except NotALink:
            self.close(UNSUPPORTED, "only binary messages, and those of a link")
        else:
            await self._rest(session, self._pace.wait(time.monotonic()))

    async def _rest(self, session: Session, wait: float) -> None:
        if wait:
            self.gateway.counts.throttled += 1
            await asyncio.sleep(wait)
        await session.turn()

    def on_pong(self, data: bytes) -> None:
        """Take note that the viewer is there."""
        if self.session is not None:
            self.session.alive_at = time.monotonic()

    def on_close(self) -> None:
        """End the session."""
        if self.session is not None:
            self.session.close()
            self.session = None

    # Past Tornado's `write_message`, which takes one message at a time, and copies it; and past its stream while that is idle.

    def _write(self, frames: Sequence[Frame]) -> "asyncio.Future[None] | None":
        connection = self.ws_connection
        if connection is None or connection.is_closing():
            return None
        if len(frames) == 1 and len(frames[0].body) > LOT_BYTES:
            return self.gateway.tasks.start(self._write_large(frames[0]), name="a large answer")
        parts: list[bytes] = []
        size = 0
        for first, second, kind in frames:
            length = len(first) + len(second)
            size += length
            parts += (_header(FINAL | kind, length), first, second)
        data = b"".join(parts)
        sent = self._send(data)
        if sent == len(data):
            self._outbox.accepted(size)
            return None
        try:
            written = self._stream.write(memoryview(data)[sent:])
        except StreamClosedError:
            return None
        if written.done():
            self._outbox.accepted(size)
        else:
            written.add_done_callback(lambda _: self._written(size, written))
        return written

    def _send(self, data: bytes) -> int:
        """Hand over what the system takes at once; return how much that was. The stream would take a turn of the loop for it."""
        if self._stream.writing():
            return 0
        try:
            return self._stream.socket.send(data)
        except OSError:  # it takes nothing now, or is broken, as the stream will find
            return 0

    def _written(self, size: int, written: "asyncio.Future[None]") -> None:
        if written.cancelled() or written.exception() is not None:
            self.on_close()  # nobody else may notice: while the viewer may not ask, its socket is not read
        else:
            self._outbox.accepted(size)

    async def _write_large(self, frame: Frame) -> None:
        """Send a frame in fragments, between which the connection's own pings find their place."""
        rest = memoryview(frame.body)
        lead, kind = frame.head, BINARY
        try:
            while rest or lead:
                part, rest = rest[:LOT_BYTES], rest[LOT_BYTES:]
                size = len(lead) + len(part)
                self._stream.write(_header(kind if rest else kind | FINAL, size) + lead)
                await self._stream.write(part)
                self._outbox.accepted(size)
                lead, kind = b"", CONTINUATION
        except StreamClosedError:
            self.on_close()  # as above


def _header(first: int, length: int) -> bytes:
    if length < 126:
        return bytes((first, length))
    if length < 1 << 16:
        return struct.pack(">BBH", first, 126, length)
    return struct.pack(">BBQ", first, 127, length)


def gateway_routes(gateway: Gateway, settings: NodeSettings, auth: Auth) -> list[Any]:
    """Return the route of the websocket."""
    return [(r"/websocket", ViewerHandler, {"gateway": gateway, "settings": settings, "auth": auth})]


def websocket_settings(settings: NodeSettings) -> dict[str, Any]:
    """Return what the Tornado application needs to know for its websockets."""
    return {
        "websocket_ping_interval": settings.ping_seconds,
        "websocket_ping_timeout": 0,  # the gateway's watch knows when an answer can be expected
        "websocket_max_message_size": settings.max_message_bytes,
    }

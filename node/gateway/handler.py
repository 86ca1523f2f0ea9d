"""The websocket of one viewer."""

import asyncio
import logging
import time
from typing import Any
from urllib.parse import urlsplit

from tornado.websocket import WebSocketClosedError, WebSocketHandler

from node.gateway.gateway import Gateway
from node.gateway.session import Session
from node.settings import NodeSettings

log = logging.getLogger(__name__)

PING_SECONDS = 20
LOW_WATER_BYTES = 1 << 20
GOING_AWAY, SLOW, UNSUPPORTED = 1012, 4008, 1003


class ViewerHandler(WebSocketHandler):
    """Hands frames to the session and back; bounded in what waits for the viewer."""

    def initialize(self, gateway: Gateway, settings: NodeSettings) -> None:
        """Take over what the route says."""
        self.gateway = gateway
        self._settings = settings
        self.session: Session | None = None
        self._waiting_bytes = 0  # handed to the socket, not yet taken by the system; at most outbox_bytes
        self._progress_at = 0.0
        self._has_room = asyncio.Event()
        self._has_room.set()

    def check_origin(self, origin: str) -> bool:
        """Say whether a page of `origin` may connect: our own, or one that the settings allow."""
        allowed = [one.strip() for one in self._settings.allowed_origins.split(",") if one.strip()]
        return (
            "*" in allowed
            or origin in allowed
            or urlsplit(origin).netloc.lower() == self.request.headers.get("Host", "").lower()
        )

    async def get(self, *args: Any, **kwargs: Any) -> None:
        """Refuse new viewers while draining."""
        if self.gateway.is_draining:
            self.set_status(503)
            await self.finish("draining\n")
            return
        await super().get(*args, **kwargs)

    def open(self, *args: str, **kwargs: str) -> None:
        """Begin a session."""
        self.set_nodelay(True)
        self.session = self.gateway.open(self._send, lambda: self.close(GOING_AWAY, "this node is leaving; connect again"))

    async def on_message(self, message: str | bytes) -> None:
        """Handle a frame; the next is read when this one is answered, and the viewer took in most of what waits for it."""
        if not isinstance(message, bytes):
            self.close(UNSUPPORTED, "only binary messages")
            return
        if self.session is not None:
            await self.session.receive(message)
            await self._has_room.wait()

    def on_close(self) -> None:
        """End the session."""
        self._has_room.set()
        if self.session is not None:
            self.session.close()
            self.session = None

    def _send(self, frame: bytes) -> None:
        if self.ws_connection is None or self.session is None:
            return
        now = time.monotonic()
        if self._waiting_bytes == 0:
            self._progress_at = now
        is_stalled = now - self._progress_at > self._settings.stall_seconds
        if is_stalled or (self._waiting_bytes and self._waiting_bytes + len(frame) > self._settings.outbox_bytes):
            log.info("closing a slow viewer: %d bytes wait", self._waiting_bytes)
            self.close(SLOW, "too slow")
            return
        try:
            written = self.write_message(frame, binary=True)
        except WebSocketClosedError:
            return
        self._waiting_bytes += len(frame)
        if self._waiting_bytes > LOW_WATER_BYTES:
            self._has_room.clear()
        written.add_done_callback(lambda done: self._written(done, len(frame)))

    def _written(self, done: "asyncio.Future[None]", size: int) -> None:
        if not done.cancelled():
            done.exception()  # a closed socket; on_close says the same
        self._waiting_bytes -= size
        self._progress_at = time.monotonic()
        if self._waiting_bytes <= LOW_WATER_BYTES:
            self._has_room.set()


def gateway_routes(gateway: Gateway, settings: NodeSettings) -> list[Any]:
    """Return the route of the websocket."""
    return [(r"/websocket", ViewerHandler, {"gateway": gateway, "settings": settings})]


def websocket_settings(settings: NodeSettings) -> dict[str, Any]:
    """Return what the Tornado application needs to know for its websockets."""
    return {
        "websocket_ping_interval": PING_SECONDS,
        "websocket_ping_timeout": PING_SECONDS,
        "websocket_max_message_size": settings.max_message_bytes,
    }

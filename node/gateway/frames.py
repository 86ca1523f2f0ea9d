"""How the frames of a websocket are read: all that has arrived at once."""

import asyncio

from tornado.util import _websocket_mask
from tornado.websocket import WebSocketHandler, WebSocketProtocol, WebSocketProtocol13

from node.gateway.outbox import BINARY

ARRIVED_BYTES = 1 << 16
"""So much is taken from a viewer's stream at once, of what is there."""
FINAL, MASKED = 0x80, 0x80
MOST_IN_A_ROW = 256
"""Short messages of one viewer, after which others have their turn: about as many as Tornado lets through, which counts calls."""
LONG = 126
"""From so many bytes on, a frame's length stands in bytes of its own: RFC 6455, section 5.2."""


class Protocol(WebSocketProtocol13):
    """Tornado's protocol, which asks the stream for each frame in three pieces; here they are cut from all that has arrived.

    A viewer's refresh is six frames in one packet, and to ask the stream eighteen times was an eighth of the event loop's work.
    At most one lot and one frame are held, as in the stream before. What is a short message, and whole, is not waited for at all;
    every other frame is Tornado's to judge.
    """

    handler: "FrameHandler"
    _arrived = b""
    _at = 0
    _in_a_row = 0

    async def _receive_frame(self) -> None:
        if not self._arrived:
            self._arrived = await self.stream.read_bytes(ARRIVED_BYTES, partial=True)
        message = self._short_message()
        if message is None:
            await super()._receive_frame()
            return
        while message is not None:
            handled = self._handle_message(BINARY, message)
            self._in_a_row += 1
            if handled is not None or self._in_a_row == MOST_IN_A_ROW:
                self._in_a_row = 0
                self.handler.on_handled()
                await (asyncio.sleep(0) if handled is None else handled)
            message = self._short_message()
        self.handler.on_handled()

    def _short_message(self) -> bytes | None:
        at, arrived = self._at, self._arrived
        if (
            not arrived
            or arrived[at] != FINAL | BINARY
            or self._fragmented_message_buffer is not None
            or self._decompressor is not None
        ):
            return None
        start = at + 6  # the first byte, the length, the mask
        if start > len(arrived) or not MASKED < arrived[at + 1] < MASKED + LONG:
            return None
        end = start + arrived[at + 1] - MASKED
        if end > len(arrived):
            return None
        message: bytes = _websocket_mask(arrived[at + 2 : start], arrived[start:end])
        self._moved_to(end)
        self._wire_bytes_in += end - at
        return message

    def _moved_to(self, end: int) -> None:
        self._at = end
        if end == len(self._arrived):
            self._arrived, self._at = b"", 0

    async def _read_bytes(self, n: int) -> bytes:
        end = self._at + n
        if end > len(self._arrived):
            rest = self._arrived[self._at :]
            if n - len(rest) > ARRIVED_BYTES:
                rest += await self.stream.read_bytes(n - len(rest))
            while len(rest) < n:
                rest += await self.stream.read_bytes(ARRIVED_BYTES, partial=True)
            self._arrived, self._at, end = rest, 0, n
        found = self._arrived[self._at : end]
        self._moved_to(end)
        self._wire_bytes_in += n
        return found


class FrameHandler(WebSocketHandler):
    """A handler whose frames are read so."""

    def on_handled(self) -> None:
        """Called when the short messages that had arrived were handled, or when the next has to wait."""

    def get_websocket_protocol(self) -> WebSocketProtocol | None:
        """Return the protocol, nothing if it is one that Tornado does not know."""
        made = super().get_websocket_protocol()
        return Protocol(self, False, made.params) if isinstance(made, WebSocketProtocol13) else made

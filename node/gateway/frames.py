"""How the frames of a websocket are read: all that has arrived at once."""

from tornado.websocket import WebSocketHandler, WebSocketProtocol, WebSocketProtocol13

ARRIVED_BYTES = 1 << 16
"""So much is taken from a viewer's stream at once, of what is there."""


class Protocol(WebSocketProtocol13):
    """Tornado's protocol, which asks the stream for each frame in three pieces; here they are cut from all that has arrived.

    A viewer's refresh is six frames in one packet, and to ask the stream eighteen times was an eighth of the event loop's work.
    At most one lot and one frame are held, as in the stream before.
    """

    _arrived = b""
    _at = 0

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
        self._at = end
        if end == len(self._arrived):
            self._arrived, self._at = b"", 0
        self._wire_bytes_in += n
        return found


class FrameHandler(WebSocketHandler):
    """A handler whose frames are read so."""

    def get_websocket_protocol(self) -> WebSocketProtocol | None:
        """Return the protocol, nothing if it is one that Tornado does not know."""
        made = super().get_websocket_protocol()
        return Protocol(self, False, made.params) if isinstance(made, WebSocketProtocol13) else made

"""The two layers of bytes below a viewer, as plain functions: Perspective's envelope, and websocket frames.

Written anew here rather than taken from the gateway, and without its packages: a load generator has to be light, and must not
share an error with what it measures.
"""

import secrets
from base64 import b64encode

Body = tuple[int, bytes]
"""The kind of a message (its field number), and what is in it."""

FEATURES, MAKE_VIEW, ERROR = 3, 6, 50
BINARY, CLOSE, PING, PONG = 0x82, 0x88, 0x89, 0x8A


class Broken(Exception):
    """A server answered something that no viewer could use."""


def varint(value: int) -> bytes:
    """Encode a number."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a number and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def request(msg_id: int, entity_id: str, body: Body) -> bytes:
    """Return a Request."""
    number, content = body
    entity = entity_id.encode()
    head = b"\x08" + varint(msg_id) + (b"\x12" + varint(len(entity)) + entity if entity else b"")
    return head + varint(number << 3 | 2) + varint(len(content)) + content


def make_view(view_id: str, config: bytes) -> Body:
    """Return the body of a TableMakeView."""
    return MAKE_VIEW, b"\x0a" + varint(len(view_id)) + view_id.encode() + config


def decode(frame: bytes) -> tuple[int, str, int, bytes]:
    """Return message id, entity id, kind and body of a Request or Response."""
    msg_id, entity_id, number, body, at = 0, "", 0, b"", 0
    while at < len(frame):
        tag, at = read_varint(frame, at)
        if tag & 7 == 0:
            msg_id, at = read_varint(frame, at)
            continue
        size, at = read_varint(frame, at)
        content = frame[at : at + size]
        at += size
        if tag >> 3 == 2:
            entity_id = content.decode()
        else:
            number, body = tag >> 3, content
    return msg_id, entity_id, number, body


def handshake(host: str, port: int) -> bytes:
    """Return the HTTP request that opens a websocket."""
    key = b64encode(secrets.token_bytes(16)).decode()
    lines = [
        "GET /websocket HTTP/1.1",
        f"Host: {host}:{port}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}",
        "Sec-WebSocket-Version: 13",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def masked(payload: bytes, opcode: int = BINARY) -> bytes:
    """Return a client's frame. Its mask is zero, so that it can be encoded once and costs nothing to send."""
    size = len(payload)
    if size < 126:
        head = bytes((opcode, 0x80 | size))
    elif size < 1 << 16:
        head = bytes((opcode, 0x80 | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((opcode, 0x80 | 127)) + size.to_bytes(8, "big")
    return head + b"\0\0\0\0" + payload

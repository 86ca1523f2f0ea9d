"""The outer layer of Perspective's protocol: `Request` and `Response` are both

    field 1: msg_id (uint32) | field 2: entity_id (string) | field N: the body, a message whose kind N says

Only this layer is read by hand, so that an answer of many megabytes can be put behind other ids without being decoded, and so
that a message id can be told even of a request that is otherwise broken.
"""

from enum import IntEnum
from functools import lru_cache
from typing import NamedTuple

SERVER_ERROR = 50
"""The field of a Response that carries an error instead of an answer."""

_VARINT, _FIXED_64, _BYTES, _FIXED_32 = 0, 1, 2, 5
_MOST_VARINT_BYTES = 10
_MOST_MSG_ID = 0xFFFFFFFF
_SHORT = 160
"""Bytes of a request that asks for something small about a view: viewers send the same ones again and again."""
_MOST_KEPT = 1 << 14


class Status(IntEnum):
    """The `status_code` of a ServerError."""

    SERVER_ERROR = 0
    VIEW_NOT_FOUND = 1


class Malformed(Exception):
    """A frame that is no Request. `msg_id` is what could be read of it, 0 if nothing could."""

    def __init__(self, reason: str, msg_id: int = 0, entity_id: str = "") -> None:
        self.msg_id, self.entity_id = msg_id, entity_id
        super().__init__(reason)


class Refused(Exception):
    """A request that is not followed; the text goes to the viewer."""

    def __init__(self, text: str, status: Status = Status.SERVER_ERROR) -> None:
        self.status = status
        super().__init__(text)


class Envelope(NamedTuple):
    """One Request or Response, its body as bytes. `number` is 0 if there is no body (as in a hosted-tables notice)."""

    msg_id: int
    entity_id: str
    number: int
    body: bytes

    def encode(self) -> bytes:
        """Return the frame."""
        return head(self.msg_id, self.entity_id, self.number, len(self.body)) + self.body


def head(msg_id: int, entity_id: str, number: int, size: int) -> bytes:
    """Return what stands in a frame before a body of `size` bytes."""
    named = _named if len(entity_id) <= _SHORT else _named.__wrapped__  # nobody keeps the MiB that a viewer may call a view
    return b"\x08" + varint(msg_id) + named(entity_id) + _sized(number, size)


@lru_cache(maxsize=_MOST_KEPT)
def _sized(number: int, size: int) -> bytes:
    return varint(number << 3 | _BYTES) + varint(size) if number else b""


@lru_cache(maxsize=_MOST_KEPT)
def _named(entity_id: str) -> bytes:
    entity = entity_id.encode()
    return b"\x12" + varint(len(entity)) + entity if entity else b""


def error(msg_id: int, entity_id: str, text: str, status: Status = Status.SERVER_ERROR) -> Envelope:
    """Return the Response that says what went wrong."""
    words = text.encode()
    body = b"\x0a" + varint(len(words)) + words
    if status:
        body += b"\x10" + varint(status)
    return Envelope(msg_id, entity_id, SERVER_ERROR, body)


def varint(value: int) -> bytes:
    """Encode a number of 0 or more."""
    if value < 1 << 7:
        return bytes((value,))
    if value < 1 << 14:
        return bytes((value & 0x7F | 0x80, value >> 7))
    if 1 << 28 <= value < 1 << 35:  # as nearly all message ids are that a client draws
        return bytes(
            (
                value & 0x7F | 0x80,
                value >> 7 & 0x7F | 0x80,
                value >> 14 & 0x7F | 0x80,
                value >> 21 & 0x7F | 0x80,
                value >> 28,
            )
        )
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def read_msg_id(frame: bytes) -> int:
    """Return the message id of a frame that the engine wrote: it always comes first, and is 0 if it is not there."""
    return _varint(frame, 1)[0] if frame[:1] == b"\x08" else 0


def decode(frame: bytes) -> Envelope:
    """Read a frame.

    Raises:
        Malformed: it is not one message with at most one body.
    """
    if len(frame) <= _SHORT and frame[:1] == b"\x08":
        try:
            msg_id, at = _varint(frame, 1)
            again, entity_id, number, body = _read_short(frame[at:])  # all but the message id was seen before, mostly
        except (ValueError, Malformed):
            pass  # said below
        else:
            return Envelope(msg_id & _MOST_MSG_ID if again is None else again, entity_id, number, body)
    known, entity_id, number, body = _read(frame)
    return Envelope(known or 0, entity_id, number, body)


def _read(frame: bytes) -> tuple[int | None, str, int, bytes]:
    """Return what stands in a frame: message id (None if there is none), entity, number and body."""
    msg_id, entity_id, number, body = None, "", 0, b""
    at, end = 0, len(frame)
    try:
        while at < end:
            tag, at = _varint(frame, at)
            field, kind = tag >> 3, tag & 7
            if kind == _VARINT:
                value, at = _varint(frame, at)
                if field == 1:
                    msg_id = value & _MOST_MSG_ID
                    continue
            elif kind == _BYTES:
                size, at = _varint(frame, at)
                if size > end - at:
                    raise ValueError(f"field {field} says {size} bytes, {end - at} are left")
                at += size
                if field == 2:
                    entity_id = frame[at - size : at].decode()
                    continue
                if field > 2:
                    if number:
                        raise ValueError(f"it has two bodies, {number} and {field}")
                    number, body = field, frame[at - size : at]
                    continue
            raise ValueError(f"field {field} of wire type {kind}")
    except ValueError as wrong:
        raise Malformed(f"not a readable message: {wrong}", msg_id or 0, entity_id) from wrong
    return msg_id, entity_id, number, body


_read_short = lru_cache(maxsize=_MOST_KEPT)(_read)


def _varint(frame: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    for byte in frame[at : at + _MOST_VARINT_BYTES]:
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError("a number without end")


def fields(message: bytes) -> dict[int, int | bytes]:
    """Read a body whose fields are whole numbers, and texts or messages, which are returned as bytes; the last of each counts.

    Raises:
        ValueError: it is not one.
    """
    found: dict[int, int | bytes] = {}
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        value, at = _varint(message, at)
        if tag & 7 == _BYTES:
            if value > len(message) - at:
                raise ValueError(f"field {tag >> 3} says {value} bytes, {len(message) - at} are left")
            found[tag >> 3] = message[at : at + value]
            at += value
        elif tag & 7 == _VARINT:
            found[tag >> 3] = value
        else:
            raise ValueError(f"field {tag >> 3} of wire type {tag & 7}")
    return found


def field(number: int, value: int | bytes) -> bytes:
    """Encode a field: a whole number, or a text or message as bytes."""
    if isinstance(value, int):
        return varint(number << 3 | _VARINT) + varint(value)
    return varint(number << 3 | _BYTES) + varint(len(value)) + value

"""How much an Arrow IPC stream takes once its buffers are decompressed, told from its metadata without decompressing anything.

Each message is a flatbuffer (`Message.fbs` of the Arrow format) and a body. In a batch that is compressed, each buffer of the
body begins with its length before compression, -1 where it was left as it is. A kilobyte can thus say that it is a gigabyte.
"""

import struct

CONTINUATION = 0xFFFFFFFF
DICTIONARY_BATCH, RECORD_BATCH = 2, 3  # MessageHeader
HEADER_TYPE, HEADER, BODY_LENGTH = 1, 2, 3  # the fields of Message
BATCH_OF_DICTIONARY = 1  # the fields of DictionaryBatch
BUFFERS, COMPRESSION = 2, 3  # the fields of RecordBatch

_u8 = struct.Struct("<B").unpack_from
_u16 = struct.Struct("<H").unpack_from
_u32 = struct.Struct("<I").unpack_from
_i32 = struct.Struct("<i").unpack_from
_i64 = struct.Struct("<q").unpack_from
_buffer = struct.Struct("<qq").unpack_from


def inflated_bytes(stream: memoryview) -> int:
    """Return the bytes that all bodies take, each buffer at its length before compression.

    Raises:
        ValueError, struct.error: the stream is not framed as Arrow's are.
    """
    total = at = 0
    while at < len(stream):
        (length,) = _u32(stream, at)
        at += 4
        if length == CONTINUATION:
            (length,) = _u32(stream, at)
            at += 4
        if length == 0:  # the end, whatever follows
            return total
        metadata = stream[at : at + length]
        body = at + length
        at = body + _body_length(metadata)
        if at < body or at > len(stream):
            raise ValueError("it ends within a message")
        total += _inflated_body(metadata, stream[body:at])
    return total


def _body_length(metadata: memoryview) -> int:
    place = _field(metadata, _u32(metadata, 0)[0], BODY_LENGTH)
    return int(_i64(metadata, place)[0]) if place else 0


def _inflated_body(metadata: memoryview, body: memoryview) -> int:
    message = _u32(metadata, 0)[0]
    place = _field(metadata, message, HEADER_TYPE)
    kind = _u8(metadata, place)[0] if place else 0
    if kind not in (DICTIONARY_BATCH, RECORD_BATCH):
        return len(body)
    batch = _table(metadata, message, HEADER)
    if kind == DICTIONARY_BATCH:
        batch = _table(metadata, batch, BATCH_OF_DICTIONARY)
    if not _field(metadata, batch, COMPRESSION):
        return len(body)
    vector = _table(metadata, batch, BUFFERS)
    total = 0
    for number in range(_u32(metadata, vector)[0]):
        offset, length = _buffer(metadata, vector + 4 + 16 * number)
        if length:
            (before,) = _i64(body, offset)
            if before < -1 or offset < 0 or length < 8:
                raise ValueError("a compressed buffer has no length")
            total += length if before == -1 else before
    return total


def _table(metadata: memoryview, table: int, field: int) -> int:
    """Return where the table or vector is to which a field refers."""
    place = _field(metadata, table, field)
    if not place:
        raise ValueError("a message lacks a part")
    return place + int(_u32(metadata, place)[0])


def _field(metadata: memoryview, table: int, field: int) -> int:
    """Return where a field of a table is; 0 if it is left out."""
    vtable = table - int(_i32(metadata, table)[0])
    if vtable < 0:
        raise ValueError("a message is damaged")
    entry = 4 + 2 * field
    if entry + 2 > _u16(metadata, vtable)[0]:
        return 0
    offset = int(_u16(metadata, vtable + entry)[0])
    return table + offset if offset else 0

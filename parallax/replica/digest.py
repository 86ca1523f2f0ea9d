"""One number that says whether two replicas hold the same rows."""

import hashlib
import struct

import pyarrow as pa
import pyarrow.compute as pc


def digest(table: pa.Table) -> str:
    """Return the digest of a whole table, 32 hexadecimal digits.

    Equal tables (schema, row order, nulls, and values bit for bit) give equal digests, however Arrow happens to lay them
    out: chunks, offsets, the bytes beneath nulls and the shape of bitmaps do not count.
    """
    state = hashlib.blake2b(digest_size=16)
    for field in table.schema:
        column = table.column(field.name)
        array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
        state.update(struct.pack("<I", len(field.name.encode())))
        state.update(f"{field.name}:{field.type}:{len(array)}".encode())
        _add_array(state, array)
    return state.hexdigest()


def _add_array(state: "hashlib.blake2b", array: pa.Array) -> None:
    if array.null_count:
        state.update(b"nulls")
        state.update(_values(array.is_valid().cast(pa.uint8()), 1))
        array = array.fill_null(_zero(array.type))
    if pa.types.is_string(array.type):
        lengths = pc.binary_length(array)
        state.update(_values(lengths, 4))
        _, offsets, data = array.buffers()
        if data is not None and len(array):
            ends = memoryview(offsets).cast("B").cast("i")
            state.update(memoryview(data)[ends[array.offset] : ends[array.offset + len(array)]])
    elif pa.types.is_boolean(array.type):
        state.update(_values(array.cast(pa.uint8()), 1))
    else:
        state.update(_values(array, array.type.bit_width // 8))


def _values(array: pa.Array, width: int) -> memoryview:
    """Return the bytes of a fixed-width array without nulls."""
    data = array.buffers()[1]
    if data is None:
        return memoryview(b"")
    return memoryview(data)[array.offset * width : (array.offset + len(array)) * width]


def _zero(kind: pa.DataType) -> pa.Scalar:
    if pa.types.is_string(kind):
        return pa.scalar("", kind)
    if pa.types.is_boolean(kind):
        return pa.scalar(False, kind)
    return pa.scalar(0, pa.int64()).cast(kind) if not pa.types.is_date32(kind) else pa.scalar(0, pa.int32()).cast(kind)

"""One number that says whether two replicas hold the same rows."""

import hashlib
import struct

import pyarrow as pa
import pyarrow.compute as pc


class Digester:
    """Compute the digest of a table that comes in pieces, in whatever pieces it comes.

    Equal tables (schema, row order, nulls, and values bit for bit) give equal digests, however Arrow happens to lay them out:
    chunks, offsets, the bytes beneath nulls and the shape of bitmaps do not count. Floats are compared by their bits: -0.0 is
    not 0.0, and each NaN equals only itself, since the engine keeps all of them apart.

    The rows have to come in canonical order, as `EngineTable.export` gives them: then the digest does not tell how the table came
    to be what it is.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._rows = 0
        self._columns = [_Column() for _ in schema]

    def add(self, rows: pa.Table) -> None:
        """Take in the next rows."""
        self._rows += len(rows)
        for column, field in zip(self._columns, self._schema, strict=True):
            for array in rows.column(field.name).chunks:
                column.add(array)

    def value(self) -> str:
        """Return the digest of the rows so far, 32 hexadecimal digits."""
        state = hashlib.blake2b(struct.pack("<Q", self._rows), digest_size=16)
        for column, field in zip(self._columns, self._schema, strict=True):
            name = f"{field.name}:{field.type}".encode()
            state.update(struct.pack("<I", len(name)) + name + column.value())
        return state.hexdigest()


def digest(table: pa.Table) -> str:
    """Return the digest of a whole table."""
    state = Digester(table.schema)
    state.add(table)
    return state.value()


class _Column:
    """What one column's values are, which of them are null, and how long each is if they are texts: one number each."""

    def __init__(self) -> None:
        self._valid, self._lengths, self._values = (hashlib.blake2b(digest_size=16) for _ in range(3))

    def add(self, array: pa.Array) -> None:
        self._valid.update(_bytes(array.is_valid().cast(pa.uint8()), 1))
        if array.null_count:
            array = array.fill_null(_zero(array.type))
        if pa.types.is_string(array.type):
            self._lengths.update(_bytes(pc.binary_length(array), 4))
            _, offsets, data = array.buffers()
            if data is not None and len(array):
                ends = memoryview(offsets).cast("B").cast("i")
                self._values.update(memoryview(data)[ends[array.offset] : ends[array.offset + len(array)]])
        elif pa.types.is_boolean(array.type):
            self._values.update(_bytes(array.cast(pa.uint8()), 1))
        else:
            self._values.update(_bytes(array, array.type.bit_width // 8))

    def value(self) -> bytes:
        return self._valid.digest() + self._lengths.digest() + self._values.digest()


def _bytes(array: pa.Array, width: int) -> memoryview:
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

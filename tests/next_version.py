"""A member of the next version, which writes other bytes: `python -m tests.next_version node|coordinator`.

It reads the version of today and the next one, whose records have their headers compressed.
"""

import importlib
import json
import sys
import zlib

from parallax.process import run_service
from parallax.replication import record, versions
from parallax.replication.record import Record

NEXT = versions.NEWEST + 1


class _Headers:
    """In place of `json`: what is read may be compressed."""

    dumps = staticmethod(json.dumps)

    @staticmethod
    def loads(data: bytes) -> object:
        return json.loads(data if data.startswith(b"{") else zlib.decompress(data))


def install() -> None:
    """Make this process one of the next version."""
    encode = Record.encode

    def encode_next(self: Record, version: int | None = None) -> bytes:
        data = encode(self, version)
        magic, number, zero, length = record._PREFIX.unpack_from(data)
        if number != NEXT:
            return data
        end = record._PREFIX.size + length
        header = zlib.compress(data[record._PREFIX.size : end])
        return b"".join((record._PREFIX.pack(magic, number, zero, len(header)), header, data[end:]))

    versions.OLDEST, versions.NEWEST = versions.NEWEST, NEXT
    Record.encode = encode_next  # type: ignore[method-assign]
    record.json = _Headers  # type: ignore[assignment]


def main() -> int:
    install()
    server = importlib.import_module(f"{sys.argv[1]}.server")
    settings = importlib.import_module(f"{sys.argv[1]}.settings")
    return run_service(getattr(settings, f"{sys.argv[1].capitalize()}Settings"), server.serve)


if __name__ == "__main__":
    sys.exit(main())

"""Where everything is in Redis. All of a table's keys share a hash tag, and so a slot in a cluster."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TableKeys:
    """The keys and channels of one table."""

    prefix: str
    table: str

    def _key(self, suffix: str) -> str:
        return f"{self.prefix}:{{{self.table}}}:{suffix}"

    @property
    def ingest(self) -> str:
        """Stream: what publishers write and what is not yet in the log. Also the name of the fire-and-forget channel."""
        return self._key("in")

    @property
    def trying(self) -> str:
        """Hash: which entries of ingest were given out and not done with; what is left of it tells of a reader's death."""
        return self._key("trying")

    @property
    def log(self) -> str:
        """Stream: the table's records, each under its position as its ID. Never deleted."""
        return self._key("log")

    @property
    def feed(self) -> str:
        """Channel: each record, and each heartbeat, as it is made."""
        return self._key("feed")

    @property
    def rejected(self) -> str:
        """Stream, capped: refused entries, with the reason."""
        return self._key("rejected")

    @property
    def manifest(self) -> str:
        """String: JSON that describes the newest snapshot."""
        return self._key("manifest")

    @property
    def chunk_prefix(self) -> str:
        """What the names of all chunks begin with."""
        return self._key("chunk:")

    def chunk(self, name: str, number: int) -> str:
        """String: one piece of a snapshot or of a record's payload."""
        return f"{self.chunk_prefix}{name}:{number}"

    def chunks(self, name: str, count: int) -> list[str]:
        """All pieces of one snapshot or payload, in order."""
        return [self.chunk(name, number) for number in range(count)]

    @property
    def blobs(self) -> str:
        """Hash: position -> "name count" of the payload that its record keeps beside the log."""
        return self._key("blobs")

    @property
    def want(self) -> str:
        """String with a TTL: a replica has nothing to start from and asks for a snapshot."""
        return self._key("want")

    @property
    def verify(self) -> str:
        """String with a TTL: somebody asks for a `verify` record."""
        return self._key("verify")


@dataclass(frozen=True, slots=True)
class FleetKeys:
    """The keys that belong to no table."""

    prefix: str

    def _key(self, suffix: str) -> str:
        return f"{self.prefix}:{{fleet}}:{suffix}"

    @property
    def lease(self) -> str:
        """String: who may lead, changed at each renewal."""
        return self._key("lease")

    @property
    def catalog(self) -> str:
        """Hash: table name -> JSON with its `spec` (null: dropped), written by the leader."""
        return self._key("tables")

    @property
    def requests(self) -> str:
        """Stream: requests to create, alter or drop tables."""
        return self._key("requests")

    def reply(self, request_id: str) -> str:
        """String with a TTL: what became of a request."""
        return self._key(f"reply:{request_id}")

    @property
    def members(self) -> str:
        """Set: the names of those who announce themselves."""
        return self._key("members")

    def member(self, name: str) -> str:
        """String with a TTL: what one member announces, as JSON."""
        return self._key(f"member:{name}")

    @property
    def suspects(self) -> str:
        """Set: the names of what ended processes, see `parallax.quarantine`."""
        return self._key("suspects")

    def suspect(self, name: str) -> str:
        """Hash with a TTL: what is known of one of them."""
        return self._key(f"suspect:{name}")

    @property
    def rebuild(self) -> str:
        """String with a TTL: which node is starting afresh; one at a time."""
        return self._key("rebuild")

    def place(self, number: int) -> str:
        """String with a TTL: who reads a large snapshot, see `parallax.replica.pacing`."""
        return self._key(f"place:{number}")

"""The coordinator's settings."""

from dataclasses import dataclass

from parallax.settings import CommonSettings, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorSettings(CommonSettings):
    """Read from `PARALLAX_*` by `parallax.settings.load`."""

    tables: str = setting("", "Path of the tables file (YAML); tables may also come from `parallax tables`")
    internal_port: int = setting(8091, "Port of /healthz, /readyz, /status and /metrics", low=1, high=65535)
    lease_ttl_seconds: float = setting(3.0, "How long a leader that fell silent keeps the lease (s)", low=0.5, high=600)
    candidate_seconds: float = setting(
        2.0, "How long one who would lead on an empty log waits for a coordinator that knows more (s)", low=0, high=60
    )
    batch_rows: int = setting(100_000, "Most rows that are merged into one record", low=1)
    batch_bytes: int = setting(4 << 20, "Bytes of ingest that are looked at in one go", low=1024)
    batch_entries: int = setting(5_000, "Entries of ingest that are looked at in one go", low=1, high=100_000)
    max_entry_bytes: int = setting(
        64 << 20, "Bytes of data that one entry may have; larger ones are refused unread", low=1024
    )
    max_entry_rows_bytes: int = setting(
        512 << 20, "Bytes of memory that one entry's rows may take; checked before they are read", low=1024
    )
    inline_max: int = setting(
        1 << 20, "Bytes of payload above which it is stored beside the log instead of travelling on the feed", low=1024
    )
    snapshot_min_bytes: int = setting(32 << 20, "Bytes of log that must gather before a snapshot is taken", low=1024)
    verify_seconds: float = setting(
        300.0, "How often all replicas of a table are compared (s), spread by a tenth; 0: only on demand", low=0
    )
    rejected_max: int = setting(1_000, "Refused entries that are kept for each table", low=1)
    rejected_bytes: int = setting(
        64 << 20, "Bytes of Redis that a table's refused entries may take; the newest is kept in any case", low=1024
    )

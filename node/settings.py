"""The node's settings."""

from dataclasses import dataclass

from parallax.settings import CommonSettings, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings(CommonSettings):
    """Read from `PARALLAX_*` by `parallax.settings.load`."""

    port: int = setting(8080, "Port of the page and the websocket", low=1, high=65535)
    internal_port: int = setting(8081, "Port of /healthz, /readyz, /status and /metrics", low=1, high=65535)
    frame_ms: float = setting(50.0, "Least time between two refreshes of one table (ms)", low=1, high=10_000)
    engine_threads: int = setting(2, "Threads that the tables' engines share", low=1, high=64)
    drain_seconds: float = setting(
        10.0, "How long sockets are closed in small lots before the node stops (s)", low=0, high=3600
    )
    allowed_origins: str = setting("", "Origins besides our own whose pages may connect, separated by commas; * for all")
    max_message_bytes: int = setting(1 << 20, "Largest message that a viewer may send", low=1024)
    max_views: int = setting(128, "Most views that one session may have", low=1)
    max_requests_per_second: float = setting(
        2000.0, "Most requests that one viewer is heard in a second; the next ones wait", low=1
    )
    max_expressions: int = setting(50, "Most expressions that one view may have", low=0)
    max_expression_length: int = setting(4000, "Most characters of an expression", low=1)
    allow_loops: bool = setting(False, "Expressions may have loops and vectors, which take as long as their author likes")
    edit_seconds: float = setting(
        10.0, "How long an edit may take to be seen before its viewer is told that it may be lost (s)", low=1
    )
    max_sessions: int = setting(10_000, "Most viewers at a time; more get a 503 and may find another node", low=1)
    max_answer_bytes: int = setting(256 << 20, "Bytes of the largest answer that a viewer may get", low=1 << 16)
    cache_bytes: int = setting(64 << 20, "Bytes of answers that are kept for others who ask the same", low=0)
    cache_max_answer_bytes: int = setting(1 << 20, "Bytes of the largest answer that is kept", low=0)
    linger_seconds: float = setting(5.0, "How long a view is kept that nobody looks at any more (s)", low=0, high=3600)
    ping_seconds: float = setting(
        20.0, "How often viewers are pinged; who answers none for twice as long is closed (s)", low=1, high=3600
    )
    handshake_seconds: float = setting(10.0, "How long a connection may take to say what it wants (s)", low=1, high=600)
    idle_seconds: float = setting(3600.0, "A viewer that neither asks nor subscribes is closed after it (s)", low=1)
    outbox_bytes: int = setting(
        64 << 20, "Bytes that may wait for one viewer, besides one answer of the largest size", low=1 << 16
    )
    stall_seconds: float = setting(30.0, "A viewer that accepts no byte for so long is closed as slow (s)", low=1)

"""The node's settings."""

import re
from dataclasses import dataclass, fields

from parallax.settings import CommonSettings, setting

SHARED = "HS256"
ALGORITHMS = (SHARED, "RS256", "ES256")
LEAST_SECRET_BYTES = 32
_KEYS_URL = r"https://[^/]|http://(127\.0\.0\.1|localhost|\[::1\])(:\d+)?/"


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
    creation_seconds: float = setting(
        30.0,
        "How long the engine may be at work on a new view before it is quarantined and its viewers are closed (s)",
        low=0.1,
    )
    stuck_seconds: float = setting(
        300.0, "How long it may be at work on any view before the node hands its viewers over and starts afresh (s)", low=1
    )
    catchup_ms: float = setting(
        2000.0, "How long a viewer who comes from another node waits until this one has come as far (ms)", low=0, high=60_000
    )
    edit_seconds: float = setting(
        10.0, "How long an edit may take to be seen before its viewer is told that it may be lost (s)", low=1
    )
    max_sessions: int = setting(10_000, "Most viewers at a time; more get a 503 and may find another node", low=1)
    shed_ratio: float = setting(
        1.5,
        "With so many times the mean of all nodes' viewers, a node lets some go whose link finds another one; 0: never",
        low=0,
    )
    rebuild_bytes: int = setting(
        0, "With so much memory, a node hands its viewers over and starts afresh, one node at a time; 0: never", low=0
    )
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
    auth_algorithms: str = setting(
        "", "What tokens may be signed with, separated by commas: HS256, RS256, ES256; empty: nobody needs a token"
    )
    auth_secret: str = setting("", "The secret of HS256, at least 32 bytes", is_secret=True)
    auth_jwks: str = setting("", "The public keys of RS256 and ES256: path or https:// URL of a JWKS")
    auth_jwks_seconds: float = setting(
        30.0, "Least time between two reads of the keys, when tokens name one that is not there (s)", low=0.1, high=3600
    )
    auth_audience: str = setting("", "The audience (`aud`) that tokens must be for")
    auth_issuer: str = setting("", "The issuer (`iss`) that tokens must be from")
    auth_leeway_seconds: float = setting(5.0, "How far the issuer's clock may be from ours (s)", low=0, high=300)
    auth_cookie: str = setting("", "Name of a cookie that may hold the token; empty: none")
    auth_default_read: str = setting(
        "", "Tables that a token without the claim `read` may read: patterns, separated by commas; empty: none"
    )
    auth_default_write: str = setting("", "The same for `write`, of tables that take edits")


def listed(text: str) -> list[str]:
    """Return the parts of a setting that are separated by commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def wrong_with_tokens(settings: NodeSettings) -> str | None:
    """Return what is wrong with the settings of tokens, None if nothing is; never the secret itself."""
    algorithms = listed(settings.auth_algorithms)
    if not algorithms:
        for field in fields(settings):
            if field.name.startswith("auth_") and getattr(settings, field.name) != field.default:
                return (
                    f"PARALLAX_{field.name.upper()} is set, but PARALLAX_AUTH_ALGORITHMS is not: nobody would need a token"
                )
        return None
    unknown = [algorithm for algorithm in algorithms if algorithm not in ALGORITHMS]
    has_public = any(algorithm != SHARED for algorithm in algorithms)
    rules = [
        (not unknown, f"PARALLAX_AUTH_ALGORITHMS: expected some of {', '.join(ALGORITHMS)}, not {', '.join(unknown)}"),
        (SHARED in algorithms or not settings.auth_secret, "PARALLAX_AUTH_SECRET is of use with HS256 only"),
        (
            SHARED not in algorithms
            or (len(settings.auth_secret.encode()) >= LEAST_SECRET_BYTES and "-----BEGIN" not in settings.auth_secret),
            f"PARALLAX_AUTH_SECRET: HS256 needs a secret of at least {LEAST_SECRET_BYTES} bytes, not a key pair's",
        ),
        (has_public == bool(settings.auth_jwks), "PARALLAX_AUTH_JWKS is needed for RS256 and ES256, and for nothing else"),
        (
            "://" not in settings.auth_jwks or re.match(_KEYS_URL, settings.auth_jwks),
            "PARALLAX_AUTH_JWKS: expected a path or an https:// URL (http:// of this machine only)",
        ),
        (
            bool(settings.auth_audience and settings.auth_issuer),
            "PARALLAX_AUTH_AUDIENCE and PARALLAX_AUTH_ISSUER are needed",
        ),
        (re.fullmatch(r"[\w.-]*", settings.auth_cookie), "PARALLAX_AUTH_COOKIE: expected letters, digits, _, . and -"),
        (
            not (settings.auth_cookie and "*" in listed(settings.allowed_origins)),
            "PARALLAX_AUTH_COOKIE with PARALLAX_ALLOWED_ORIGINS=* would let every page use the cookies of its visitors",
        ),
    ]
    return next((text for is_right, text in rules if not is_right), None)

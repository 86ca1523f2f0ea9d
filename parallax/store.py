"""How Parallax talks to Redis: clients that never retry by themselves, and one Lua file for each operation."""

from importlib import resources
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.commands.core import AsyncScript
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

STORE_ERRORS = (RedisError, OSError)
"""What a call to Redis raises when Redis is away, refuses, or answers an error."""
CONNECTION_ERRORS = (RedisConnectionError, RedisTimeoutError, OSError)

TIMEOUT_SECONDS = 5.0


def connect(url: str, *, timeout_seconds: float = TIMEOUT_SECONDS) -> "Redis":
    """Return a client for `url` that raises at the first failure.

    The library's own retries would run an append twice and hold up a lease's renewal, so whoever calls decides.
    """
    client: Redis = Redis.from_url(
        url,
        socket_timeout=timeout_seconds,
        socket_connect_timeout=min(timeout_seconds, 2.0),
        retry=Retry(NoBackoff(), 0),
        retry_on_timeout=False,
        protocol=2,
        client_name="parallax",
    )
    return client


def load_script(client: "Redis", package: str, name: str) -> AsyncScript:
    """Return the Lua script `name` of `package`, callable with keys and args; it is loaded again whenever Redis forgot it."""
    text = resources.files(package).joinpath(name).read_text()
    script: AsyncScript = client.register_script(text)
    return script


def as_bytes(value: bytes | str) -> bytes:
    """Return a Redis answer as bytes, which it is with our clients, whatever the library's types say."""
    return value.encode() if isinstance(value, str) else value


def text(value: Any) -> str:
    """Return a Redis answer as text."""
    return value.decode() if isinstance(value, bytes) else str(value)

"""How Parallax talks to Redis: clients that never retry by themselves, and one Lua file for each operation."""

import asyncio
import logging
from importlib import resources
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.commands.core import AsyncScript
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from parallax.errors import ConfigurationError

log = logging.getLogger(__name__)

STORE_ERRORS = (RedisError, OSError)
"""What a call to Redis raises when Redis is away, refuses, or answers an error."""

TIMEOUT_SECONDS = 5.0


class _PromptlyCancelled:
    """For a connection class: send without `asyncio.wait_for`, which before Python 3.12 swallows a cancellation that arrives
    just when the sending is done; the task that was cancelled would go on."""

    socket_timeout: float | None

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        limit, self.socket_timeout = self.socket_timeout, None
        try:
            async with asyncio.timeout(limit):
                await super().send_packed_command(command, check_health)  # type: ignore[misc]
        except TimeoutError:
            await self.disconnect(nowait=True)  # type: ignore[attr-defined]
            raise RedisTimeoutError("timeout writing to Redis") from None
        finally:
            self.socket_timeout = limit


def connect(url: str, *, timeout_seconds: float = TIMEOUT_SECONDS) -> "Redis":
    """Return a client for `url` that raises at the first failure.

    The library's own retries would run an append twice and hold up a lease's renewal, so whoever calls decides.

    Raises:
        ConfigurationError: `url` is none that the client understands.
    """
    try:
        client: Redis = Redis.from_url(
            url,
            socket_timeout=timeout_seconds,
            socket_connect_timeout=min(timeout_seconds, 2.0),
            retry=Retry(NoBackoff(), 0),
            retry_on_timeout=False,
            protocol=2,
            client_name="parallax",
        )
    except ValueError as error:
        raise ConfigurationError([f"PARALLAX_REDIS_URL: {error}"]) from error
    pool: Any = client.connection_pool
    pool.connection_class = type("Connection", (_PromptlyCancelled, pool.connection_class), {})
    return client


async def wait_for_redis(redis: "Redis", url: str) -> None:
    """Wait until Redis answers, and say so while it does not.

    Raises:
        ConfigurationError: it answers, but will never serve us as it is set up.
    """
    has_complained = False
    while True:
        try:
            info = await redis.info("server")
            break
        except (AuthenticationError, NoPermissionError) as error:
            raise ConfigurationError([f"PARALLAX_REDIS_URL: {place(url)} refuses us: {error}"]) from error
        except STORE_ERRORS as error:
            if "NOAUTH" in str(error) or "WRONGPASS" in str(error):
                raise ConfigurationError([f"PARALLAX_REDIS_URL: {place(url)} refuses us: {error}"]) from error
            if not has_complained:
                log.warning("Redis at %s does not answer (%s); waiting for it", place(url), error)
                has_complained = True
            await asyncio.sleep(0.5)
    version = str(info.get("redis_version", "7.0"))
    if int(version.partition(".")[0]) < 7:
        raise ConfigurationError([f"PARALLAX_REDIS_URL: {place(url)} is Redis {version}; 7.0 or newer is needed"])
    if has_complained:
        log.info("Redis at %s answers", place(url))


def place(url: str) -> str:
    """Return a Redis URL without user and password."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=""))


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

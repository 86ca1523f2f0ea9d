"""How Parallax talks to Redis: clients that never retry by themselves, and one Lua file for each operation."""

import asyncio
import hashlib
import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from importlib import resources
from typing import Any

from redis.asyncio import Connection, Redis, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    NoPermissionError,
    NoScriptError,
    RedisClusterException,
    RedisError,
)

from parallax.connections import OurCluster, OurConnection, OurPool, Primary, primary_of
from parallax.errors import ConfigurationError
from parallax.redis_url import Kind, parse, place

log = logging.getLogger(__name__)

STORE_ERRORS = (RedisError, RedisClusterException, OSError)
"""What a call to Redis raises when Redis is away, refuses, or answers an error."""

TIMEOUT_SECONDS = 5.0
FOLLOW_SECONDS = 1.0
FINAL_WORDS = (
    *("NOAUTH", "WRONGPASS", "NOPERM", "invalid username-password", "WRONGTYPE", "unknown command"),
    *("DB index is out of range", "No such master with that name", "Cluster mode is not enabled"),
    *("CERTIFICATE_VERIFY_FAILED", "WRONG_VERSION_NUMBER", "ALERT_CERTIFICATE_REQUIRED", "ALERT_UNKNOWN_CA"),
)
"""In the text of an error: asking again will not help until somebody changes something."""


def connect(url: str, *, timeout_seconds: float = TIMEOUT_SECONDS) -> "Redis":
    """Return a client for `url` that raises at the first failure.

    The library's own retries would run an append twice and hold up a lease's renewal, so whoever calls decides. For a cluster
    it is the library's client for clusters, which has the same methods.

    Raises:
        ConfigurationError: `url` is none that we understand.
    """
    address = parse(url)
    options: dict[str, Any] = address.user | {
        "socket_timeout": timeout_seconds,
        "socket_connect_timeout": min(timeout_seconds, 2.0),
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        "client_name": "parallax",
    }
    if address.kind is Kind.CLUSTER:
        cluster: Any = OurCluster(address, options)
        client: Redis = cluster
        return client
    primary = Primary(address, timeout_seconds)
    base: type = UnixDomainSocketConnection if address.kind is Kind.SOCKET else Connection
    if address.is_tls:
        base, options = SSLConnection, options | address.tls
    if address.kind is Kind.SOCKET:
        options["path"] = address.path
    elif address.kind is Kind.SERVER:
        options["host"], options["port"] = address.hosts[0]
    connection_class = type("OurConnection", (OurConnection, base), {"primary": primary})
    return Redis.from_pool(OurPool(primary, connection_class=connection_class, db=address.db, **options))


def is_cluster(client: "Redis") -> bool:
    """Say whether it is a client of a cluster, where a channel has a slot as a key has."""
    return isinstance(client, OurCluster)


def is_outdated(connection: Any) -> bool:
    """Say whether a connection may lead to one that is the primary no more."""
    return isinstance(connection, OurConnection) and connection.is_outdated


async def follow_primary(client: "Redis") -> None:
    """Ask the sentinels each second who the primary is, until cancelled, so that no connection stays with an old one.

    A primary that the others lost sight of may still answer us. Where there are no sentinels, this returns at once.
    """
    primary = primary_of(client)
    while primary is not None and primary.has_sentinels:
        with suppress(*STORE_ERRORS):
            before = primary.where
            if await primary.find() != before and before is not None:
                log.warning("the primary is %s:%d now", *(primary.where or ()))
                pool: Any = client.connection_pool
                await pool.disconnect_all()
        await asyncio.sleep(FOLLOW_SECONDS)


async def wait_for_redis(redis: "Redis", url: str) -> None:
    """Wait until Redis answers, and say so while it does not.

    Raises:
        ConfigurationError: it answers, but will never serve us as it is set up.
    """
    has_complained = False
    while True:
        try:
            info: dict[str, Any] = await redis.info("server")
            break
        except STORE_ERRORS as error:
            if is_final(error):
                raise ConfigurationError([f"PARALLAX_REDIS_URL: {place(url)} refuses us: {error}"]) from error
            if not has_complained:
                log.warning("Redis at %s does not answer (%s); waiting for it", place(url), error)
                has_complained = True
            await asyncio.sleep(0.5)
    version = str(info.get("redis_version", "7.0"))
    if int(version.partition(".")[0]) < 7:
        raise ConfigurationError([f"PARALLAX_REDIS_URL: {place(url)} is Redis {version}; 7.0 or newer is needed"])
    mode = info.get("redis_mode") or info.get("server_mode")  # Valkey's name for it
    if mode == "cluster" and not is_cluster(redis):
        raise ConfigurationError([f"PARALLAX_REDIS_URL: {place(url)} is part of a cluster; use redis+cluster://"])
    if mode == "sentinel":
        raise ConfigurationError([f"PARALLAX_REDIS_URL: {place(url)} is a sentinel; use redis+sentinel://"])
    if has_complained:
        log.info("Redis at %s answers", place(url))


def is_final(error: BaseException) -> bool:
    """Say whether an error of Redis's means that asking again cannot help until somebody changes something."""
    if isinstance(error, AuthenticationError | NoPermissionError):
        return True
    return isinstance(error, STORE_ERRORS) and any(words in str(error) for words in FINAL_WORDS)


class Script:
    """A Lua script. Whenever Redis forgot it (a restart, a failover, SCRIPT FLUSH), it is sent whole."""

    def __init__(self, client: "Redis", body: str) -> None:
        self._client: Any = client
        self._body = body
        self._sha = hashlib.sha1(body.encode(), usedforsecurity=False).hexdigest()

    async def __call__(self, keys: Sequence[str], args: Iterable[Any] = ()) -> Any:
        """Run it. Redis answers NOSCRIPT before it does anything, so it runs once at most."""
        arguments = (len(keys), *keys, *args)
        try:
            return await self._client.evalsha(self._sha, *arguments)
        except NoScriptError:
            return await self._client.eval(self._body, *arguments)


def load_script(client: "Redis", package: str, name: str) -> Script:
    """Return the Lua script `name` of `package`, callable with keys and args."""
    return Script(client, resources.files(package).joinpath(name).read_text())


def as_bytes(value: bytes | str) -> bytes:
    """Return a Redis answer as bytes, which it is with our clients, whatever the library's types say."""
    return value.encode() if isinstance(value, str) else value


def text(value: Any) -> str:
    """Return a Redis answer as text."""
    return value.decode() if isinstance(value, bytes) else str(value)

"""Our connections to Redis: promptly cancelled, and never left with a server that is the primary no more."""

import asyncio
from typing import Any

from redis.asyncio import Connection, ConnectionPool, Redis, RedisCluster, SSLConnection
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError, ReadOnlyError, RedisError, ResponseError, SlotNotCoveredError
from redis.exceptions import TimeoutError as RedisTimeoutError

from parallax.redis_url import Address
from parallax.tasks import Tasks

SENTINEL_SECONDS = 0.5
"""How long a sentinel may take to answer."""
MOST_CONNECTIONS = 10_000
"""Of one process to one member of a cluster: far more than it has tables."""


class Primary:
    """Who the primary is, for all connections of one client.

    `epoch` grows whenever the old one is known to be the primary no more: then each connection that was made before is made
    anew where it is used next. Where there are sentinels, they are asked; otherwise the address itself leads to the new one.
    """

    def __init__(self, address: Address, timeout_seconds: float) -> None:
        self.epoch = 0
        self.where: tuple[str, int] | None = None
        self._service = address.service
        self._seconds = min(timeout_seconds, SENTINEL_SECONDS)
        options: dict[str, Any] = address.sentinel_user | {
            "socket_timeout": self._seconds,
            "socket_connect_timeout": self._seconds,
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,
            "client_name": "parallax",
        }
        if address.is_tls:
            options |= {"ssl": True} | address.tls
        hosts = address.hosts if address.service else ()
        self._sentinels = [Redis(host=host, port=port, **options) for host, port in hosts]

    @property
    def has_sentinels(self) -> bool:
        """Say whether there are sentinels to ask."""
        return bool(self._sentinels)

    async def find(self) -> tuple[str, int]:
        """Ask all sentinels at once, wait for most of them, and believe the one that saw the latest failover.

        Raises:
            RedisError: none knows; with what they said.
        """
        answers: list[tuple[int, tuple[str, int]]] = []
        errors: list[BaseException] = []
        is_enough = asyncio.Event()

        async def ask(sentinel: "Redis") -> None:
            try:
                answers.append(await self._ask(sentinel))
            except (RedisError, OSError, KeyError, ValueError) as error:
                errors.append(error)
            if 2 * len(answers) > len(self._sentinels) or len(answers) + len(errors) == len(self._sentinels):
                is_enough.set()

        async with Tasks() as tasks:
            for sentinel in self._sentinels:
                tasks.start(ask(sentinel), name="sentinel")
            await is_enough.wait()
        if not answers:
            unknown = next((error for error in errors if isinstance(error, ResponseError)), None)
            raise unknown or RedisConnectionError(f"no sentinel answers: {errors[0]}")
        _, where = max(answers)
        if where != self.where:
            self.where = where
            self.epoch += 1
        return where

    async def _ask(self, sentinel: "Redis") -> tuple[int, tuple[str, int]]:
        async with asyncio.timeout(self._seconds):
            known: Any = await sentinel.sentinel_master(self._service)
            # While a failover ends, the one who leads it has the new epoch, but shows the old address there.
            address: Any = await sentinel.sentinel_get_master_addr_by_name(self._service)
        if address is None:
            raise RedisConnectionError(f"a sentinel does not know {self._service!r} any more")
        host, port = address
        return int(known["config-epoch"]), (host.decode() if isinstance(host, bytes) else str(host), int(port))

    async def close(self) -> None:
        """Let go of the sentinels."""
        for sentinel in self._sentinels:
            await sentinel.aclose()


class PromptlyCancelled:
    """For a connection class: send without `asyncio.wait_for`, which before Python 3.12 swallows a cancellation that arrives
    just when the sending is done; the task that was cancelled would go on."""

    socket_timeout: float | None

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        """Send a command."""
        limit, self.socket_timeout = self.socket_timeout, None
        try:
            async with asyncio.timeout(limit):
                await super().send_packed_command(command, check_health)  # type: ignore[misc]
        except TimeoutError:
            await self.disconnect(nowait=True)  # type: ignore[attr-defined]
            raise RedisTimeoutError("timeout writing to Redis") from None
        finally:
            self.socket_timeout = limit


class OurConnection(PromptlyCancelled):
    """For a connection class that goes to the primary. Each client has a class of its own, with its `primary`."""

    primary: Primary
    epoch = -1  # that in which it was made
    host: str
    port: int

    @property
    def is_outdated(self) -> bool:
        """Say whether it may lead to one that is the primary no more."""
        return self.epoch != self.primary.epoch

    def should_reconnect(self) -> bool:
        """Say whether it is not to be used again; the pool asks when it comes back."""
        return self.is_outdated or bool(super().should_reconnect())  # type: ignore[misc]

    async def connect(self) -> None:
        """Connect, or make sure that it is connected to the primary; the pool calls it before each use."""
        if self.is_outdated and self.is_connected:  # type: ignore[attr-defined]
            await self.disconnect()  # type: ignore[attr-defined]
        await super().connect()  # type: ignore[misc]

    async def _connect(self) -> None:
        if self.primary.has_sentinels:
            self.host, self.port = await self.primary.find()
        self.epoch = self.primary.epoch
        await super()._connect()  # type: ignore[misc]

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        """Say who we are, and see whether it is the primary: what a sentinel says may be old."""
        await super().on_connect_check_health(check_health)  # type: ignore[misc]
        if not self.primary.has_sentinels:
            return
        await self.send_packed_command(self.pack_command("ROLE"), check_health=False)  # type: ignore[attr-defined]
        try:
            role: Any = await self.read_response()
        except NoPermissionError:
            return
        if role[0] not in (b"master", "master"):
            raise RedisConnectionError(f"{self.host}:{self.port} is not the primary yet, or no more")

    async def read_response(self, *args: Any, **options: Any) -> Any:
        """Read an answer; one that only a replica gives ends all connections to it."""
        try:
            return await super().read_response(*args, **options)  # type: ignore[misc]
        except ResponseError as error:
            if isinstance(error, ReadOnlyError) or str(error).startswith(("UNBLOCKED", "MASTERDOWN")):
                if not self.is_outdated:
                    self.primary.epoch += 1
                await self.disconnect(nowait=True)  # type: ignore[attr-defined]
            raise


class OurPool(ConnectionPool):
    """A pool of such connections."""

    def __init__(self, primary: Primary, **options: Any) -> None:
        self.primary = primary
        super().__init__(**options)

    async def disconnect_all(self) -> None:
        """Close all connections, those in use too: who waits for the old primary gets an error at once, and asks the new one."""
        await super().disconnect(inuse_connections=True)

    async def disconnect(self, inuse_connections: bool = True) -> None:
        """Close the connections; all of them: those to the sentinels, too."""
        await super().disconnect(inuse_connections)
        if inuse_connections:
            await self.primary.close()


def primary_of(client: "Redis") -> Primary | None:
    """Return whom a client's connections follow; None for a cluster, whose client does that itself."""
    pool = getattr(client, "connection_pool", None)
    return pool.primary if isinstance(pool, OurPool) else None


class ClusterConnection(PromptlyCancelled, Connection):
    """A connection to a member of a cluster."""


class ClusterTLSConnection(PromptlyCancelled, SSLConnection):
    """The same with TLS."""


class OurCluster(RedisCluster):
    """The library's client for clusters, which follows redirections but repeats nothing that may have been done.

    A member that is down shall not keep us from the others, so the slots need not all be covered.
    """

    def __init__(self, address: Address, options: dict[str, Any]) -> None:
        tls = {"ssl": True} | address.tls if address.is_tls else {}
        super().__init__(
            startup_nodes=[ClusterNode(host, port) for host, port in address.hosts],
            require_full_coverage=False,
            max_connections=MOST_CONNECTIONS,
            **options,
            **tls,
        )
        self._member_options = options | address.tls
        self._member_class = ClusterTLSConnection if address.is_tls else ClusterConnection
        self.connection_kwargs["connection_class"] = self._member_class
        for node in self.startup_nodes:
            node.connection_class = self._member_class

    async def member_of(self, channel: bytes) -> tuple[str, int]:
        """Return which member has the slot of a sharded channel, as far as we know.

        Raises:
            RedisClusterException, RedisError: we do not know it, or nobody can be asked.
        """
        await self.initialize()
        node = self.get_node_from_key(channel.decode())
        if node is None:
            raise SlotNotCoveredError(f"no member of the cluster has the slot of {channel.decode()}")
        return node.host, int(node.port)

    async def look_again(self) -> None:
        """Learn afresh who has which slot.

        Raises:
            RedisClusterException, RedisError: nobody can be asked.
        """
        await self.initialize()
        await self.nodes_manager.initialize()

    def at(self, host: str, port: int) -> "Redis":
        """Return a client of one member, for subscriptions."""
        pool = ConnectionPool(connection_class=self._member_class, host=host, port=port, **self._member_options)
        return Redis.from_pool(pool)

"""The node's process."""

import asyncio
import logging
import os
from typing import Any

from tornado.httputil import HTTPServerRequest
from tornado.web import Application

from node.auth import Auth
from node.balance import Balance
from node.gateway import Gateway
from node.gateway.handler import gateway_routes, websocket_settings
from node.gateway.quarantine import Quarantine
from node.metrics import Metrics
from node.pages import page_routes
from node.settings import NodeSettings
from node.writes import Writes
from parallax.clock import RedisClock
from parallax.errors import StartAfresh
from parallax.fleet_tables import publish_ours
from parallax.http import Health, health_routes
from parallax.metrics import metrics_routes
from parallax.process import first_of, listen, member_name, or_stop
from parallax.quarantine import Suspect
from parallax.registry import Announcer
from parallax.replica.engine import Engine
from parallax.replica.journal import Journal
from parallax.replica.replica import Replica
from parallax.replica.replicas import Replicas
from parallax.replication import versions
from parallax.replication.follower import State
from parallax.replication.keys import FleetKeys
from parallax.replication.position import Position
from parallax.store import connect, text, wait_for_redis
from parallax.tasks import Tasks
from parallax.version import VERSION
from parallax.vitals import Vitals

log = logging.getLogger(__name__)


class PublicApplication(Application):
    """Keeps what was asked for, which may hold a token, out of whatever Tornado says of a request."""

    def find_handler(self, request: HTTPServerRequest, **options: Any) -> Any:
        """Return who answers a request, by then without its query; the arguments were read from it already."""
        request.uri, request.query = request.path, ""
        return super().find_handler(request, **options)


async def serve(settings: NodeSettings, stop: asyncio.Event) -> None:
    """Run until `stop` is set, then hand the viewers over and stop.

    Raises:
        ConfigurationError: a port is taken, or the settings of tokens do not fit together.
    """
    name, boot = member_name(settings)
    keys = FleetKeys(settings.prefix)
    is_draining = was_ready = False
    vitals = Vitals()

    auth = Auth(settings)

    # 1. Redis, the engine, the gateway.
    redis = connect(settings.redis())
    engine = Engine(frame_seconds=settings.frame_ms / 1000, threads=settings.engine_threads, journal=Journal.inherited())
    clock, metrics = RedisClock(redis, keys), Metrics()
    engine.stages = lambda table: metrics.stages(table, clock.at)
    writes = Writes(redis, settings.prefix, f"node {boot}", lambda table: replicas.ensure(table), settings.edit_seconds)
    quarantine = Quarantine(redis, keys, settings.quarantine_seconds)
    gateway = Gateway(settings, metrics.observe, writes.publish, quarantine)

    # 2. Replicas: the gateway hosts a table as soon as it can be read, and goes on while it is stale.
    def changed(replica: Replica) -> None:
        name = replica.keys.table
        if replica.spec is None:
            gateway.remove_table(name)
        elif replica.state is State.LIVE:
            gateway.add_table(name, replica.table)

    replicas = Replicas(redis, settings.prefix, engine, boot, changed)
    metrics.watch(gateway, engine, replicas, clock)

    def is_proven(suspect: Suspect) -> bool:
        replica = replicas.find(suspect.table)
        return replica is not None and gateway.lives_beyond(suspect, text(replica.applied))

    async def catch_up(table: str, position: Position, seconds: float) -> bool:
        replica = replicas.find(table)
        if replica is None or not await replica.reaches(position, seconds):
            return False
        await replica.table.flush()
        return True

    gateway.name, gateway.catch_up = name, catch_up
    gateway.stale = lambda: [replica.keys.table for replica in replicas if replica.state is not State.LIVE]

    def unready() -> list[str]:
        if is_draining:
            return ["draining"]
        nonlocal was_ready
        if was_ready:  # whatever befalls it later, a node serves what it has: no update must not become no reads
            return []
        reasons = replicas.unready() if replicas.knows_catalog else ["the catalog of tables was not read yet"]
        reasons += [
            f"table {replica.keys.table!r} is not hosted yet"
            for replica in replicas
            if replica.state is State.LIVE and replica.spec is not None and gateway.find(replica.keys.table) is None
        ]
        was_ready = not reasons
        return reasons

    def describe() -> dict[str, Any]:
        return {
            "kind": "node",
            "id": name,
            "boot": boot,
            "version": VERSION,
            **versions.announcement(),
            "addresses": {
                "public": f"{settings.bind}:{settings.port}",
                "internal": f"{settings.bind}:{settings.internal_port}",
            },
            "leader": False,
            "ready": not unready(),
            "sessions": gateway.sessions,
            "views": gateway.views,
            "draining": is_draining,
            **vitals.describe(),
            "tables": replicas.report(),
        }

    # 3. The ports, the registry, the other nodes.
    rebuild = asyncio.Event()
    balance = Balance(redis, keys, boot, gateway, settings, rebuild.set)
    announcer = Announcer(redis, keys, boot, describe)
    internal = listen(
        Application([*health_routes(Health(unready, describe)), *metrics_routes(metrics.text)]),
        settings.internal_port,
        settings.bind,
        "PARALLAX_INTERNAL_PORT",
    )
    public = listen(
        PublicApplication(
            [*gateway_routes(gateway, settings, auth), *page_routes(has_fleet=settings.fleet)],
            **websocket_settings(settings),
        ),
        settings.port,
        settings.bind,
        "PARALLAX_PORT",
        idle_connection_timeout=settings.handshake_seconds,
        body_timeout=settings.handshake_seconds,
        max_body_size=1 << 16,
    )
    log.info("node %s: public port %d, internal port %d", name, settings.port, settings.internal_port)

    try:
        await or_stop(wait_for_redis(redis, settings.redis()), stop)
        async with Tasks() as tasks:
            replicas.start()
            tasks.start(clock.run(), name="clock of Redis")
            tasks.start(auth.run(), name="keys of tokens")
            tasks.start(announcer.run(), name="registry")
            if settings.fleet:
                tasks.start(publish_ours(redis, settings.prefix, describe), name="rows of this process")
            tasks.start(gateway.watch(), name="watch over the viewers")
            tasks.start(quarantine.watch(is_proven), name="quarantine")
            tasks.start(balance.run(lambda: not unready()), name="balance")
            await first_of(gateway.is_stuck, rebuild, stop)

            # 4. Drain: load balancers are told, those who are here are handed over, and so are those who come all the same.
            log.info("draining %d sessions", gateway.sessions)
            is_draining = True
            await gateway.drain(settings.drain_seconds)
            public.stop()
            await gateway.drain(0)
            if gateway.is_stuck.is_set():
                log.critical("the engine has been at work on one view for %g s: starting afresh", settings.stuck_seconds)
                os.abort()  # nothing else ends that work; the guard tells the fleet whose fault it was
        await announcer.leave()
        if rebuild.is_set() and not stop.is_set():
            raise StartAfresh
    finally:
        public.stop()
        internal.stop()
        await replicas.close()
        await gateway.close()
        await engine.close()
        await redis.aclose()

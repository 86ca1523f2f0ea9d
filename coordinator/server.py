"""The coordinator's process."""

import asyncio
import logging
from dataclasses import asdict
from typing import Any

from tornado.web import Application

from coordinator.backlog import Backlogs
from coordinator.departed import remove_departed
from coordinator.leadership import Leadership
from coordinator.lease import Lease
from coordinator.metrics import Metrics
from coordinator.settings import CoordinatorSettings
from parallax.clock import RedisClock
from parallax.fleet_tables import publish_ours
from parallax.http import Health, health_routes
from parallax.metrics import metrics_routes
from parallax.process import listen, member_name, or_stop
from parallax.registry import Announcer
from parallax.replica.engine import Engine
from parallax.replica.journal import Journal
from parallax.replica.replicas import Replicas
from parallax.replication import versions
from parallax.replication.keys import FleetKeys
from parallax.store import connect, follow_primary, wait_for_redis
from parallax.tasks import Tasks
from parallax.version import VERSION
from parallax.vitals import Vitals

log = logging.getLogger(__name__)

LEASE_TIMEOUT_SECONDS = 0.5
ENGINE_FRAME_SECONDS = 0.25  # nobody looks at a coordinator's engine between snapshots


async def serve(settings: CoordinatorSettings, stop: asyncio.Event) -> None:
    """Run until `stop` is set.

    Raises:
        ConfigurationError: the tables file is wrong, or the port is taken.
    """
    # 1. Who we are.
    name, owner = member_name(settings)
    keys, vitals = FleetKeys(settings.prefix), Vitals()

    # 2. Redis: the lease has a client of its own, with a short time-out.
    redis = connect(settings.redis())
    lease_redis = connect(settings.redis(), timeout_seconds=LEASE_TIMEOUT_SECONDS)
    lease = Lease(lease_redis, keys.lease, owner, settings.lease_ttl_seconds)

    # 3. Replicas of every table, and what shall lead them; a tables file that is wrong ends it here.
    engine = Engine(frame_seconds=ENGINE_FRAME_SECONDS, journal=Journal.inherited())
    replicas = Replicas(redis, settings.prefix, engine, owner, leads=lambda: lease.is_held)
    clock, metrics, backlogs = RedisClock(redis, keys), Metrics(), Backlogs(redis, replicas)
    leadership = Leadership(redis, lease, replicas, settings, clock.now, metrics.observe)
    metrics.watch(leadership, backlogs, replicas)

    def describe() -> dict[str, Any]:
        return {
            "kind": "coordinator",
            "id": name,
            "boot": owner,
            "version": VERSION,
            **versions.announcement(),
            "addresses": {"internal": f"{settings.bind}:{settings.internal_port}"},
            "leader": leadership.is_leader,
            "sessions": 0,
            "backlog": {table: asdict(found) for table, found in backlogs.tables.items()},
            **vitals.describe(),
            "tables": replicas.report(),
        }

    # 4. The internal port, the registry.
    health = Health(
        unready=lambda: replicas.unready() + leadership.unready(),
        status=lambda: describe() | {"sequencing": leadership.report()},
    )
    announcer = Announcer(redis, keys, owner, describe)
    server = listen(
        Application([*health_routes(health), *metrics_routes(metrics.text)]),
        settings.internal_port,
        settings.bind,
        "PARALLAX_INTERNAL_PORT",
    )
    log.info("coordinator %s: internal port %d", name, settings.internal_port)

    try:
        await or_stop(wait_for_redis(redis, settings.redis()), stop)
        async with Tasks() as tasks:
            replicas.start()
            tasks.start(clock.run(), name="clock of Redis")
            tasks.start(backlogs.run(), name="backlogs")
            tasks.start(follow_primary(lease_redis), name="primary")
            tasks.start(announcer.run(), name="registry")
            tasks.start(leadership.run(), name="leadership")
            if settings.fleet:
                tasks.start(publish_ours(redis, settings.prefix, describe), name="rows of this process")
                departed = remove_departed(redis, settings.prefix, replicas, lambda: leadership.is_leader)
                tasks.start(departed, name="rows of departed members")
            await stop.wait()
            log.info("stopping")
        # 5. Leadership is over and the lease is free: the standby goes on. Now the rest.
        await announcer.leave()
    finally:
        server.stop()
        await replicas.close()
        await engine.close()
        await redis.aclose()
        await lease_redis.aclose()

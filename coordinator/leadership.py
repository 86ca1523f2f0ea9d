"""Waits for the lease, leads every table while it is held, and gives it back."""

import asyncio
import json
import logging
from dataclasses import asdict
from typing import Any

from redis.asyncio import Redis

from coordinator.batch import Limits
from coordinator.history import History
from coordinator.lease import Lease
from coordinator.log import Log
from coordinator.sequencer import Sequencer
from coordinator.settings import CoordinatorSettings
from coordinator.snapshots import Snapshots
from parallax.errors import ParallaxError, SteppedDown
from parallax.replica.replicas import Replicas
from parallax.replication.keys import FleetKeys
from parallax.replication.spec import TableSpec
from parallax.store import STORE_ERRORS
from parallax.tasks import Tasks

log = logging.getLogger(__name__)

CATALOG_SECONDS = 1.0


class Leadership:
    """Lead while the lease is held: a sequencer and a snapshot writer for each table."""

    def __init__(
        self, redis: "Redis", lease: Lease, replicas: Replicas, specs: list[TableSpec], settings: CoordinatorSettings
    ) -> None:
        self.sequencers: dict[str, Sequencer] = {}
        self._redis = redis
        self._lease = lease
        self._replicas = replicas
        self._specs = {spec.name: spec for spec in specs}
        self._settings = settings
        self._renewing = asyncio.Lock()
        self._over = asyncio.Event()
        self._why = ""

    @property
    def is_leader(self) -> bool:
        """Say whether the lease is ours."""
        return self._lease.is_held

    async def run(self) -> None:
        """Stand by, lead, stand by again; until cancelled. Then the lease is released."""
        try:
            while True:
                try:
                    if await self._lease.try_take():
                        await self._lead()
                except STORE_ERRORS as error:
                    log.debug("the lease cannot be asked for: %s", error)
                await asyncio.sleep(self._lease.interval_seconds)
        finally:
            await self._lease.release()

    async def confirm(self) -> None:
        """Renew the lease now.

        Raises:
            SteppedDown: it is another's.
            one of STORE_ERRORS: Redis could not be asked.
        """
        async with self._renewing:
            if not await self._lease.renew():
                raise SteppedDown("the lease is another's now")

    async def _lead(self) -> None:
        log.info("took the lease; leading %d tables", len(self._specs))
        self._over.clear()
        async with Tasks(self._task_failed) as tasks:
            tasks.start(self._keep_lease(), name="lease")
            tasks.start(self._keep_catalog(), name="catalog")
            for spec in self._specs.values():
                self._lead_table(spec, tasks)
            await self._over.wait()
        self.sequencers.clear()
        await self._lease.release()
        log.warning("no longer leading: %s", self._why)
        await asyncio.sleep(self._settings.lease_ttl_seconds)  # let another try

    def _lead_table(self, spec: TableSpec, tasks: Tasks) -> None:
        settings = self._settings
        replica = self._replicas.ensure(spec.name)
        snapshots = Snapshots(self._redis, replica, settings.snapshot_min_bytes)
        limits = Limits(settings.batch_rows, settings.batch_bytes, settings.batch_entries, settings.inline_max)
        owner = self._lease.owner
        table_log = Log(self._redis, replica.keys, owner, inline_max=settings.inline_max, rejected_max=settings.rejected_max)
        history = History(table_log, replica, snapshots, self.confirm)
        sequencer = Sequencer(
            self._redis, table_log, history, replica, snapshots, spec, owner, limits, settings.verify_seconds
        )
        self.sequencers[spec.name] = sequencer
        tasks.start(sequencer.run(), name=f"sequencer {spec.name}")
        tasks.start(snapshots.run(), name=f"snapshots {spec.name}")

    async def _keep_lease(self) -> None:
        """Renew the lease; stop leading before it can run out."""
        while self._lease.is_held:
            await asyncio.sleep(self._lease.interval_seconds)
            try:
                await self.confirm()
            except STORE_ERRORS as error:
                log.warning("the lease could not be renewed: %s", error)
        raise SteppedDown("the lease ran out before it could be renewed")

    async def _keep_catalog(self) -> None:
        """Name the tables where nodes look for them; again and again, since Redis may have lost them."""
        catalog: dict[Any, Any] = {name: json.dumps(spec.to_json()) for name, spec in self._specs.items()}
        while catalog:
            try:
                await self._redis.hset(FleetKeys(self._settings.prefix).catalog, mapping=catalog)
            except STORE_ERRORS as error:
                log.debug("the catalog cannot be written: %s", error)
            await asyncio.sleep(CATALOG_SECONDS)

    def _task_failed(self, name: str, error: BaseException) -> None:
        self._why = str(error) if isinstance(error, ParallaxError) else f"{name} failed: {error}"
        self._over.set()

    def unready(self) -> list[str]:
        """Return a line for each table that this leader does not yet lead."""
        if not self.is_leader:
            return []
        missing = [name for name in self._specs if name not in self.sequencers or not self.sequencers[name].is_leading]
        return [f"table {name!r}: leading, but its own heartbeat has not come back yet" for name in missing]

    def report(self) -> dict[str, Any]:
        """Return what /status says about the tables that are led."""
        return {
            name: asdict(sequencer.counts)
            | {"is_leading": sequencer.is_leading, "backlog": sequencer.backlog, "top": str(sequencer.top)}
            for name, sequencer in self.sequencers.items()
        }

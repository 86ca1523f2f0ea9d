"""Waits for the lease, leads every table while it is held, and gives it back."""

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, fields
from functools import partial
from typing import Any

from redis.asyncio import Redis

from coordinator.candidate import Candidate
from coordinator.catalog import Catalog, Wish
from coordinator.channel import Channel
from coordinator.history import History
from coordinator.lease import Lease
from coordinator.limits import Limits
from coordinator.log import Log
from coordinator.sequencer import Sequencer
from coordinator.settings import CoordinatorSettings
from coordinator.snapshots import Snapshots
from coordinator.writing import Writing
from parallax.errors import BadRequest, ConfigurationError, ParallaxError, SteppedDown
from parallax.fleet_tables import with_fleet
from parallax.replica.replicas import Replicas
from parallax.replication.keys import FleetKeys
from parallax.replication.spec import TableSpec
from parallax.store import STORE_ERRORS
from parallax.tables_file import read_tables_file
from parallax.tasks import Tasks

log = logging.getLogger(__name__)

CATALOG_SECONDS = 1.0
REQUEST_SECONDS = 15.0
REPLY_SECONDS = 60


class Leadership:
    """Lead while the lease is held: a sequencer and a snapshot writer for each table."""

    def __init__(
        self,
        redis: "Redis",
        lease: Lease,
        replicas: Replicas,
        settings: CoordinatorSettings,
        redis_time: Callable[[], float] = time.time,
        observe: Callable[[str, str, float], None] = lambda table, what, seconds: None,
    ) -> None:
        self.sequencers: dict[str, Sequencer] = {}
        self._channels: dict[str, Channel] = {}
        self._snapshots: dict[str, Snapshots] = {}
        self._earlier: dict[str, Counter[str]] = {}  # what was counted for a table before its present sequencer
        self._redis_time, self._observe = redis_time, observe
        self._redis = redis
        self._lease = lease
        self._replicas = replicas
        self._settings = settings
        self._keys = FleetKeys(settings.prefix)
        self._candidate = Candidate(redis, self._keys, lease.owner, settings.candidate_seconds)
        self._writing = Writing(redis, self._keys)
        self._catalog = Catalog(redis, self._keys.catalog)
        self._declared = self._read_declared()
        self._file_problems: list[str] = []
        self._renewing = asyncio.Lock()
        self._over = asyncio.Event()
        self._why = ""
        for spec in self._declared:
            replicas.ensure(spec.name)

    @property
    def is_leader(self) -> bool:
        """Say whether the lease is ours."""
        return self._lease.is_held

    async def run(self) -> None:
        """Stand by, lead, stand by again; until cancelled. Then the lease is released."""
        try:
            while True:
                try:
                    # Who was found to be wrong does not lead before it is healed, or cannot be.
                    if not self._replicas.is_healing and await self._lease.try_take():
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
        log.info("took the lease")
        self._over.clear()
        async with Tasks(self._task_failed) as tasks:
            tasks.start(self._keep_lease(), name="lease")
            tasks.start(self._keep_tables(tasks), name="tables")
            await self._over.wait()
        for name in list(self.sequencers):
            self._lead_no_more(name)
        await self._lease.release()
        log.warning("no longer leading: %s", self._why)
        await asyncio.sleep(self._settings.lease_ttl_seconds)  # let another try

    async def _keep_lease(self) -> None:
        """Renew the lease; stop leading before it can run out."""
        while self._lease.is_held:
            await asyncio.sleep(self._lease.interval_seconds)
            try:
                await self.confirm()
            except STORE_ERRORS as error:
                log.warning("the lease could not be renewed: %s", error)
        raise SteppedDown("the lease ran out before it could be renewed")

    def _task_failed(self, name: str, error: BaseException) -> None:
        self._why = str(error) if isinstance(error, ParallaxError) else f"{name} failed: {error}"
        self._over.set()

    # Tables ----------------------------------------------------------------------------------------------------------

    async def _keep_tables(self, tasks: Tasks) -> None:
        """Lead the tables that there shall be; follow the tables file, and requests."""
        is_loaded = is_new = False
        while True:
            try:
                if not is_loaded:
                    is_new = not await self._catalog.load()
                    for replica in self._replicas:
                        if replica.spec is not None:
                            self._catalog.adopt(replica.spec)
                    is_loaded = True
                await self._writing.look()
                self._read_file()
                if is_new:
                    known = self._catalog.wishes.keys() | {spec.name for spec in self._declared}
                    await self._candidate.defer_tables(known)
                self._catalog.follow_file(self._declared)
                await self._catalog.save()  # again and again, since Redis may have lost it
                for name, wish in self._catalog.wishes.items():
                    self._follow_wish(name, wish, tasks)
                await self._serve_requests(tasks)
            except STORE_ERRORS as error:
                log.warning("the catalog cannot be kept: %s", error)
                await asyncio.sleep(CATALOG_SECONDS)

    def _read_declared(self) -> list[TableSpec]:
        specs = read_tables_file(self._settings.tables)
        return with_fleet(specs) if self._settings.fleet else specs

    def _read_file(self) -> None:
        """Read the tables file again; one that is wrong now is not followed, and said so once."""
        try:
            self._declared = self._read_declared()
            self._file_problems = []
        except ConfigurationError as error:
            if error.problems != self._file_problems:
                log.error("keeping the tables as they are: %s", error)
            self._file_problems = error.problems

    def _follow_wish(self, name: str, wish: Wish, tasks: Tasks) -> None:
        sequencer = self.sequencers.get(name)
        if sequencer is not None:
            sequencer.wish(wish.spec)
        elif wish.spec is not None:
            self._lead_table(wish.spec, tasks)

    def _lead_table(self, spec: TableSpec, tasks: Tasks) -> None:
        settings = self._settings
        owner = self._lease.owner
        replica = self._replicas.ensure(spec.name)
        snapshots = Snapshots(self._redis, replica, self._writing, settings.snapshot_min_bytes)
        table_log = Log(
            self._redis,
            replica.keys,
            owner,
            self._writing,
            inline_max=settings.inline_max,
            rejected_max=settings.rejected_max,
            rejected_bytes=settings.rejected_bytes,
        )
        history = History(table_log, replica, snapshots, self.confirm, self._candidate.defer)
        limits = Limits(**{bound.name: getattr(settings, bound.name) for bound in fields(Limits)})
        sequencer = Sequencer(
            *(self._redis, table_log, history, replica, snapshots, spec, owner, limits, settings.verify_seconds),
            redis_time=self._redis_time,
            observe=partial(self._observe, spec.name),
        )
        self.sequencers[spec.name] = sequencer
        self._snapshots[spec.name] = snapshots
        channel = self._channels[spec.name] = Channel(self._redis, self._replicas.feed, replica.keys.ingest)
        tasks.start(self._lead_until_dropped(sequencer, snapshots, channel, spec.name), name=f"table {spec.name}")

    async def _lead_until_dropped(self, sequencer: Sequencer, snapshots: Snapshots, channel: Channel, name: str) -> None:
        async with Tasks(self._task_failed) as tasks:
            tasks.start(snapshots.run(), name=f"snapshots {name}")
            tasks.start(channel.run(), name=f"channel {name}")
            await sequencer.run()
        self._lead_no_more(name)

    def _lead_no_more(self, name: str) -> None:
        self._earlier.setdefault(name, Counter()).update(self._counted(name))
        del self.sequencers[name]

    # Requests --------------------------------------------------------------------------------------------------------

    async def _serve_requests(self, tasks: Tasks) -> None:
        """Do what was asked for within the next moments, one request after the other."""
        found: Any = await self._redis.xread({self._keys.requests: "0-0"}, count=10, block=int(CATALOG_SECONDS * 1000))
        for _, requests in found or ():
            for request_id, parts in requests:
                problem = ""
                try:
                    await self._serve(json.loads(parts[b"body"]), tasks)
                except ParallaxError as error:
                    problem = str(error)
                except (KeyError, ValueError, TypeError) as error:
                    problem = f"not a readable request: {error}"
                async with self._redis.pipeline(transaction=True) as pipe:
                    pipe.set(self._keys.reply(request_id.decode()), json.dumps({"problem": problem}), ex=REPLY_SECONDS)
                    pipe.xdel(self._keys.requests, request_id)
                    await pipe.execute()

    async def _serve(self, request: dict[str, Any], tasks: Tasks) -> None:
        """Create, alter or drop a table, and wait until its log says so.

        Raises:
            BadRequest, ConfigurationError: it cannot be done.
        """
        action, name = str(request["action"]), str(request["name"])
        wish = self._catalog.wishes.get(name, Wish(None))
        spec = None if action == "drop" else TableSpec.from_json(request["spec"])
        if action == "create" and wish.spec is not None and wish.spec != spec:
            raise BadRequest(f"table {name!r} is there already, with another spec; to change it use alter")
        if action == "alter" and wish.spec is None:
            raise BadRequest(f"there is no table {name!r} to alter; to make it use create")
        if action not in ("create", "alter", "drop"):
            raise BadRequest(f"unknown action {action!r}")
        before, wish.spec = wish.spec, spec
        self._catalog.wishes[name] = wish
        self._follow_wish(name, wish, tasks)
        problem = await self._settled(name, spec)
        if problem:
            wish.spec = before
        await self._catalog.save()
        if problem:
            raise BadRequest(problem)

    async def _settled(self, name: str, spec: TableSpec | None) -> str | None:
        """Wait until a table is what was asked for; return why it is not."""
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                while True:
                    sequencer = self.sequencers.get(name)
                    if sequencer is None and spec is None:
                        return None
                    if sequencer is not None:
                        if sequencer.problem is not None:
                            return sequencer.problem
                        if spec is not None and sequencer.head is not None and sequencer.head.spec == spec:
                            return None
                    await asyncio.sleep(0.02)
        except TimeoutError:
            return f"table {name!r}: not done within {REQUEST_SECONDS:g} s; it is still being tried"

    # Telling ---------------------------------------------------------------------------------------------------------

    def unready(self) -> list[str]:
        """Return a line for each table that this leader does not yet lead."""
        if not self.is_leader:
            return []
        wishes = self._catalog.wishes or {spec.name: Wish(spec) for spec in self._declared}
        missing = [
            name
            for name, wish in wishes.items()
            if wish.spec is not None and (name not in self.sequencers or not self.sequencers[name].is_leading)
        ]
        return [f"table {name!r}: leading, but its own heartbeat has not come back yet" for name in missing]

    def totals(self) -> dict[str, Counter[str]]:
        """Return, by table, what this process counted since it was started, in whatever terms it led."""
        names = self._earlier.keys() | self.sequencers.keys()
        found = {name: Counter(self._earlier.get(name)) for name in names}
        for name in self.sequencers:
            found[name].update(self._counted(name))
        return found

    def _counted(self, name: str) -> dict[str, int]:
        sequencer, channel = self.sequencers[name], self._channels[name]
        return asdict(sequencer.counts) | {
            "lost": sequencer.lost,
            "snapshots": self._snapshots[name].taken,
            "channel_messages": channel.messages,
            "channel_dropped": channel.dropped,
        }

    def report(self) -> dict[str, Any]:
        """Return what /status says about the tables that are led."""
        return {
            name: asdict(sequencer.counts)
            | {
                "is_leading": sequencer.is_leading,
                "backlog": sequencer.backlog,
                "top": str(sequencer.top),
                "problem": sequencer.problem,
                "lost": sequencer.lost,
                "channel_messages": self._channels[name].messages,
                "channel_dropped": self._channels[name].dropped,
            }
            for name, sequencer in self.sequencers.items()
        }

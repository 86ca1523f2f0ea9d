"""Makes what a plan says go wrong go wrong, and right again."""

import asyncio
import contextlib
import random
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from parallax.replication.keys import FleetKeys, TableKeys
from parallax.replication.snapshot import Manifest
from parallax.store import STORE_ERRORS
from tests.append_only import forget_newest, newest_file
from tests.chaos_load import TABLES
from tests.chaos_plan import Fault, Plan
from tests.chaos_proxy import ANSWERS, Garble, Proxy
from tests.cluster import PREFIX, Cluster
from tests.processes import HOST

PUBLISHERS = "publishers"
TAIL_SECONDS = 0.7
"""Less than chaos_load.LOSS_SECONDS allows for."""
START_SECONDS = 8.0  # on a busy machine


@dataclass(slots=True)
class ChaosCluster(Cluster):
    """A fleet of which every member, and the publishers, reach Redis through a network of their own, unless it is a `store`."""

    seed: int = 0
    networks: dict[str, Proxy] = field(init=False, default_factory=dict)

    async def start(self) -> None:
        """Start the networks, then everything else."""
        names = [f"coordinator-{number + 1}" for number in range(self.coordinators)]
        names += [f"node-{number + 1}" for number in range(self.nodes)]
        for name in [*names, PUBLISHERS] if self.store is None else []:
            await self._connect(name)
        await Cluster.start(self)

    async def add_node(self) -> str:
        """Start one more node behind a network of its own."""
        if self.store is None:
            await self._connect(self.next_node)
        return await Cluster.add_node(self)

    async def close(self) -> None:
        """End everything at once; nothing is left running."""
        await Cluster.close(self)
        for network in self.networks.values():
            await network.close()

    @property
    def next_node(self) -> str:
        """The name of the node that would be added."""
        return f"node-{1 + sum(name.startswith('node-') for name in self.processes)}"

    def redis_url(self, name: str) -> str:
        """Return where Redis is for one member."""
        return f"redis://{HOST}:{self.networks[name].port}/0" if name in self.networks else str(self.server.url)

    async def _connect(self, name: str) -> None:
        self.networks[name] = Proxy(lambda: self.server.port, f"{self.seed} {name}")
        await self.networks[name].start()


class Faults:
    """Performs a plan's faults on a fleet. `happened` says what was done when, to whom."""

    def __init__(self, cluster: ChaosCluster, plan: Plan) -> None:
        self.happened: list[str] = []
        self.disturbed: set[str] = set()
        """Members that were killed, stopped or frozen at some time."""
        self.has_added = False
        self.died_at: float | None = None
        """When the Redis died that took its newest writes with it."""
        self._cluster, self._plan = cluster, plan
        self._rng = random.Random(f"faults {plan.seed}")
        self._started_at: dict[str, float] = {}
        self._busy: set[str] = set()  # whom something happens to right now
        self._began = time.monotonic()

    async def run(self) -> None:
        """Let everything happen at its time, and heal."""
        self._began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for fault in self._plan.faults:
                group.create_task(self._happen(fault))

    def _note(self, text: str) -> None:
        self.happened.append(f"{time.monotonic() - self._began:6.2f} s  {text}")

    async def _happen(self, fault: Fault) -> None:
        await asyncio.sleep(max(0.0, self._began + fault.at - time.monotonic()))
        deeds: dict[str, Callable[[Fault], Awaitable[None]]] = {
            "kill": self._kill,
            "stop": self._kill,
            "pause": self._pause,
            "kill redis": self._redis,
            "pause redis": self._redis,
            "kill primary": self._part_of_redis,
            "kill replica": self._part_of_redis,
            "kill sentinel": self._part_of_redis,
            "lose the tail": self._lose_tail,
            "add": self._add,
        }
        if fault.kind in deeds:
            await deeds[fault.kind](fault)
        elif fault.whom == "redis":
            await self._to_redis(fault)
        else:
            await self._to_network(fault)

    # Whom --------------------------------------------------------------------------------------------------------------

    async def _members(self, whom: str) -> list[str]:
        """Return who is meant, and is not already in trouble."""
        running = [name for name in self._cluster.running if name not in self._busy]
        coordinators = [name for name in running if name.startswith("coordinator")]
        if whom == PUBLISHERS:
            return [PUBLISHERS]
        if whom == "node":
            nodes = [name for name in running if name.startswith("node")]
            return self._rng.sample(nodes, min(1, len(nodes)))
        leader = await self._leader(coordinators)
        if whom == "coordinators":
            return coordinators
        if whom == "leader":
            return [leader] if leader else []
        return [name for name in coordinators if name != leader][:1]

    async def _leader(self, coordinators: list[str]) -> str | None:
        """Return who has the lease, as Redis says; any coordinator while it says nothing."""
        held = b""
        if "redis" not in self._busy:
            with contextlib.suppress(STORE_ERRORS):
                held = await self._cluster.redis.get(FleetKeys(PREFIX).lease) or b""
        holders = [name for name in coordinators if held.startswith(name.encode() + b".")]
        return next(iter(holders or coordinators), None)

    # Processes ---------------------------------------------------------------------------------------------------------

    async def _kill(self, fault: Fault) -> None:
        names = await self._members(fault.whom)
        self._busy.update(names)
        self.disturbed.update(names)
        self._note(f"{fault}: {', '.join(names) or 'nobody'}")
        for name in names:
            if fault.kind == "stop":
                await self._stop(name)
            else:
                await self._cluster[name].kill()
        await asyncio.sleep(fault.seconds)
        for name in names:
            self._cluster[name].start()
            self._started_at[name] = time.monotonic()
            self._note(f"started {name}")
        self._busy.difference_update(names)

    async def _stop(self, name: str) -> None:
        process = self._cluster[name]
        status = Path(f"/proc/{process.pid}/status")
        try:
            code = await process.terminate(20)
        except AssertionError as error:  # which signals it waits for, and which it has not looked at
            raise AssertionError(f"{error}\n{await asyncio.to_thread(status.read_text)}") from error
        # Who is told while Python still starts knows no better way to end than the kernel's.
        is_new = time.monotonic() - self._started_at.get(name, self._began - START_SECONDS) < START_SECONDS
        assert code in ((0, -signal.SIGTERM) if is_new else (0,)), f"{name} ended with {code} when it was told to stop"

    async def _pause(self, fault: Fault) -> None:
        names = await self._members(fault.whom)
        self._busy.update(names)
        self.disturbed.update(names)
        self._note(f"{fault}: {', '.join(names) or 'nobody'}")
        for name in names:
            self._cluster[name].pause()
        await asyncio.sleep(fault.seconds)
        for name in names:
            self._cluster[name].resume()
        self._busy.difference_update(names)

    async def _add(self, fault: Fault) -> None:
        if self.has_added:
            return
        self.has_added = True
        name = self._cluster.next_node
        self._busy.add(name)
        self._note(f"{fault}: {name}")
        await self._cluster.add_node()
        self._note(f"{name} is ready")
        self._busy.discard(name)

    # Redis -------------------------------------------------------------------------------------------------------------

    async def _redis(self, fault: Fault) -> None:
        server = self._cluster.server
        if "redis" in self._busy:
            return
        self._busy.add("redis")
        self._note(str(fault))
        if fault.kind == "kill redis":
            await server.kill()
        else:
            server.pause()
        await asyncio.sleep(fault.seconds)
        if fault.kind == "kill redis":
            server.start()
            await server.ready()
        else:
            server.resume()
        self._note("Redis is back")
        self._busy.discard("redis")

    async def _lose_tail(self, fault: Fault) -> None:
        """Kill Redis, and start it without what it wrote in the last moments: some, or all, of TAIL_SECONDS."""
        server = self._cluster.server
        self._busy.add("redis")
        before = newest_file(self._cluster.directory)
        size = before.stat().st_size
        await asyncio.sleep(self._rng.uniform(0.05, TAIL_SECONDS))
        self.died_at = time.monotonic()
        await server.kill()
        log = newest_file(self._cluster.directory)
        written = log.stat().st_size - size if log == before else 0
        forgotten = forget_newest(log, int(written * self._rng.choice((0.3, 1.0)))) if written > 0 else 0
        self._note(f"{fault}: {forgotten} of {written} bytes")
        await asyncio.sleep(fault.seconds)
        server.start()
        await server.ready()
        self._note("Redis is back")
        self._busy.discard("redis")

    async def _part_of_redis(self, fault: Fault) -> None:
        name = {"kill primary": "redis-1", "kill replica": "redis-2", "kill sentinel": "sentinel-1"}[fault.kind]
        process = self._cluster.server.processes[name]
        if name in self._busy:
            return
        self._busy.add(name)
        if fault.kind == "kill primary":
            self.died_at = time.monotonic()
        self._note(str(fault))
        await process.kill()
        await asyncio.sleep(fault.seconds)
        process.start()
        self._note(f"started {name}")
        self._busy.discard(name)

    async def _to_redis(self, fault: Fault) -> None:
        table = self._rng.choice(TABLES).name
        keys = TableKeys(PREFIX, table)
        redis = self._cluster.redis
        try:
            match fault.kind:
                case "flush scripts":
                    done = await redis.script_flush()
                case "cut all":
                    done = [await redis.client_kill_filter(_type=kind, skipme=True) for kind in ("normal", "pubsub")]
                case "steal the lease":
                    done = await redis.delete(FleetKeys(PREFIX).lease)
                case "trim":
                    done = await redis.xtrim(keys.log, maxlen=self._rng.choice((0, 1, 5)), approximate=False)
                case "delete the manifest":
                    done = await redis.delete(keys.manifest)
                case "trim to the snapshot" | "delete a chunk":
                    body = await redis.hget(keys.manifest, "body")
                    manifest = Manifest.decode(body) if body else None
                    if manifest is None:
                        done = "there is none"
                    elif fault.kind == "delete a chunk":
                        done = await redis.delete(self._rng.choice(keys.chunks(manifest.snapshot, manifest.chunks)))
                    else:
                        done = await redis.xtrim(keys.log, minid=str(manifest.position), approximate=False)
                case _:
                    raise AssertionError(f"unknown fault {fault.kind!r}")
        except STORE_ERRORS as error:
            done = f"{type(error).__name__}: {error}"
        self._note(f"{fault} ({table}): {done}")

    # Networks ----------------------------------------------------------------------------------------------------------

    async def _to_network(self, fault: Fault) -> None:
        names = await self._members(fault.whom)
        self._note(f"{fault}: {', '.join(names) or 'nobody'}")
        for name in names:
            network = self._cluster.networks[name]
            match fault.kind:
                case "cut":
                    network.cut()
                case "lose answers":
                    network.swallow(ANSWERS)
                case "partition":
                    network.swallow()
                case "freeze":
                    network.hold()
                case "delay":
                    network.delay_seconds = self._rng.choice((0.02, 0.1, 0.3))
                case "garble":
                    network.garble = Garble(lost=0.1, twice=0.1, late=0.1)
                case _:
                    raise AssertionError(f"unknown fault {fault.kind!r}")
        await asyncio.sleep(fault.seconds)
        for name in names:
            network = self._cluster.networks[name]
            if fault.kind == "delay":
                network.delay_seconds = 0.0
            elif fault.kind == "garble":
                network.garble = None
            else:
                network.release()

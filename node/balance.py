"""Sharing viewers with the other nodes: letting some go to those that have few, and starting afresh when memory runs out."""

import asyncio
import logging
import os
import random
from collections.abc import Callable, Sequence
from typing import Any

from redis.asyncio import Redis

from node.gateway import Gateway
from node.settings import NodeSettings
from parallax.guard import OWNER
from parallax.memory import resident_bytes
from parallax.registry import members
from parallax.replication.keys import FleetKeys
from parallax.store import STORE_ERRORS, load_script

log = logging.getLogger(__name__)

LOOK_SECONDS = 2.0
LEAST_EXCESS = 10
"""So many viewers more than the mean are nobody's concern."""
SHED_PART = 0.05
"""At most this part of a node's viewers goes at a time."""
REBUILD_SECONDS = 120
"""How long a node may take, besides draining, until it is ready again; then another one may start afresh."""


def excess(own: int, all_nodes: Sequence[int], ratio: float) -> int:
    """Return how many viewers a node should let go now; `all_nodes` has the sessions of every ready node, its own too."""
    if ratio <= 0 or len(all_nodes) < 2:
        return 0
    mean = sum(all_nodes) / len(all_nodes)
    if own <= mean * ratio or own - mean < LEAST_EXCESS:
        return 0
    return min(int(own - mean), max(1, int(own * SHED_PART)))


class Balance:
    """Looks at the other nodes from time to time. `on_rebuild` is called when this one shall start afresh."""

    def __init__(
        self,
        redis: "Redis",
        keys: FleetKeys,
        boot: str,
        gateway: Gateway,
        settings: NodeSettings,
        on_rebuild: Callable[[], None],
    ) -> None:
        self._redis, self._keys, self._boot = redis, keys, boot
        self._owner = os.environ.get(OWNER, boot)
        self._gateway, self._settings = gateway, settings
        self._on_rebuild = on_rebuild
        self._release = load_script(redis, "parallax", "release.lua")
        self._at_start = 0  # bytes that this process had when all tables were there
        self._has_complained = False

    async def run(self, is_ready: Callable[[], bool]) -> None:
        """Look until cancelled."""
        while not is_ready():  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.1)
        self._at_start = resident_bytes()
        await self._rebuilt()
        while True:
            try:
                await self._look()
            except STORE_ERRORS as error:
                log.debug("the other nodes cannot be seen: %s", error)
            await asyncio.sleep(LOOK_SECONDS * (0.75 + random.random() / 2))

    async def _look(self) -> None:
        others = [
            member
            for member in await members(self._redis, self._keys)
            if member["kind"] == "node" and member.get("ready", True) and member["boot"] != self._boot
        ]
        await self._watch_memory(others)
        sessions = [member["sessions"] for member in others]
        own = self._gateway.sessions
        count = excess(own, [own, *sessions], self._settings.shed_ratio)
        if count:
            log.info("%d viewers here, %s elsewhere: letting %d go", own, sessions, count)
            self._gateway.shed(count)

    async def _watch_memory(self, others: Sequence[dict[str, Any]]) -> None:
        limit = self._settings.rebuild_bytes
        size = resident_bytes() if limit else 0
        if size <= limit:
            return
        if self._at_start > limit:
            self._complain(size, "it was so from the start: raise it")
            return
        if not others:
            self._complain(size, "there is no other node to take the viewers")
            return
        seconds = round(self._settings.drain_seconds) + REBUILD_SECONDS
        if await self._redis.set(self._keys.rebuild, self._owner, nx=True, ex=seconds):
            log.warning("%d bytes of memory, more than PARALLAX_REBUILD_BYTES: starting afresh", size)
            self._on_rebuild()

    def _complain(self, size: int, why: str) -> None:
        if not self._has_complained:
            log.error("%d bytes of memory, more than PARALLAX_REBUILD_BYTES, and %s", size, why)
        self._has_complained = True

    async def _rebuilt(self) -> None:
        """Let the next node start afresh, if this one just did."""
        try:
            await self._release(keys=[self._keys.rebuild], args=[self._owner])
        except STORE_ERRORS as error:
            log.debug("nobody was told that this node is back: %s", error)

"""The version that the leader writes, while members of two versions run."""

import logging

from redis.asyncio import Redis

from parallax.registry import members
from parallax.replication import versions
from parallax.replication.keys import FleetKeys

log = logging.getLogger(__name__)


class Writing:
    """Follows what the members of the fleet can read. Until it has looked, it is the oldest that we can write."""

    def __init__(self, redis: "Redis", keys: FleetKeys) -> None:
        self.version = versions.OLDEST
        self._redis = redis
        self._keys = keys
        self._strangers: list[str] = []

    async def look(self) -> None:
        """Look who is there. Who cannot read what was written so far asks for a snapshot, like any replica in need.

        Raises:
            one of STORE_ERRORS: Redis could not be asked; the version stays.
        """
        before = self.version
        self.version, strangers = versions.common(await members(self._redis, self._keys))
        if strangers and strangers != self._strangers:
            log.error("%s cannot read version %d: upgrade one version after the other", ", ".join(strangers), self.version)
        self._strangers = strangers
        if self.version != before:
            log.info("writing version %d", self.version)

"""Who may lead. A lease only picks a candidate; the logs themselves fence."""

import logging
import secrets
import time
from collections.abc import Callable

from redis.asyncio import Redis

from parallax.store import STORE_ERRORS, load_script, text

log = logging.getLogger(__name__)


class Lease:
    """Take and keep the lease at `key`.

    Its value changes at each renewal. Who saw it unchanged for `ttl_seconds`, by his own monotonic clock, takes it by
    compare-and-set. The holder counts his time from the start of his last good renewal, so he stops before any other can
    begin. Wall clocks, and Redis's clock, play no part.
    """

    def __init__(
        self,
        redis: "Redis",
        key: str,
        owner: str,
        ttl_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.key, self.owner, self.ttl_seconds = key, owner, ttl_seconds
        self._script = load_script(redis, "coordinator", "lease.lua")
        self._clock = clock
        self._value: str | None = None  # what we wrote last; None: not held
        self._renewed_at = 0.0  # the start of the last good renewal
        self._seen: tuple[str, float] | None = None  # another's value, and since when it is unchanged
        self._count = 0

    @property
    def is_held(self) -> bool:
        """Say whether the lease is surely still ours, now."""
        return self._value is not None and self._clock() < self._renewed_at + self.ttl_seconds

    @property
    def interval_seconds(self) -> float:
        """How long to wait between two calls of `renew` or `try_take`."""
        return self.ttl_seconds / 3 if self._value is not None else min(self.ttl_seconds / 3, 0.25)

    async def try_take(self) -> bool:
        """Take the lease if it is free, or if its holder has not renewed it for its TTL.

        Raises:
            one of STORE_ERRORS: Redis could not be asked.
        """
        seen, since = self._seen or ("", None)
        now = self._clock()
        expected = seen if since is not None and now - since >= self.ttl_seconds else ""
        started, value = self._clock(), self._next_value()
        changed, found = await self._script(keys=[self.key], args=[expected, value])
        if changed:
            self._value, self._renewed_at, self._seen = value, started, None
            return True
        found = text(found)
        if found != seen:
            self._seen = (found, self._clock())
        return False

    async def renew(self) -> bool:
        """Renew the lease; False if it is another's now.

        Raises:
            one of STORE_ERRORS: Redis could not be asked; the lease may be held or not until it runs out.
        """
        if self._value is None:
            return False
        started, value = self._clock(), self._next_value()
        previous = self._value
        changed, found = await self._script(keys=[self.key], args=[previous, value])
        if not changed and text(found).startswith(f"{self.owner}:"):
            # An earlier renewal whose answer was lost did reach Redis.
            changed, found = await self._script(keys=[self.key], args=[text(found), value])
        if not changed:
            self._value = None
            return False
        self._value, self._renewed_at = value, started
        return True

    async def release(self) -> None:
        """Give the lease up, if it is ours, so that a standby need not wait."""
        value, self._value = self._value, None
        if value is None:
            return
        try:
            await self._script(keys=[self.key], args=[value, ""])
        except STORE_ERRORS as error:
            log.warning("the lease could not be released: %s; it runs out in %.1f s", error, self.ttl_seconds)

    def forget(self) -> None:
        """Stop holding it, without a word to Redis."""
        self._value = None

    def _next_value(self) -> str:
        self._count += 1
        return f"{self.owner}:{self._count}:{secrets.token_hex(4)}"

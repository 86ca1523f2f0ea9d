"""Which tables there shall be: those of the tables file, and those that `parallax tables` asked for."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field

from redis.asyncio import Redis

from parallax.replication.spec import TableSpec
from parallax.store import load_script, text

KEPT_FINGERPRINTS = 100
SAVED_AT_ONCE = 1000
MARKER = ""
"""A name that no table has: with it, a catalog without tables differs from no catalog."""


@dataclass(slots=True)
class Wish:
    """What one table shall be."""

    spec: TableSpec | None  # None: it was dropped
    from_file: list[str] = field(default_factory=list)
    """Fingerprints of the declarations in tables files that this table has already followed, the newest last. One that it left
    is not followed again: during a rollout, old and new file would otherwise take turns."""

    def encode(self) -> str:
        """Return what stands in the catalog; nodes read only whether there is a spec."""
        return json.dumps({"spec": self.spec and self.spec.to_json(), "from_file": self.from_file})

    @classmethod
    def decode(cls, data: bytes | str) -> "Wish":
        """Read what `encode` wrote."""
        values = json.loads(data)
        spec = values["spec"]
        return cls(None if spec is None else TableSpec.from_json(spec), [str(one) for one in values["from_file"]])


class Catalog:
    """All wishes, kept in memory and in Redis: what Redis loses is written again."""

    def __init__(self, redis: "Redis", key: str) -> None:
        self.wishes: dict[str, Wish] = {}
        self._redis = redis
        self._key = key
        self._script = load_script(redis, "coordinator", "catalog.lua")

    async def load(self) -> bool:
        """Take over what is in Redis; what is only here stays. False: there was no catalog."""
        found = await self._redis.hgetall(self._key)
        for name, data in found.items():
            if text(name) != MARKER:
                self.wishes[text(name)] = Wish.decode(data)
        return bool(found)

    async def save(self) -> None:
        """Write all wishes."""
        wishes = [*self.wishes.items(), (MARKER, Wish(None))]
        for first in range(0, len(wishes), SAVED_AT_ONCE):
            some = wishes[first : first + SAVED_AT_ONCE]
            await self._script(keys=[self._key], args=[part for name, wish in some for part in (name, wish.encode())])

    def follow_file(self, specs: Iterable[TableSpec]) -> list[str]:
        """Wish for what a tables file declares, and return the names of the tables for which that is news.

        A table that is not in the file any more stays: dropping takes a command.
        """
        changed = []
        for spec in specs:
            wish = self.wishes.setdefault(spec.name, Wish(None))
            mark = hashlib.sha256(json.dumps(spec.to_json()).encode()).hexdigest()[:16]
            if mark in wish.from_file:
                continue
            wish.from_file = [*wish.from_file, mark][-KEPT_FINGERPRINTS:]
            wish.spec = spec
            changed.append(spec.name)
        return changed

    def adopt(self, spec: TableSpec) -> None:
        """Wish for a table that is there but that the catalog does not know: Redis lost it."""
        self.wishes.setdefault(spec.name, Wish(spec))

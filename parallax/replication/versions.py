"""Which versions of the bytes in Redis, records and manifests, a program reads and writes.

A fleet is upgraded member by member, so two versions meet. Each member announces what it reads; the leader writes the newest that
all read, which is the one before its own until the last old member is gone. Who skips a version needs a restart of the whole fleet.
"""

from collections.abc import Iterable, Mapping
from typing import Any

NEWEST = 1
OLDEST = 1
"""What this program reads, and can write: NEWEST and, once there are two, the one before."""

ANNOUNCED = "reads"
"""Where a member says [OLDEST, NEWEST] in the registry. Who says nothing is of the time when there was one version."""


def announcement() -> dict[str, Any]:
    """Return what this program says of itself."""
    return {ANNOUNCED: [OLDEST, NEWEST]}


def is_readable(version: Any) -> bool:
    """Say whether this program reads a version."""
    return isinstance(version, int) and OLDEST <= version <= NEWEST


def complaint(what: str, version: Any) -> str:
    """Return what to say of something that is not readable."""
    mine = f"version {NEWEST}" if OLDEST == NEWEST else f"versions {OLDEST} to {NEWEST}"
    return f"{what} of version {version}; this program reads {mine}: upgrade it"


def common(members: Iterable[Mapping[str, Any]]) -> tuple[int, list[str]]:
    """Return the version that a leader writes for these members, and the ids of those who cannot read it."""
    reads = {str(member["id"]): _reads(member) for member in members}
    version = max(OLDEST, min([NEWEST, *(newest for _, newest in reads.values())]))
    return version, sorted(name for name, (oldest, newest) in reads.items() if not oldest <= version <= newest)


def _reads(member: Mapping[str, Any]) -> tuple[int, int]:
    try:
        oldest, newest = map(int, member[ANNOUNCED])
    except (KeyError, TypeError, ValueError):
        return 1, 1
    return oldest, newest

"""Comparing this process's replicas with all others after each `verify` record, and healing those that are wrong.

Every replica reports its digest in the registry (`parallax.registry`); each process compares for itself, by `judge`:

* A replica in the **minority** starts again from a snapshot that was taken since the `verify`: it asks for one, and the leader, who is
  right, takes it. A leader who is wrong himself steps down, and waits for a snapshot of his successor: his own may be as wrong as he.
  If there is no other coordinator, the snapshot that stands has to do.
* In a **tie** nobody is known to be right, so all start again from the snapshot that stands, and the log since: what befell a replica's
  memory is not in there. That happens once; while ties go on they are only counted and logged, until all were equal again.
"""

import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

from redis.asyncio import Redis

from parallax.registry import members
from parallax.replica.replica import Replica
from parallax.replication.keys import FleetKeys
from parallax.replication.position import ORIGIN, Position
from parallax.replication.verdict import Digest, Verdict, judge
from parallax.store import STORE_ERRORS

log = logging.getLogger(__name__)

REPORT_SECONDS = 30.0
"""How long a replica waits for the others' digests; then it judges by those that are there."""


class Healing:
    """Look after the replicas of one process, which announces itself under `name`; `leads()` says whether it has the lease."""

    def __init__(
        self,
        redis: "Redis",
        keys: FleetKeys,
        name: str,
        replicas: Iterable[Replica],
        leads: Callable[[], bool] = lambda: False,
    ) -> None:
        self._redis, self._keys, self._name = redis, keys, name
        self._replicas = replicas
        self._leads = leads
        self._judged: dict[str, Position] = {}  # by table: the last verify that had its verdict
        self._waiting: dict[str, tuple[Digest, float]] = {}  # by table: a digest that has none yet, and since when
        self._tied: set[str] = set()  # tables that started again because of a tie and have not been equal since

    async def look(self) -> None:
        """Give a verdict on each new digest, once all others reported theirs."""
        pending = [
            (replica, replica.digest)
            for replica in self._replicas
            if replica.digest is not None and replica.digest.position != self._judged.get(replica.keys.table)
        ]
        if not pending:
            return
        try:
            found = await members(self._redis, self._keys)
        except STORE_ERRORS as error:
            log.debug("digests cannot be compared: %s", error)
            return
        others = [member for member in found if member["boot"] != self._name]
        for replica, own in pending:
            self._consider(replica, own, others)

    def _consider(self, replica: Replica, own: Digest, others: list[dict[str, Any]]) -> None:
        table, now = replica.keys.table, time.monotonic()
        waiting, since = self._waiting.get(table, (None, now))
        if waiting != own:
            since = now
            self._waiting[table] = own, now
        reports = {member["id"]: member["tables"][table] for member in others if table in member["tables"]}
        digests = {name: Digest.from_json(report["digest"]) for name, report in reports.items()}
        silent = [
            name
            for name, digest in digests.items()
            if reports[name]["position"] != str(ORIGIN) and (digest is None or digest.position != own.position)
        ]
        if silent and now < since + REPORT_SECONDS:
            return
        self._judged[table] = own.position
        del self._waiting[table]
        verdict = judge(own, [digest for digest in digests.values() if digest is not None])
        self._follow(replica, own, verdict, has_successor=any(member["kind"] == "coordinator" for member in others))

    def _follow(self, replica: Replica, own: Digest, verdict: Verdict, *, has_successor: bool) -> None:
        table = replica.keys.table
        replica.verdict = verdict
        replica.verdicts[verdict] += 1
        if verdict is Verdict.EQUAL:
            self._tied.discard(table)
        elif verdict is Verdict.ELSEWHERE:
            log.warning("table %s: another replica differs from the majority, and us, at %s", table, own.position)
        elif verdict is Verdict.MINORITY and own.position <= replica.loaded:
            log.warning("table %s: we differed from the majority at %s, and have started again since", table, own.position)
        elif verdict is Verdict.MINORITY:
            log.error("table %s: we differ from the majority at %s, and start again from a snapshot", table, own.position)
            if not self._leads():
                replica.heal(own.position)
            else:
                replica.heal(Position(replica.applied.term + 1, 0) if has_successor else ORIGIN)
        elif table in self._tied:
            log.error(
                "table %s: replicas still differ at %s, and none has a majority; see `parallax verify`", table, own.position
            )
        else:
            log.error("table %s: replicas differ at %s, and none has a majority: all start again", table, own.position)
            self._tied.add(table)
            replica.heal(ORIGIN)

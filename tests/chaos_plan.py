"""What a run of chaos is made of, drawn from its seed: a fleet, and what happens to it when."""

import random
from collections.abc import Mapping
from dataclasses import dataclass

from tests.processes import RedisKind

FAULT_SECONDS = 5.0
"""The last fault begins before."""

LEAST_FAULTS, MOST_FAULTS = 4, 9
MEMBERS = ("leader", "leader", "standby", "node", "node")
FARTHER = (*MEMBERS, "publishers")

AGAINST_MEMBERS: Mapping[str, tuple[float, tuple[str, ...]]] = {
    # what: how often, to whom
    "kill": (5, (*MEMBERS, "coordinators")),
    "pause": (4, MEMBERS),
    "stop": (2, MEMBERS),
    "kill redis": (3, ("redis",)),
    "pause redis": (2, ("redis",)),
    "flush scripts": (1, ("redis",)),
    "cut all": (2, ("redis",)),
    "steal the lease": (2, ("redis",)),
    "trim to the snapshot": (2, ("redis",)),
    "cut": (2, FARTHER),
    "lose answers": (3, FARTHER),
    "partition": (3, FARTHER),
    "freeze": (4, ("leader", "leader", *FARTHER)),
    "delay": (2, FARTHER),
    "garble": (3, MEMBERS),
    "add": (1, ("node",)),
}

AGAINST_DATA: Mapping[str, tuple[float, tuple[str, ...]]] = {
    # Redis loses what a leader can make again: only while one leads and no coordinator is disturbed, else it may be lost for good.
    "trim": (5, ("redis",)),
    "delete the manifest": (4, ("redis",)),
    "delete a chunk": (4, ("redis",)),
    "trim to the snapshot": (2, ("redis",)),
    "flush scripts": (1, ("redis",)),
    "kill": (3, ("node",)),
    "pause": (2, ("node",)),
    "partition": (2, ("node", "publishers")),
    "freeze": (1, ("node", "publishers")),
    "garble": (2, ("node",)),
    "add": (2, ("node",)),
}

WITHOUT_ITS_TAIL: Mapping[str, tuple[float, tuple[str, ...]]] = {
    # Besides Redis's death with its newest writes, which is in each of these plans. Publishers hear at once what was accepted, so that
    # the times tell what may be lost.
    "kill": (5, (*MEMBERS, "coordinators")),
    "pause": (4, MEMBERS),
    "stop": (1, MEMBERS),
    "flush scripts": (1, ("redis",)),
    "steal the lease": (2, ("redis",)),
    "trim to the snapshot": (2, ("redis",)),
    "cut": (2, MEMBERS),
    "lose answers": (3, MEMBERS),
    "partition": (3, MEMBERS),
    "freeze": (3, MEMBERS),
    "garble": (3, MEMBERS),
    "add": (1, ("node",)),
}

BEHIND_SENTINEL: Mapping[str, tuple[float, tuple[str, ...]]] = {
    # Besides the primary's death, which is in each of these plans; there are no networks between, since Sentinel tells where Redis is.
    "kill": (5, (*MEMBERS, "coordinators")),
    "pause": (4, MEMBERS),
    "stop": (1, MEMBERS),
    "flush scripts": (1, ("redis",)),
    "cut all": (2, ("redis",)),
    "steal the lease": (2, ("redis",)),
    "trim to the snapshot": (1, ("redis",)),
    "kill replica": (2, ("redis",)),
    "kill sentinel": (2, ("redis",)),
    "add": (1, ("node",)),
}

INSTANT = {"flush scripts", "cut all", "steal the lease", "trim to the snapshot", "cut", "trim"}
INSTANT |= {"delete the manifest", "delete a chunk", "add"}


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong `at` seconds after the start, and is right again `seconds` later."""

    at: float
    kind: str
    whom: str
    seconds: float

    def __str__(self) -> str:
        lasts = f" for {self.seconds:.1f} s" if self.seconds else ""
        return f"{self.kind}{'' if self.whom in ('redis', self.kind) else ' ' + self.whom}{lasts}"


@dataclass(frozen=True, slots=True)
class Plan:
    """One run."""

    seed: int
    coordinators: int
    nodes: int
    redis_kind: RedisKind
    has_front: bool
    is_against_data: bool
    has_sentinel: bool
    loses_tail: bool
    """Whether Redis dies once and comes back without its newest writes."""
    settings: Mapping[str, str]
    faults: tuple[Fault, ...]

    @property
    def may_lose(self) -> bool:
        """Whether writes that were accepted may be gone."""
        return self.has_sentinel or self.loses_tail

    def __str__(self) -> str:
        lines = [
            f"{self.coordinators} coordinators, {self.nodes} nodes, {self.redis_kind}"
            f"{' and Sentinel' * self.has_sentinel}{', load balancer' * self.has_front}, "
            + ", ".join(f"{name}={value}" for name, value in self.settings.items())
        ]
        return "\n".join([*lines, *(f"  {fault.at:5.2f} s  {fault}" for fault in self.faults)])


def plan(seed: int, *, has_sentinel: bool = False) -> Plan:
    """Return the run of a seed; always the same."""
    rng = random.Random(f"chaos {seed}")
    sort = rng.random()
    is_against_data = sort < 0.25 and not has_sentinel
    loses_tail = sort > 0.85 and not has_sentinel
    kinds = AGAINST_DATA if is_against_data else WITHOUT_ITS_TAIL if loses_tail else AGAINST_MEMBERS
    faults = []
    if loses_tail:
        faults.append(Fault(round(rng.uniform(1, 4), 2), "lose the tail", "redis", rng.choice((0.1, 1.0, 3.0))))
    if has_sentinel:
        kinds = BEHIND_SENTINEL
        # Back long before or long after it is replaced: between, it takes for a moment what is lost with it, and no time tells what.
        faults.append(Fault(round(rng.uniform(1, 4), 2), "kill primary", "redis", rng.choice((0.2, 12.0, 12.0))))
    for _ in range(rng.randint(LEAST_FAULTS, MOST_FAULTS)):
        (kind,) = rng.choices(list(kinds), [weight for weight, _ in kinds.values()])
        seconds = 0.0 if kind in INSTANT else rng.choice((0.1, 0.5, 1.0, 2.0, 3.0))
        faults.append(Fault(round(rng.uniform(0.3, FAULT_SECONDS), 2), kind, rng.choice(kinds[kind][1]), seconds))
    return Plan(
        seed,
        coordinators=rng.choice((2, 2, 3)),
        nodes=rng.choice((2, 2, 3)),
        redis_kind=rng.choice(("valkey", "valkey", "redis")),
        has_front=rng.random() < 0.5,
        is_against_data=is_against_data,
        has_sentinel=has_sentinel,
        loses_tail=loses_tail,
        settings={
            "SNAPSHOT_MIN_BYTES": str(rng.choice((2_000, 20_000, 200_000, 32 << 20))),
            "INLINE_MAX": str(rng.choice((1_024, 1 << 20, 1 << 20))),  # few bytes: many payloads stand beside the log
            "BATCH_ENTRIES": str(rng.choice((3, 5_000, 5_000))),
            "CATCHUP_MS": "1000",
        },
        faults=tuple(sorted(faults, key=lambda fault: fault.at)),
    )

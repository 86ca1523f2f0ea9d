"""What a replica concludes from the digests that all replicas of its table reported after a `verify` record.

Only digests at the same position and of the same spec are compared. The majority is more than half of those reports: it is right.
Without a majority nobody is, so all start again from the log: see `parallax.replica.healing`.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from parallax.replication.position import Position


@dataclass(frozen=True, slots=True)
class Digest:
    """The digest of one replica's table."""

    position: Position  # of the `verify` record
    spec: str  # `TableSpec.fingerprint` of the table's spec there
    value: str

    def to_json(self) -> dict[str, str]:
        """Return plain JSON values; `from_json` reads them back."""
        return {"position": str(self.position), "spec": self.spec, "value": self.value}

    @classmethod
    def from_json(cls, values: Any) -> "Digest | None":
        """Read what `to_json` wrote, or what a member of another version announced: None if it is none."""
        try:
            return cls(Position.parse(values["position"]), str(values["spec"]), str(values["value"]))
        except (KeyError, TypeError, ValueError, AttributeError):
            return None


class Verdict(StrEnum):
    """How one replica stands to the others."""

    EQUAL = "equal"  # all who reported the same position have the same digest; also if no other did
    ELSEWHERE = "elsewhere"  # this one is with the majority, another is not
    MINORITY = "minority"  # the majority has another digest
    TIE = "tie"  # digests differ, and none has more than half


def judge(own: Digest, others: Iterable[Digest]) -> Verdict:
    """Compare one replica's digest with those of all others."""
    counted = Counter([own.value])
    counted.update(other.value for other in others if (other.position, other.spec) == (own.position, own.spec))
    if len(counted) == 1:
        return Verdict.EQUAL
    right = majority(counted)
    if right is None:
        return Verdict.TIE
    return Verdict.ELSEWHERE if right == own.value else Verdict.MINORITY


def majority(counted: "Counter[str]") -> str | None:
    """Return the value that more than half have, if there is one."""
    value, count = counted.most_common(1)[0]
    return value if 2 * count > counted.total() else None

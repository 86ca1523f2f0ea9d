"""One flight of the slice, and its state as a pure function of time.

Instants are milliseconds since 1970 in UTC, durations minutes, distances miles.
"""

import math
from bisect import bisect_right
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

MINUTE = 60_000
BOARDING = 30 * MINUTE  # how long boarding takes
CANCELLED_BEFORE = 40 * MINUTE  # when a cancellation becomes known, before the scheduled departure
KEPT = 180 * MINUTE  # how long a finished flight stays on the board
CRUISE = 7.5  # miles a minute: how far a diverted flight gets is not in the source

Row = dict[str, Any]

IDENTITY = ("id", "carrier", "flight", "origin", "dest", "distance", "tailnum")
CHANGES = ("id", "status", "dep_delay", "arr_delay", "air_time", "remaining", "lat", "lon", "updated")
MOVING = ("id", "air_time", "remaining", "lat", "lon", "updated")
WAITING = ("id", "dep_delay", "updated")


@dataclass(frozen=True, slots=True)
class Flight:
    """A flight with its milestones: `instants[n]` is when it enters the status `statuses[n]`.

    The first milestone lies before all time; the last is the end of the flight's story, after which `gone` says when it
    leaves the board. Invariant: the instants never decrease.
    """

    source: Row
    sched_dep: int
    instants: tuple[float, ...]
    statuses: tuple[str, ...]
    gone: float
    arc: "Arc"

    @classmethod
    def from_source(cls, row: Row) -> "Flight":
        """Build from one row of the slice, its instants already in milliseconds."""
        sched: int = row["sched_dep"]
        arc = Arc.between(row["origin_lat"], row["origin_lon"], row["dest_lat"], row["dest_lon"])
        if row["departed"] is None:
            known = sched - CANCELLED_BEFORE
            return cls(row, sched, (-math.inf, known), ("scheduled", "cancelled"), known + KEPT, arc)
        boarding = row["departed"] - BOARDING
        end = row["landed"] or row["took_off"] + int(row["distance"] / CRUISE) * MINUTE
        story = [(-math.inf, "scheduled")]
        if boarding > sched:
            story.append((sched, "delayed"))
        story += [(boarding, "boarding"), (row["departed"], "departed"), (row["took_off"], "en route")]
        story.append((end, "landed" if row["landed"] else "diverted"))
        instants, statuses = zip(*story, strict=True)
        return cls(row, sched, instants, statuses, end + KEPT, arc)

    def stage(self, at: int) -> int:
        """Return the number of the milestone that the flight has last passed."""
        return bisect_right(self.instants, at) - 1

    def status(self, at: int) -> str:
        """Return the status word at an instant."""
        return self.statuses[self.stage(at)]

    def state(self, at: int) -> Row:
        """Return the whole row of the `flights` table at an instant."""
        source, status = self.source, self.status(at)
        flown = self.flown(at)
        lat, lon = self.arc.point(flown)
        landed = status == "landed"
        return {name: source[name] for name in IDENTITY} | {
            "status": status,
            "sched_dep": self.sched_dep,
            "dep_delay": self.delay(at),
            "arr_delay": source["arr_delay"] if landed else None,
            "air_time": self.air_time(at),
            "remaining": round(source["distance"] * (1 - flown), 1),
            "lat": round(lat, 4),
            "lon": round(lon, 4),
            "updated": at,
        }

    def waiting(self, at: int) -> bool:
        """Whether the flight is late and still at its gate, so that its delay grows."""
        return at > self.sched_dep and self.status(at) in ("delayed", "boarding")

    def delay(self, at: int) -> float | None:
        """Return the departure delay as known at an instant."""
        status = self.status(at)
        if status in ("scheduled", "delayed", "boarding", "cancelled"):
            return (at - self.sched_dep) / MINUTE if self.waiting(at) else None
        delay: float = self.source["dep_delay"]
        return delay

    def flown(self, at: int) -> float:
        """Return which part of the way lies behind the flight, 0 to 1."""
        status = self.status(at)
        if status in ("landed", "diverted"):
            return 1.0
        if status != "en route":
            return 0.0
        took_off, end = self.instants[-2:]
        return (at - took_off) / (end - took_off)

    def air_time(self, at: int) -> float | None:
        """Return the minutes in the air so far, null before the take-off."""
        status = self.status(at)
        if status == "en route":
            return float((at - self.instants[-2]) // MINUTE)
        if status == "landed":
            air_time: float = self.source["air_time"]
            return air_time
        return None


@dataclass(frozen=True, slots=True)
class Arc:
    """A great circle between two places, given as unit vectors."""

    start: tuple[float, float, float]
    end: tuple[float, float, float]
    angle: float  # radians

    @classmethod
    def between(cls, lat: float, lon: float, to_lat: float, to_lon: float) -> "Arc":
        """Return the shortest way between two places in degrees."""
        start, end = _vector(lat, lon), _vector(to_lat, to_lon)
        cosine = sum(p * q for p, q in zip(start, end, strict=True))
        return cls(start, end, math.acos(max(-1.0, min(1.0, cosine))))

    def point(self, part: float) -> tuple[float, float]:
        """Return latitude and longitude in degrees at `part` (0 to 1) of the way."""
        if self.angle == 0:
            x, y, z = self.start
        else:
            a = math.sin((1 - part) * self.angle) / math.sin(self.angle)
            b = math.sin(part * self.angle) / math.sin(self.angle)
            x, y, z = (a * p + b * q for p, q in zip(self.start, self.end, strict=True))
        return math.degrees(math.atan2(z, math.hypot(x, y))), math.degrees(math.atan2(y, x))


def _vector(lat: float, lon: float) -> tuple[float, float, float]:
    phi, theta = math.radians(lat), math.radians(lon)
    return math.cos(phi) * math.cos(theta), math.cos(phi) * math.sin(theta), math.sin(phi)


@cache
def days() -> tuple[tuple[Flight, ...], ...]:
    """Read the slice: its flights by day, each day in the order of scheduled departure."""
    table = pq.read_table(Path(__file__).with_name("data") / "flights.parquet")
    for number, field in enumerate(table.schema):
        if pa.types.is_timestamp(field.type):
            table = table.set_column(number, field.name, table.column(number).cast(pa.int64()))
    by_day: dict[object, list[Flight]] = {}
    for row in table.to_pylist():
        by_day.setdefault(row["day"], []).append(Flight.from_source(row))
    return tuple(tuple(flights) for flights in by_day.values())

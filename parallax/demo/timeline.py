"""The replay as a pure function: what happens on the board, in order, with no clock and no Redis."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from parallax.demo.flight import CHANGES, MINUTE, MOVING, WAITING, Flight, Row, days

OPENS = 12 * 60 * MINUTE  # a day of the replay begins at noon UTC, 8 in the morning in New York, in the middle of the rush,
CLOSES = 30 * 60 * MINUTE  # and ends at 2 in the night
DAY = 24 * 60 * MINUTE


@dataclass(frozen=True, slots=True)
class Change:
    """One operation on one table. `rows` all have the same columns, in the order of the table's schema or less of it."""

    at: int  # when, in the time of the replay: ms since 1970 in UTC
    table: str  # flights or events
    op: str  # update, remove, replace or clear
    rows: Sequence[Row]


def timeline(step_minutes: float) -> Iterator[Sequence[Change]]:
    """Yield, for each step of so many simulated minutes, what changed in it; ends after the slice's last day.

    Each day begins by replacing the board with that day's programme, and the slice by clearing the events; every step
    after that updates or removes only the rows that changed, with only the columns that changed.
    """
    step = round(step_minutes * MINUTE)
    for number, flights in enumerate(days()):
        midnight = min(flight.sched_dep for flight in flights) // DAY * DAY
        now = midnight + OPENS
        opening = [Change(now, "flights", "replace", [flight.state(now) for flight in flights if now < flight.gone])]
        if number == 0:
            opening.append(Change(now, "events", "clear", []))
        yield opening
        while now < midnight + CLOSES:
            now += step
            yield _changes(flights, now - step, now)


def _changes(flights: Sequence[Flight], before: int, now: int) -> list[Change]:
    turned: list[Row] = []
    moved: list[Row] = []
    waited: list[Row] = []
    gone: list[Row] = []
    events: list[Row] = []
    for flight in flights:
        if now >= flight.gone:
            if before < flight.gone:
                gone.append({"id": flight.source["id"]})
            continue
        stage = flight.stage(now)
        passed = range(flight.stage(before) + 1, stage + 1)
        events.extend(_event(flight, n) for n in passed)
        if passed:
            turned.append(_pick(flight, CHANGES, now))
        elif flight.statuses[stage] == "en route":
            moved.append(_pick(flight, MOVING, now))
        elif flight.waiting(now):
            waited.append(_pick(flight, WAITING, now))
    events.sort(key=lambda row: (row["time"], row["flight"]))
    found = [
        Change(now, "flights", "update", turned),
        Change(now, "flights", "update", moved),
        Change(now, "flights", "update", waited),
        Change(now, "flights", "remove", gone),
        Change(now, "events", "update", events),
    ]
    return [change for change in found if change.rows]


def _pick(flight: Flight, columns: Sequence[str], at: int) -> Row:
    state = flight.state(at)
    return {column: state[column] for column in columns}


def _event(flight: Flight, stage: int) -> Row:
    at = int(flight.instants[stage])
    source = flight.source
    what = flight.statuses[stage]
    return {
        "time": at,
        "flight": source["id"],
        "what": what,
        "carrier": source["carrier"],
        "origin": source["origin"],
        "dest": source["dest"],
        "delay": source["arr_delay"] if what == "landed" else flight.delay(at),
    }

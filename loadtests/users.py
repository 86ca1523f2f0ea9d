"""The users of the load test. Each knows the table of `loadtests.schedule`, and keeps books on what it sees of it."""

import json
import random
import time
from functools import cache
from typing import Any

import gevent

from loadtests import looks
from loadtests.accounting import Deltas, Freshness
from loadtests.conversation import BY_ROWS, VIEW_DELETE, Answer, content
from loadtests.looks import EXPLORED, RAW, Look, newest_in, sequences
from loadtests.measures import Measures, now_us
from loadtests.perspective_user import PerspectiveUser
from loadtests.plan import Dialogue
from loadtests.requests import record
from loadtests.schedule import NOTES, NOTES_SPEC, TABLE
from loadtests.shapes import SETTLE_SECONDS

FRESH = -1
"""Stands where the moment of a loss stood, once all is as if it had not happened."""
LISTEN = 0.25
"""Seconds of silence after which a user looks at the clock."""


class Scheduled(PerspectiveUser):
    """A user who knows the schedule, and proves at its end that he has seen all of it."""

    abstract = True

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self.books: Measures = environment.measures
        self.schedule = self.books.schedule
        self.chance = random.Random(f"{self._name}{random.random()}")
        self._is_proven = False

    def is_over(self, missing: int = 0) -> bool:
        """Say whether all was published and is here, or will not come any more."""
        return time.time() > self.schedule.end + (SETTLE_SECONDS / 2 if missing else 0.0)

    def prove(self, gaps: int, is_equal: bool, what: str) -> None:
        """Enter into the books, once, whether anything is missing, and whether what is there is right."""
        if self._is_proven:
            return
        self._is_proven = True
        self.note("gaps", 0, wrong=f"{gaps} missing" if gaps else None)
        self.note("convergence", 0, wrong=None if is_equal else f"{what} is not what the oracle says")
        self.books.count("gaps", gaps)
        self.books.count("unequal", 0 if is_equal else 1)
        self.books.count("proofs")

    def stay(self) -> None:
        """Do no more than listen, as long as there is a connection."""
        while True:
            self.talk.listen(1.0)


class Viewer(Scheduled):
    """Looks at one view, and follows its updates as `<perspective-viewer>` does: a notification, then its six requests."""

    is_measured = True
    """Whether what is late for this user counts."""

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self.freshness = self._seen = Freshness(self.schedule)
        self.look, self.config = looks.choose(self.books.options.sharing, self.chance)
        self._is_notified = False

    def visit(self) -> None:
        """Make the view, follow it to the end of the schedule, and compare it with the oracle's."""
        began_us = now_us()
        self.ask("features", "", looks.GET_FEATURES)
        view_id = self.make_view(TABLE, self.config)
        self.subscribe(view_id, self._hear)
        self._show(self.refresh(view_id, self.look.dialogue))
        if not self.lost_us:
            self.note("first row", now_us() - began_us)
        while not self.is_over(self._seen.missing):
            self.look_around()
            if self._is_notified:
                self._is_notified = False
                self._show(self.refresh(view_id, self.look.dialogue))
            else:
                self.talk.listen(LISTEN)
        whole = content(self.ask("whole view", view_id, self.look.dialogue.kinds["whole"]))
        self.prove(self._seen.missing + self._seen.backwards, self.books.oracle().agrees(self.look, whole), f"{self.look}")
        self.stay()

    def look_around(self) -> None:
        """Do what else there is to do between two messages."""

    def _hear(self, answer: Answer) -> None:
        self._is_notified = True

    def _show(self, rows: Answer) -> None:
        newest = newest_in(rows.body)
        if newest is None:
            return
        latencies = self._seen.see(newest, rows.at_us)
        if self.is_measured:
            for latency in latencies:
                self.note("end to end", latency)
        if self.lost_us > 0 and self._seen.shows(self.lost_us):
            self.note("reconnect to fresh", rows.at_us - self.lost_us)
            self.lost_us = FRESH


class Reconnecter(Viewer):
    """A viewer who drops the connection at the same instants as all others of his kind, and comes back."""

    is_measured = False

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self._next = self._instant()

    def look_around(self) -> None:
        """Leave when it is time."""
        if time.time() >= self._next and time.time() < self.schedule.end:
            self._next = self._instant()
            self.leave()

    def _instant(self) -> float:
        every = self.books.options.herd_seconds
        return self.schedule.start + every * (int((time.time() - self.schedule.start) / every) + 1)


class Explorer(Scheduled):
    """Goes through views: another sort, group or filter, and scrolls in each."""

    pause = 0.5

    def visit(self) -> None:
        """Change the view again and again; compare the last with the oracle's."""
        while not self.is_over():
            look = self.chance.choice(EXPLORED)
            started = time.perf_counter()
            view_id = self.make_view(TABLE, looks.choose_config(look, self.books.options.sharing, self.chance))
            self.refresh(view_id, look.dialogue)
            self.note("change view", round((time.perf_counter() - started) * 1e6))
            for _ in range(3):
                gevent.sleep(self.pause / 4)
                self.ask("scroll", view_id, looks.rows(self.chance.randrange(self.schedule.rows)))
            self.ask("delete view", view_id, VIEW_DELETE)
            gevent.sleep(self.pause / 4)
        self._compare()
        self.stay()

    def _compare(self) -> None:
        look = self.chance.choice(EXPLORED)
        view_id = self.make_view(TABLE, look.dialogue.config)
        while True:
            is_equal = self.books.oracle().agrees(
                look, content(self.ask("whole view", view_id, look.dialogue.kinds["whole"]))
            )
            if is_equal or self.is_over(missing=1):
                break
            gevent.sleep(LISTEN)
        self.prove(0, is_equal, f"{look}")


class RawSubscriber(Scheduled):
    """A program: reads the whole table once, and then every row that changes."""

    look: Look = RAW

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self._rows = Deltas(self.schedule)
        self._latencies = Freshness(self.schedule)
        self._waiting: list[Answer] = []

    def visit(self) -> None:
        """Follow the table to the end of the schedule, and compare it with the oracle's."""
        self._waiting.clear()
        view_id = self.make_view(TABLE, self.look.dialogue.config)
        self.subscribe(view_id, self._waiting.append, BY_ROWS)
        whole = self.ask("whole view", view_id, self.look.dialogue.kinds["whole"])
        self._rows.begin(sequences(content(whole)))
        self._see(whole)
        while not self.is_over(self.schedule.count - (self._rows.newest or 0)):
            while self._waiting:
                answer = self._waiting.pop(0)
                self._rows.add(sequences(content(answer)))
                self._see(answer)
            self.talk.listen(LISTEN)
        self._rows.end()
        whole = self.ask("whole view", view_id, self.look.dialogue.kinds["whole"])
        is_equal = self.books.oracle().agrees(self.look, content(whole))
        self.books.count("rows lost", self._rows.lost)
        self.books.count("rows doubled", self._rows.doubled)
        self.prove(self._rows.lost + self._rows.doubled, is_equal, "the table")
        self.stay()

    def _see(self, answer: Answer) -> None:
        for latency in self._latencies.see(self._rows.newest or 0, answer.at_us):
            self.note("end to end, rows", latency)


class Editor(Scheduled):
    """Changes a row of his own, and reads it back: an edit that was confirmed is there."""

    pause = 0.5

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self._value = self._confirmed = 0

    def visit(self) -> None:
        """Edit and read to the end of the schedule."""
        dialogue = _own_note(self._name)
        view_id = self.make_view(NOTES, dialogue.config)
        self._check(self.ask("rows", view_id, dialogue.refresh[-1]))
        while not self.is_over():
            self._value += 1
            row = {"key": self._name, "value": self._value, "text": "edited"}
            self.ask("edit", NOTES, looks.edit(json.dumps([row])))
            self._confirmed = self._value
            self._check(self.ask("rows", view_id, dialogue.refresh[-1]))
            gevent.sleep(self.pause)
        held = self._held(self.ask("rows", view_id, dialogue.refresh[-1]))
        self.prove(0, self._confirmed <= held <= self._value, f"the note of {self._name}")
        self.stay()

    def _check(self, answer: Answer) -> None:
        """See that nothing confirmed is missing; what was asked for and not confirmed may be there or not."""
        if not self._confirmed <= self._held(answer) <= self._value:
            self.books.count("edits lost")

    def _held(self, answer: Answer) -> int:
        found = looks.VALUE.findall(answer.body)
        return int(found[0]) if found else 0


@cache
def _own_note(key: str) -> Dialogue:
    return record(NOTES_SPEC.arrow_schema, columns=["key", "value"], filter=[["key", "==", key]])


KINDS: dict[str, type[Scheduled]] = {
    "viewer": Viewer,
    "explorer": Explorer,
    "raw": RawSubscriber,
    "editor": Editor,
    "reconnecter": Reconnecter,
}

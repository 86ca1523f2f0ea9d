"""What a load test measures, between its users and Locust: entries in Locust's statistics, and exact histograms beside them.

Locust rounds response times to two digits and keeps no sum of what is late; so each worker keeps books of its own and sends them to
the master with Locust's reports, where they are added up. The master writes them into the file that `--result` names.
"""

import json
import os
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import gevent
from locust import runners
from locust.env import Environment

from loadtests.accounting import Books
from loadtests.looks import Oracle
from loadtests.schedule import Schedule
from loadtests.shapes import Plan

KIND = "viewer"
LAG, STALE = "generator lag", "staleness"
TICK = 0.05
"""Seconds between two looks at how late this process is."""
REPORT_SECONDS = 1.0
SPIN = 0.97
"""Of each second, which a generator wastes that was told to be busy."""


def now_us() -> int:
    """Return the time, in microseconds since the epoch: the schedule's clock."""
    return time.time_ns() // 1000


def fire(environment: Environment, name: str, microseconds: int, size: int = 0, wrong: str | None = None) -> None:
    """Tell Locust of one thing that took so long; `wrong` says how it failed."""
    environment.events.request.fire(
        request_type=KIND,
        name=name,
        response_time=microseconds / 1000,
        response_length=size,
        exception=None if wrong is None else RuntimeError(wrong),
        context={},
    )


class Measures:
    """One process's: a worker's, the master's, or of both in one."""

    def __init__(self, environment: Environment, schedule: Schedule, options: Namespace) -> None:
        self.schedule = schedule
        self.options = options
        self.plan = Plan.of_options(options)
        self.books = Books()
        self.users: set[Any] = set()
        """The users of this process that are connected; each has `freshness`, or None."""
        self.processors: list[float] = []
        """This process's share of one processor, second by second."""
        self.workers: dict[str, list[float]] = {}
        self.steps: dict[int, Books] = {}
        """On the master: the books of each step of the shape."""
        self._environment = environment
        self._oracle: Oracle | None = None

    # Recording -------------------------------------------------------------------------------------------------------

    def record(self, name: str, microseconds: int, size: int = 0, wrong: str | None = None) -> None:
        """Record one thing that took so long, in the books and with Locust; `wrong` says how it failed."""
        if wrong is None:
            self.books.record(name, microseconds)
        else:
            self.books.counts[f"failed: {name}"] += 1
        fire(self._environment, name, microseconds, size, wrong)

    def count(self, name: str, number: int = 1) -> None:
        """Count something."""
        self.books.counts[name] += number

    def received(self, messages: int, size: int) -> None:
        """Count messages and their bytes; Locust shows them as an entry without a time."""
        if not messages:
            return
        self.count("messages", messages)
        self.count("bytes", size)
        entry = self._environment.stats.get("messages", KIND)
        second = int(time.time())
        entry.num_requests += messages
        entry.total_content_length += size
        entry.num_none_requests += messages
        entry.num_reqs_per_sec[second] = entry.num_reqs_per_sec.get(second, 0) + messages
        entry.last_request_timestamp = time.time()

    def oracle(self) -> Oracle:
        """Return what every view shows at the end."""
        if self._oracle is None:
            self._oracle = Oracle(self.schedule)
        return self._oracle

    # Reports ---------------------------------------------------------------------------------------------------------

    def to_report(self) -> dict[str, Any]:
        """Return what was recorded since the last report."""
        books, self.books = self.books, Books()
        processors, self.processors = self.processors, []
        return {"books": books.to_json(), "processors": processors}

    def add_report(self, worker: str, report: dict[str, Any]) -> None:
        """Add a worker's report to the step that runs."""
        books = Books.from_json(report["books"])
        self.steps.setdefault(self.step, Books()).add(books)
        self.workers.setdefault(worker, []).extend(report["processors"])

    @property
    def step(self) -> int:
        """Return the number of the step of the shape that runs."""
        return self.plan.step_at(time.time() - self.schedule.start)

    def total(self) -> Books:
        """Return all that workers reported."""
        books = Books()
        for step in self.steps.values():
            books.add(step)
        return books

    def write(self, path: Path, problems: int) -> None:
        """Write what the verdict is about."""
        found = {
            "books": self.total().to_json(),
            "steps": [
                {"step": step, "users": self.plan.users_in(step), "books": books.to_json()}
                for step, books in sorted(self.steps.items())
            ],
            "workers": self.workers,
            "exceptions": problems,
        }
        path.write_text(json.dumps(found))

    # Greenlets of a process with users -----------------------------------------------------------------------------------

    def watch(self) -> None:
        """Look at the process itself, and at how old its users' pictures are, until killed."""
        second, processor = time.monotonic(), time.process_time()
        while True:
            before = time.monotonic()
            gevent.sleep(TICK)
            now = time.monotonic()
            if not self.schedule.start <= time.time() <= self.schedule.end:
                second, processor = now, time.process_time()
                continue
            self.books.record(LAG, round((now - before - TICK) * 1e6))
            moment = now_us()
            for user in list(self.users):
                self.received(*user.traffic())
                if user.freshness is not None and user.freshness.newest is not None:
                    self.books.record(STALE, self.schedule.overdue_us(user.freshness.newest, moment))
            if now - second >= 1:
                self.processors.append((time.process_time() - processor) / (now - second))
                second, processor = now, time.process_time()

    def spin(self) -> None:
        """Waste this process's time until the last update is due: to see that the verdict notices."""
        while time.time() < self.schedule.end:
            until = time.monotonic() + SPIN
            while time.monotonic() < until:
                pass
            gevent.sleep(1 - SPIN)


def install(environment: Environment, schedule: Schedule, options: Namespace) -> Measures:
    """Hang the measures into a Locust process, whichever part it plays."""
    measures = Measures(environment, schedule, options)
    runner, events = environment.runner, environment.events
    runners.WORKER_REPORT_INTERVAL = REPORT_SECONDS
    if not isinstance(runner, runners.MasterRunner):
        gevent.spawn(measures.watch)
        if options.busy:
            gevent.spawn(measures.spin)
    if isinstance(runner, runners.WorkerRunner):

        def report(client_id: str, data: dict[str, Any]) -> None:
            data["parallax"] = measures.to_report()

        events.report_to_master.add_listener(report)
        return measures

    def take(client_id: str, data: dict[str, Any]) -> None:
        measures.add_report(client_id, data["parallax"])

    def report_to_self() -> None:
        while True:
            gevent.sleep(REPORT_SECONDS)
            measures.add_report(str(os.getpid()), measures.to_report())

    def finish(exit_code: int) -> None:
        if not isinstance(runner, runners.MasterRunner):
            measures.add_report(str(os.getpid()), measures.to_report())
        if options.result:
            measures.write(Path(options.result), 0 if runner is None else len(runner.exceptions))

    if isinstance(runner, runners.MasterRunner):
        events.worker_report.add_listener(take)
    else:
        gevent.spawn(report_to_self)
    events.quit.add_listener(finish)
    return measures

"""Whether a load test passed, by stated thresholds; nothing here runs anything.

| exit code | meaning |
|---|---|
| 0 | passed |
| 1 | the load test itself broke |
| 2 | it was asked for something that makes no sense |
| 3 | too slow |
| 4 | wrong: something is missing, came twice, or is not what the oracle says |
| 5 | invalid: the generator was saturated, or did not keep its schedule; nothing else that was measured means anything |
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Any

from loadtests.accounting import Books


class Outcome(IntEnum):
    """What comes of it; the exit code. The names of the first lines of `make load`'s last words."""

    PASSED = 0
    BROKEN = 1
    MISUSED = 2
    SLOW = 3
    WRONG = 4
    INVALID = 5


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What is still good enough. Times in milliseconds."""

    end_to_end_p50: float = 200.0
    """From the instant at which an update is due to the first answer that shows it."""
    end_to_end_p99: float = 750.0
    stale_p99: float = 750.0
    """At any moment, for how long the oldest update that is not on the screen has been due."""
    first_row_p99: float = 3_000.0
    fresh_p99: float = 3_000.0
    """From a lost connection to a picture as if it had not been lost."""
    edit_p99: float = 2_000.0
    generator_cpu: float = 0.85
    """Of one processor, the part that a generator may use, over the whole run."""
    generator_lag_p99: float = 150.0
    publisher_late_p99: float = 100.0

    @classmethod
    def parse(cls, texts: Sequence[str]) -> "Thresholds":
        """Return the usual thresholds with some set otherwise, each as NAME=VALUE.

        Raises:
            ValueError: there is no such threshold, or this is no number.
        """
        names = [item.name for item in fields(cls)]
        found = dict(text.partition("=")[::2] for text in texts)
        if unknown := found.keys() - set(names):
            raise ValueError(f"--limit: no threshold is called {', '.join(sorted(unknown))}; there are {', '.join(names)}")
        try:
            return cls(**{name: float(value) for name, value in found.items()})
        except ValueError as error:
            raise ValueError(f"--limit: {error}") from None

    def times(self, patience: float) -> "Thresholds":
        """Return thresholds for a slower machine; what a generator may use of it stays the same."""
        return Thresholds(
            **{
                item.name: getattr(self, item.name) * (1.0 if item.name == "generator_cpu" else patience)
                for item in fields(self)
            }
        )


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the verdict."""

    what: str
    found: float | None
    limit: float
    unit: str
    outcome: Outcome
    """What it makes of the run if it is over the limit."""

    @property
    def is_met(self) -> bool:
        """Say whether it is within its limit; what was never measured is."""
        return self.found is None or self.found <= self.limit

    def __str__(self) -> str:
        found = "-" if self.found is None else f"{self.found:,.4g}"
        return f"{'ok  ' if self.is_met else 'FAIL'} {self.what:<44} {found:>10} {self.unit:<3} (at most {self.limit:g})"


@dataclass(frozen=True, slots=True)
class Run:
    """All that is known of one."""

    result: Mapping[str, Any]
    """As `Measures.write` wrote it."""
    pacer: Books
    expected_updates: int
    users: int
    """Who are there at the end, and must have proven what they see."""
    shape: str
    limits: Thresholds
    expects_losses: bool
    """Whether connections are lost on purpose."""
    differences: Sequence[str] = ()
    """Between replicas, by their digests."""
    grown: Sequence[str] = ()
    """What takes more and more room."""

    @property
    def books(self) -> Books:
        """Everybody's."""
        return Books.from_json(self.result["books"])


def checks(run: Run) -> Iterator[Check]:
    """Yield every check of a run."""
    books, limits = run.books, run.limits
    yield from _of_generators(run)
    counts = books.counts
    wrong = Outcome.WRONG
    unproven = run.users - counts["proofs"]
    yield Check("exceptions in users", run.result["exceptions"], 0, "", Outcome.BROKEN)
    yield Check("users who proved nothing", max(0, unproven), 0, "", wrong)
    for what in ("gaps", "rows lost", "rows doubled", "edits lost"):
        yield Check(what, counts[what], 0, "", wrong)
    yield Check("final views unlike the oracle's", counts["unequal"], 0, "", wrong)
    yield Check("what takes more and more room", len(run.grown), 0, "", wrong)
    yield Check("replicas that differ", len(run.differences), 0, "", wrong)
    refused = sum(number for name, number in counts.items() if name.startswith("failed: ") and not name.endswith(PROOFS))
    lost = counts["connections lost"]
    if not run.expects_losses:
        yield Check("connections lost", lost, 0, "", wrong)
        yield Check("requests refused or not answered", refused, 0, "", wrong)
    judged = [(f", step {step['step'] + 1}", Books.from_json(step["books"])) for step in run.result["steps"]]
    if run.shape in ("steady", "rolling"):
        judged = [("", books)]
    elif run.shape == "ladder":
        judged = judged[:1]  # that it climbs over the knee is no fault
    for where, part in judged:
        for name, percentile, limit in (
            ("end to end", 50, limits.end_to_end_p50),
            ("end to end", 99, limits.fresh_p99 if run.shape in RESTARTING else limits.end_to_end_p99),
            ("staleness", 99, limits.fresh_p99 if run.shape in RESTARTING else limits.stale_p99),
            ("first row", 99, limits.first_row_p99),
            ("reconnect to fresh", 99, limits.fresh_p99),
            ("edit", 99, limits.edit_p99),
        ):
            yield Check(f"{name}, p{percentile}{where}", part.ms(name, percentile), limit, "ms", Outcome.SLOW)


RESTARTING = ("rolling", "soak")
"""Shapes in which nodes come and go."""
PROOFS = (": gaps", ": convergence")


def _of_generators(run: Run) -> Iterator[Check]:
    limits, invalid = run.limits, Outcome.INVALID
    for number, shares in enumerate(run.result["workers"].values(), start=1):
        share = sum(shares) / len(shares) if shares else None
        yield Check(f"generator {number}: share of a processor", share, limits.generator_cpu, "", invalid)
    yield Check("generators wake up late, p99", run.books.ms("generator lag", 99), limits.generator_lag_p99, "ms", invalid)
    yield Check("publisher late, p99", run.pacer.ms("lateness", 99), limits.publisher_late_p99, "ms", invalid)
    yield Check("runs that measured nothing", int(not run.books.histograms), 0, "", invalid)
    missed = run.expected_updates - run.pacer.counts["lateness"]
    yield Check("updates of the schedule not tried", missed, 0, "", invalid)


def outcome(found: Sequence[Check]) -> Outcome:
    """Return what the checks make of a run: invalid before anything else, then broken, wrong, slow."""
    failed = {check.outcome for check in found if not check.is_met}
    for worst in (Outcome.INVALID, Outcome.WRONG, Outcome.SLOW, Outcome.BROKEN):
        if worst in failed:
            return worst
    return Outcome.PASSED


def knee(run: Run) -> int | None:
    """Return the most users of a ladder's steps of which the slowest percent was fast enough, None if there were none."""
    held = None
    for step in run.result["steps"]:
        books = Books.from_json(step["books"])
        late = books.ms("end to end", 99)
        if late is None or late > run.limits.end_to_end_p99:
            break
        held = step["users"]
    return held


ENTRIES = (
    *("connect", "first row", "end to end", "end to end, rows", "staleness", "reconnect to fresh"),
    *("refresh", "dimensions", "schema", "rows", "make view", "change view", "scroll", "edit", "whole view"),
    "generator lag",
)


def table(books: Books) -> str:
    """Return the entries as lines: how many, and percentiles in milliseconds."""
    lines = [f"{'':<20}{'number':>10}{'p50':>10}{'p90':>10}{'p99':>10}{'p99.9':>10}{'most':>10}  ms"]
    for name in ENTRIES:
        if books.count(name):
            values = "".join(f"{books.ms(name, percentile):>10,.1f}" for percentile in (50, 90, 99, 99.9, 100))
            lines.append(f"{name:<20}{books.count(name):>10,}{values}")
    return "\n".join(lines)


def report(run: Run, seconds: float) -> tuple[Outcome, str]:
    """Return the outcome, and all that is to be said."""
    books = run.books
    found = list(checks(run))
    counts = books.counts
    lines = [table(books), ""]
    lines.append(
        f"{counts['messages'] / seconds:,.0f} messages/s, {counts['bytes'] / seconds / 2**20:,.2f} MiB/s; "
        f"{counts['connections lost']} connections lost; {counts['proofs']} of {run.users} users proved what they see"
    )
    lines += [f"  {number} times {name}" for name, number in counts.items() if name.startswith(("lost: ", "failed: "))]
    if run.shape in ("ladder", "soak", "spike"):
        for step in run.result["steps"]:
            part = Books.from_json(step["books"])
            late = {percentile: part.ms("end to end", percentile) for percentile in (50, 99)}
            values = ", ".join(
                f"p{percentile} " + ("-" if ms is None else f"{ms:,.0f} ms") for percentile, ms in late.items()
            )
            lines.append(f"step {step['step'] + 1}: {step['users']} users, end to end {values}")
    if run.shape == "ladder":
        lines.append(f"the knee: {knee(run) or 'below the first step'} users")
    lines += [*run.differences, *run.grown, "", *map(str, found)]
    decided = outcome(found)
    lines += ["", f"{decided.name} (exit code {decided.value})"]
    return decided, "\n".join(lines)


def read_pacer(output: str) -> Books:
    """Return the books that the publisher reported.

    Raises:
        ValueError: it did not come to its end.
    """
    lines = output.strip().splitlines()
    if not lines or not lines[-1].startswith("{"):
        raise ValueError("the publisher did not come to its end")
    return Books.from_json(json.loads(lines[-1]))

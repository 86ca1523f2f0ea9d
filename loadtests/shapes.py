"""How many users there are at each moment of a load test, as plain functions of time.

| shape | users |
|---|---|
| steady | all, from the beginning |
| ladder | more in each of the steps: where the knee is |
| spike | a fifth; all of them at once in the middle third; a fifth again |
| soak | all, for as long as you like; each step is judged on its own |
| rolling | all, while `loadtests.load` restarts one node after the other |
"""

import argparse
import math
from dataclasses import dataclass
from typing import Any

SHAPES = ("steady", "ladder", "spike", "soak", "rolling")
STEPS = {"steady": 1, "ladder": 6, "spike": 3, "soak": 6, "rolling": 1}
QUIET = 0.2
"""Of a spike's users, those who are always there."""
SETTLE_SECONDS = 20.0
"""After the last update, the longest time in which all must have seen it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A shape, and how large it is."""

    shape: str = "steady"
    peak: int = 20
    spawn_rate: float = 20.0
    """Users who come in a second, at most."""
    seconds: float = 20.0
    """Of the publisher's schedule, at whose start the first step begins."""

    @classmethod
    def of_options(cls, options: argparse.Namespace) -> "Plan":
        """Return what was asked for."""
        return cls(options.shape, options.peak, options.spawn, options.seconds)

    def step_at(self, elapsed: float) -> int:
        """Return the number of the step at so many seconds after the schedule's start; before it is the first, after it the last."""
        steps = STEPS[self.shape]
        return min(steps - 1, max(0, int(elapsed / self.seconds * steps)))

    def users_in(self, step: int) -> int:
        """Return how many users there are in a step."""
        share = 1.0
        if self.shape == "ladder":
            share = (step + 1) / STEPS["ladder"]
        elif self.shape == "spike" and step != 1:
            share = QUIET
        return max(1, math.ceil(self.peak * share))

    def users_at(self, elapsed: float) -> int | None:
        """Return how many users there should be, None when all is over, however much is still missing."""
        if elapsed > self.seconds + SETTLE_SECONDS:
            return None
        return self.users_in(self.step_at(elapsed))


def add_options(parser: Any) -> None:
    """Add the shape's options to a parser, argparse's or Locust's."""
    parser.add_argument("--shape", choices=SHAPES, default="steady", help="how the number of users changes")
    parser.add_argument("--peak", type=int, default=20, help="the most users that there are")
    parser.add_argument("--spawn", type=float, default=20.0, help="users who come in a second, at most")

"""What Locust loads: `locust -f loadtests/locustfile.py --headless --host http://127.0.0.1:8080`. See the README beside it."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from locust import LoadTestShape, events
from locust.runners import MasterRunner, WorkerRunner

from loadtests import load_options, schedule, shapes
from loadtests.looks import EXPLORED
from loadtests.measures import install
from loadtests.mix import weights
from loadtests.users import KINDS, Editor, Explorer, RawSubscriber, Reconnecter, Viewer

__all__ = ["Editor", "Explorer", "RawSubscriber", "Reconnecter", "Shape", "Viewer"]


@events.init_command_line_parser.add_listener
def add_options(parser: Any) -> None:
    """Add our options; workers get the master's."""
    load_options.add_shared_options(parser)
    parser.add_argument("--result", default="", help="a file for the merged books, as JSON")
    parser.add_argument(
        "--lead", type=float, default=3.0, help="without --start: seconds between the last user and update 0"
    )
    parser.add_argument("--announce", default="", help="a file that then says when it all starts, as JSON")
    parser.add_argument("--busy", action="store_true", help="waste the generators' time, to see the run found invalid")


@events.test_start.add_listener
def begin(environment: Any) -> None:
    """Hang in the measures, once the options are known: workers hear them with their first users."""
    if hasattr(environment, "measures"):
        raise RuntimeError("one run for each process: what was counted would be mixed up")
    options = environment.parsed_options
    if not options.start:  # else workers heard it from the master
        options.start = time.time() + options.lead + options.peak / options.spawn
    plan = schedule.of_options(options)
    if not isinstance(environment.runner, MasterRunner):
        for look in EXPLORED:
            _ = look.dialogue  # recorded now, not while somebody measures
    environment.measures = install(environment, plan, options)
    if options.announce and not isinstance(environment.runner, WorkerRunner):
        unfinished = Path(options.announce + ".new")
        unfinished.write_text(json.dumps(asdict(plan)))
        unfinished.replace(options.announce)


@events.init.add_listener
def choose(environment: Any, **_: Any) -> None:
    """Let the mix decide how many users of which kind there are; workers know every kind, and do as the master says."""
    if isinstance(environment.runner, WorkerRunner):
        return
    chosen = weights(environment.parsed_options.mix)
    environment.user_classes = [KINDS[name] for name in chosen]
    for name, weight in chosen.items():
        KINDS[name].weight = weight


class Shape(LoadTestShape):
    """Asks the plan how many users there should be; ends when all of them have proven what they see."""

    def tick(self) -> tuple[int, float] | None:
        """Return the number of users and how many may come in a second."""
        environment = self.runner.environment
        options = environment.parsed_options
        plan = shapes.Plan.of_options(options)
        measures = getattr(environment, "measures", None)
        if measures is None:
            return plan.users_in(0), plan.spawn_rate
        elapsed = time.time() - measures.schedule.start
        users = plan.users_at(elapsed)
        if users is None or (elapsed > plan.seconds and measures.total().counts["proofs"] >= users):
            return None
        return users, plan.spawn_rate

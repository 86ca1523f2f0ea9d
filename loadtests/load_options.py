"""What a load test is asked for, wherever its cluster is."""

import argparse
from collections.abc import Sequence
from typing import Any

from loadtests import schedule, shapes
from loadtests.load_verdict import Thresholds
from loadtests.mix import MIX, weights

PASSED_ON = ("shape", "peak", "spawn", "mix", "sharing", "herd_seconds", "rate", "seconds", "table_rows", "symbols")
"""Options that Locust gets as they are."""


def add_shared_options(parser: Any) -> None:
    """Add what Locust is asked for, too."""
    schedule.add_options(parser)
    shapes.add_options(parser)
    parser.add_argument("--mix", default=MIX, help="kinds of users and how many of each, relative to each other")
    parser.add_argument("--sharing", type=float, default=0.8, help="of the viewers, the part that looks at what others see")
    parser.add_argument("--herd-seconds", type=float, default=5.0, help="between two drops of the reconnecters")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what every load test is asked for."""
    add_shared_options(parser)
    parser.add_argument(
        "--limit",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="another threshold, such as end_to_end_p99=300 (ms)",
    )


def checked(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options; ends the process with code 2 if they make no sense."""
    options = parser.parse_args(arguments)
    if options.peak < 1:
        parser.error("--peak must be at least 1")
    if not 0 <= options.sharing <= 1:
        parser.error("--sharing must be between 0 and 1")
    try:
        schedule.of_options(options)
        weights(options.mix)
        options.limits = Thresholds.parse(options.limit)
    except ValueError as error:
        parser.error(str(error))
    return options


def passed_on(options: argparse.Namespace) -> list[str]:
    """Return the options as Locust's arguments."""
    return [f"--{name.replace('_', '-')}={getattr(options, name)}" for name in PASSED_ON]


def size(options: argparse.Namespace) -> list[str]:
    """Return how large the table is, as arguments of the publisher."""
    return [f"--table-rows={options.table_rows}", f"--symbols={options.symbols}"]

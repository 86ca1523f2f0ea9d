"""Runs of the differential test, and how to play one again.

python -m tests.differential_runs FILE    plays what a failed run printed, one action a line
"""

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests.differential import Comparison
from tests.differential_answers import Different
from tests.differential_requests import COLUMNS, Action, Requests


@dataclass
class Run:
    """What a run did."""

    asked: Counter[int] = field(default_factory=Counter)
    features: Counter[str] = field(default_factory=Counter)
    happened: Counter[str] = field(default_factory=Counter)

    def add(self, other: "Run") -> None:
        """Count another run, too."""
        self.asked += other.asked
        self.features += other.features
        self.happened += other.happened


async def run(seed: int, requests: int, journal: Path) -> Run:
    """Compare until so many requests were made. Each action is written to `journal` first: it is there if the process dies.

    Raises:
        Different: with the seed; the list of actions, which can be played again, is printed.
    """
    source = Requests(seed)
    action: Action = {"do": "load", "rows": source.rows(12, list(COLUMNS))}
    comparison = Comparison()
    with journal.open("w") as written:
        print(json.dumps(action), file=written, flush=True)
        await comparison.start(action["rows"])
        try:
            while comparison.asked.total() < requests:
                action = source.next()
                print(json.dumps(action), file=written, flush=True)
                await comparison.perform(action)
        except (AssertionError, TimeoutError) as wrong:
            print(f"seed {seed}; to play it again: python -m tests.differential_runs FILE, with this in it:")
            print(await asyncio.to_thread(journal.read_text))
            raise Different(f"seed {seed}, {action}: {wrong!r}") from wrong
        finally:
            await comparison.close()
    return Run(comparison.asked, source.features, comparison.happened)


async def play(actions: Iterable[Action]) -> None:
    """Play a list of actions again."""
    first, *rest = actions
    comparison = Comparison()
    await comparison.start(first["rows"])
    try:
        for at, action in enumerate(rest, 1):
            print(at, json.dumps(action), flush=True)
            await comparison.perform(action)
    finally:
        await comparison.close()


if __name__ == "__main__":
    lines = Path(sys.argv[1]).read_text().splitlines()
    asyncio.run(play(json.loads(line) for line in lines if line.startswith("{")))

"""A node without some of its safety, to see what becomes of the fleet when the engine ends a process. Run as a program.

Configurations are not checked: a filter without a value really ends it. And at a poll of a table that holds the number 66, or 13 while there
is a view that is grouped by "poison", it ends as the engine would.
"""

import os
import sys
from typing import Any

from node.__main__ import run
from node.settings import NodeSettings
from parallax import guard


def main() -> int:
    """Run the node under guard, and return its exit code."""
    return guard.run(NodeSettings, poisoned, [sys.executable, __file__])


def poisoned() -> int:
    """Run the node itself."""
    from node.gateway import safety
    from parallax.replica.engine import EngineTable

    safety.check_config = lambda config, spec, expressions: None
    poll, request = EngineTable._poll, EngineTable._request
    poison: set[Any] = set()  # tables that have such a view

    def poll_or_die(table: EngineTable, *, is_forced: bool = False) -> None:
        poll(table, is_forced=is_forced)
        numbers = [] if table.spec is None else table._read(table.spec, ["n"])["n"].to_pylist()
        if 66 in numbers or (13 in numbers and table in poison):
            os.abort()

    def request_with_care(table: EngineTable, bodies: Any, *rest: Any) -> Any:
        if b"poison" in bodies[0]:
            poison.add(table)
        return request(table, bodies, *rest)

    EngineTable._poll, EngineTable._request = poll_or_die, request_with_care  # type: ignore[method-assign]
    return run()


if __name__ == "__main__":
    sys.exit(main())

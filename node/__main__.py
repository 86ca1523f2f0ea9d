"""`python -m node`."""

import sys

from node.settings import NodeSettings
from parallax import guard


def main() -> int:
    """Run the node, under guard, and return its exit code."""
    return guard.run(NodeSettings, run, [sys.executable, "-m", "node"])


def run() -> int:
    """Run the node itself."""
    from node.server import serve
    from parallax.process import run_service  # not in the guard: the engine alone takes 100 MB

    return run_service(NodeSettings, serve)


if __name__ == "__main__":
    sys.exit(main())

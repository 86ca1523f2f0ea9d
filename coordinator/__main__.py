"""`python -m coordinator`."""

import sys

from coordinator.settings import CoordinatorSettings
from parallax import guard


def main() -> int:
    """Run the coordinator, under guard, and return its exit code."""
    return guard.run(CoordinatorSettings, run, [sys.executable, "-m", "coordinator"])


def run() -> int:
    """Run the coordinator itself."""
    from coordinator.server import serve
    from parallax.process import run_service  # not in the guard: the engine alone takes 100 MB

    return run_service(CoordinatorSettings, serve)


if __name__ == "__main__":
    sys.exit(main())

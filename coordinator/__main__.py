"""`python -m coordinator`."""

import sys

from coordinator.server import serve
from coordinator.settings import CoordinatorSettings
from parallax.process import run_service


def main() -> int:
    """Run the coordinator and return its exit code."""
    return run_service(CoordinatorSettings, serve)


if __name__ == "__main__":
    sys.exit(main())

"""`python -m node`."""

import sys

from node.server import serve
from node.settings import NodeSettings
from parallax.process import run_service


def main() -> int:
    """Run the node and return its exit code."""
    return run_service(NodeSettings, serve)


if __name__ == "__main__":
    sys.exit(main())

"""Parallax: Perspective tables for many viewers from many servers. What users import and run.

`replication` is the contract, `replica` what node and coordinator need to hold a table, `demo` a fleet on one machine.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from parallax.client import connect as connect
    from parallax.client import connect_sync as connect_sync
    from parallax.errors import ConnectError as ConnectError
    from parallax.errors import ParallaxError as ParallaxError
    from parallax.errors import PublishError as PublishError
    from parallax.publisher import AsyncPublisher as AsyncPublisher
    from parallax.publisher import Publisher as Publisher

_HOMES = {
    "AsyncPublisher": "parallax.publisher",
    "ConnectError": "parallax.errors",
    "ParallaxError": "parallax.errors",
    "PublishError": "parallax.errors",
    "Publisher": "parallax.publisher",
    "connect": "parallax.client",
    "connect_sync": "parallax.client",
}
"""Public names, and the modules that are imported when they are first used: `import parallax` by itself loads nothing."""

__all__ = ["AsyncPublisher", "ConnectError", "ParallaxError", "PublishError", "Publisher", "connect", "connect_sync"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

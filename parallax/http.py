"""The internal port of a service: /healthz, /readyz and /status."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tornado.web import RequestHandler


@dataclass(frozen=True, slots=True)
class Health:
    """What a service says of itself."""

    unready: Callable[[], list[str]]  # why it is not ready, a line each; empty: it is
    status: Callable[[], dict[str, Any]]


class _Handler(RequestHandler):
    def initialize(self, health: Health) -> None:
        self.health = health

    def set_default_headers(self) -> None:
        self.set_header("Cache-Control", "no-store")
        self.clear_header("Server")


class _Live(_Handler):
    def get(self) -> None:
        self.finish("ok\n")


class _Ready(_Handler):
    def get(self) -> None:
        unready = self.health.unready()
        if unready:
            self.set_status(503)
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish("".join(f"{line}\n" for line in unready) or "ready\n")


class _Status(_Handler):
    def get(self) -> None:
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(self.health.status(), indent=2) + "\n")


def health_routes(health: Health) -> list[Any]:
    """Return the routes of the internal port."""
    return [
        (route, handler, {"health": health})
        for route, handler in ((r"/healthz", _Live), (r"/readyz", _Ready), (r"/status", _Status))
    ]

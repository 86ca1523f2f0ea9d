"""Whose pages may connect: our own, and those that the settings name."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from node.gateway.handler import ViewerHandler
from node.settings import NodeSettings


def may_connect(origin: str, host: str, allowed: str = "") -> bool:
    handler: Any = SimpleNamespace(
        _settings=NodeSettings(allowed_origins=allowed), request=SimpleNamespace(headers={"Host": host})
    )
    return ViewerHandler.check_origin(cast(ViewerHandler, handler), origin)


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://desk.example:8080", "desk.example:8080"),
        ("https://desk.example", "desk.example"),
        ("https://DESK.example", "desk.EXAMPLE"),
        ("http://[::1]:8080", "[::1]:8080"),
    ],
)
def test_our_own(origin: str, host: str) -> None:
    assert may_connect(origin, host)


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "",
        "https://",
        "https://evil.example",
        "https://desk.example:444",
        "https://desk.example.evil.example",
        "https://evil.example/desk.example",
        "https://desk.example@evil.example",
        "https://evil.example@desk.example",
        "https://evil.example#desk.example",
        "https://desk.example.",
        "https://xdesk.example",
        "desk.example",
        "file://",
        "http://[",
    ],
)
def test_look_alikes(origin: str) -> None:
    assert not may_connect(origin, "desk.example")
    assert not may_connect(origin, "desk.example", "https://other.example")
    assert not may_connect(origin, "")


def test_those_that_are_named() -> None:
    allowed = "https://one.example, https://two.example:8443"
    assert may_connect("https://one.example", "desk.example", allowed)
    assert may_connect("https://two.example:8443", "desk.example", allowed)
    for wrong in ("http://one.example", "https://one.example:8443", "https://two.example", "https://one.example/"):
        assert not may_connect(wrong, "desk.example", allowed)
    assert may_connect("https://any.example", "desk.example", "*")

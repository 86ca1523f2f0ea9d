"""The keys of tokens: which count, and that they change under a node that goes on."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt
import pytest

from node import jwks
from node.auth import Auth
from node.settings import NodeSettings
from parallax.tasks import Tasks
from tests.processes import PATIENCE, until
from tests.tokens import HS256, Issuer, bearer, claims, jwk, key_set, private_key, refused, token


@pytest.mark.parametrize(
    ("listed", "usable"),
    [
        ([jwk("rsa"), jwk("ec")], {"rsa", "ec"}),
        ([jwk("rsa") | {"use": "enc"}, jwk("ec")], {"ec"}),
        ([jwk("rsa") | {"alg": "RS512"}, jwk("ec") | {"alg": "ES256"}], {"ec"}),
        ([jwk("short"), jwk("rsa") | {"n": "!"}, jwk("ec") | {"crv": "P-384"}, {}, 7, jwk("rsa") | {"kid": "b"}], {"b"}),
    ],
)
def test_of_a_key_set_what_is_of_use_counts(listed: list[Any], usable: set[str]) -> None:
    found = jwks.parse_keys(json.dumps({"keys": listed}).encode(), ["RS256", "ES256"])
    assert {kid for _, kid in found} == usable


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b'{"keys": []}', b'{"keys": 1}', key_set("short"), key_set("ec") + b" " * (1 << 18)]
)
def test_what_is_no_key_set_is_said(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        jwks.parse_keys(data, ["RS256", "ES256"])


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    running = Issuer()
    yield running
    await running.close()


def keyed(issuer: Issuer, seconds: float) -> Auth:
    settings = HS256 | {"auth_algorithms": "RS256,ES256", "auth_secret": "", "auth_jwks": issuer.url}
    return Auth(NodeSettings(**settings, auth_jwks_seconds=seconds))


async def test_a_new_key_is_fetched_and_one_that_was_withdrawn_is_gone(issuer: Issuer) -> None:
    auth = keyed(issuer, 0.2)
    await auth.admit(bearer(token("rsa")))
    issuer.says = key_set("ec")
    await auth.admit(bearer(token("rsa")))
    assert issuer.asked == 1, "what is known is not asked for"
    await asyncio.sleep(0.25)
    await asyncio.gather(*(auth.admit(bearer(token("ec"))) for _ in range(20)))
    assert issuer.asked == 2, "all wait for one read"
    assert await refused(auth, bearer(token("rsa"))) == "key"


async def test_unknown_keys_are_asked_for_once_in_a_while(issuer: Issuer) -> None:
    auth = keyed(issuer, 30)
    for number in range(30):
        unknown = jwt.encode(claims(), private_key("other"), "RS256", {"kid": f"made up {number}"})
        assert await refused(auth, bearer(unknown)) == "key"
    assert issuer.asked == 1
    await auth.admit(bearer(token("rsa")))


async def test_keys_are_read_again_by_themselves(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "REFRESH_SECONDS", 0.1)
    auth = keyed(issuer, 0.1)

    async def has(count: int) -> bool:
        return issuer.asked >= count

    async with Tasks() as tasks:
        tasks.start(auth.run(), name="keys")
        await until(lambda: has(1), 5, "the keys are read at the start")
        await auth.admit(bearer(token("rsa")))
        issuer.says = key_set("ec")
        asked = issuer.asked
        await until(lambda: has(asked + 2), 5, "and again")
        assert await refused(auth, bearer(token("rsa"))) == "key", "it was withdrawn"


@pytest.mark.parametrize("trouble", ["error", "redirect", "html", "empty", "large", "silent", "down"])
async def test_old_keys_stay_while_new_ones_cannot_be_read(
    issuer: Issuer, trouble: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(jwks, "FETCH_SECONDS", 1.0 * PATIENCE)
    auth = keyed(issuer, 0.1)
    await auth.admit(bearer(token("rsa")))
    issuer.says = key_set("rsa", "ec")
    await asyncio.sleep(0.15)
    match trouble:
        case "error":
            issuer.status = 500
        case "redirect":
            issuer.status, issuer.headers = 302, {"Location": f"{issuer.url}/elsewhere"}
        case "html":
            issuer.says = b"<html>"
        case "empty":
            issuer.says = b'{"keys": []}'
        case "large":
            issuer.says += b" " * jwks.MOST_KEYS_BYTES
        case "silent":
            issuer.may_answer.clear()
        case "down":
            await issuer.close()
    gaps = [0.0]

    async def tick() -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            gaps.append(time.monotonic() - before)

    async with Tasks() as tasks:
        tasks.start(tick(), name="tick")
        started = time.monotonic()
        assert await refused(auth, bearer(token("ec"))) == "key"
        assert time.monotonic() - started < 3 * PATIENCE
    assert max(gaps) < 0.8 * PATIENCE, "nobody else waits"
    await auth.admit(bearer(token("rsa")))
    (warning,) = [record.getMessage() for record in caplog.records if record.name == "node.jwks"]
    assert "keys kept: 1;" in warning
    if trouble != "down":
        issuer.status, issuer.says, issuer.headers = 200, key_set("ec"), {}
        issuer.may_answer.set()
        await asyncio.sleep(0.15)
        await auth.admit(bearer(token("ec")))


async def test_keys_in_a_file_are_read_again(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(key_set("rsa"))
    settings = HS256 | {"auth_algorithms": "RS256,ES256", "auth_secret": "", "auth_jwks": str(path)}
    auth = Auth(NodeSettings(**settings, auth_jwks_seconds=0.1))
    await asyncio.sleep(0.15)
    path.write_bytes(key_set("ec"))
    await auth.admit(bearer(token("ec")))
    assert await refused(auth, bearer(token("rsa"))) == "key"


async def test_a_token_that_names_no_key_is_refused_if_it_could_be_one_of_two(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(key_set("rsa", "rsa too", "ec"))
    settings = HS256 | {"auth_algorithms": "RS256,ES256", "auth_secret": "", "auth_jwks": str(path)}
    auth = Auth(NodeSettings(**settings))
    assert await refused(auth, bearer(jwt.encode(claims(), private_key("rsa"), "RS256"))) == "key"
    await auth.admit(bearer(jwt.encode(claims(), private_key("ec"), "ES256")))

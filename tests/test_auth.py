"""Tokens: who is let in, and what he may read. All in this process."""

import base64
import json
import math
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from node import jwks
from node.auth import EVERYTHING, Access, Auth, patterns
from node.gateway import Gateway, messages
from node.settings import NodeSettings
from parallax.errors import ConfigurationError
from parallax.replica.engine import Engine
from parallax.replication.spec import TableSpec
from parallax.wire import decode
from tests.processes import ROOT, Process, python_module
from tests.test_gateway import make
from tests.tokens import (
    AUDIENCE,
    HOSTED,
    HS256,
    MAKE,
    ON_DELETE,
    SECRET,
    TABLE_SIZE,
    bearer,
    by_hand,
    claims,
    jwk,
    key_set,
    private_key,
    refused,
    request,
    signed_by,
    token,
)
from tests.viewers import Viewer


@pytest.fixture
def public(tmp_path: Path) -> Auth:
    """Takes what two keys of a file sign."""
    path = tmp_path / "keys.json"
    path.write_bytes(key_set("rsa", "ec"))
    return Auth(NodeSettings(**HS256 | {"auth_algorithms": "RS256,ES256", "auth_secret": "", "auth_jwks": str(path)}))


# Good tokens, and bad ones ----------------------------------------------------------------------------------------------


async def test_a_good_token_says_what_may_be_read_and_until_when(public: Auth) -> None:
    exp = int(time.time()) + 60
    for auth, one in (
        (Auth(NodeSettings(**HS256)), token(exp=exp, write=["risk_1"])),
        (public, token("rsa", exp=exp, write=["risk_1"])),
        (public, token("ec", exp=exp, write=["risk_1"], aud=["others", AUDIENCE])),
    ):
        access = await auth.admit(bearer(one))
        assert access.expires_at == exp + 5, "with the leeway"
        names = ["flights", "Flights", "flights2", "risk_1", "risk_", "RISK_1", "risk", ""]
        assert [name for name in names if access.may_read(name)] == ["flights", "risk_1", "risk_"]
        assert [name for name in names if access.may_write(name)] == ["risk_1"]


@pytest.mark.parametrize(
    ("read", "readable"),
    [
        ([], set()),
        (["*"], {"flights", "risk_1", "a.b"}),
        (["risk_?"], {"risk_1"}),
        (["[fr]*"], {"flights", "risk_1"}),
        (["a.b", "*s"], {"a.b", "flights"}),
        (["a?b(", "[", "FLIGHTS"], set()),
    ],
)
async def test_patterns(read: list[str], readable: set[str]) -> None:
    access = await Auth(NodeSettings(**HS256)).admit(bearer(token(read=read)))
    assert {name for name in ("flights", "risk_1", "a.b") if access.may_read(name)} == readable


async def test_without_the_claims_what_the_settings_say_counts_and_that_is_nothing() -> None:
    bare = bearer(token(read=None))
    access = await Auth(NodeSettings(**HS256)).admit(bare)
    assert not access.may_read("flights")
    access = await Auth(NodeSettings(**HS256, auth_default_read="flights, a*", auth_default_write="a*")).admit(bare)
    assert [access.may_read(name) for name in ("flights", "alpha", "beta")] == [True, True, False]
    assert [access.may_write(name) for name in ("flights", "alpha", "beta")] == [False, True, False]
    narrow = await Auth(NodeSettings(**HS256, auth_default_read="*", auth_default_write="*")).admit(
        bearer(token(read=["a"]))
    )
    assert [narrow.may_read("flights"), narrow.may_write("flights")] == [False, False], "a claim replaces the default"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"exp": int(time.time()) - 6}, "expired"),
        ({"exp": None}, "claims"),
        ({"exp": "soon"}, "malformed"),
        ({"exp": math.inf}, "malformed"),
        ({"exp": 10**400}, "malformed"),
        ({"nbf": int(time.time()) + 86_400}, "not_yet_valid"),
        ({"iat": int(time.time()) + 86_400}, "not_yet_valid"),
        ({"aud": "other"}, "audience"),
        ({"aud": ["other", AUDIENCE + "2"]}, "audience"),
        ({"aud": None}, "claims"),
        ({"iss": "https://id.example"}, "issuer"),
        ({"iss": None}, "claims"),
        ({"read": "flights"}, "claims"),
        ({"read": ["flights", 1]}, "claims"),
        ({"write": {"flights": True}}, "claims"),
    ],
)
async def test_claims_that_are_not_good(changes: dict[str, Any], reason: str) -> None:
    auth = Auth(NodeSettings(**HS256))
    assert await refused(auth, bearer(by_hand({"alg": "HS256"}, signed_by(SECRET), **changes))) == reason
    await auth.admit(bearer(by_hand({"alg": "HS256"}, signed_by(SECRET))))


async def test_the_clocks_may_differ_a_little() -> None:
    now = int(time.time())
    await Auth(NodeSettings(**HS256)).admit(bearer(token(exp=now - 2, nbf=now + 3)))
    strict = Auth(NodeSettings(**HS256, auth_leeway_seconds=0))
    assert await refused(strict, bearer(token(exp=now - 2))) == "expired"


async def test_what_signs_is_for_the_settings_to_say(public: Auth) -> None:
    shared = Auth(NodeSettings(**HS256))
    pem = private_key("rsa").public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    document = json.dumps(jwk("rsa")).encode()
    for auth in (shared, public):
        for name in ("none", "None", "", "HS512", ["HS256"], None):
            assert await refused(auth, bearer(by_hand({"alg": name, "kid": "rsa"}, lambda _: b""))) in (
                "algorithm",
                "malformed",
            )
    for key in (pem, pem.strip(), document, b""):
        assert await refused(public, bearer(by_hand({"alg": "HS256", "kid": "rsa"}, signed_by(key)))) == "algorithm"
    assert await refused(shared, bearer(token("rsa"))) == "algorithm"
    assert await refused(shared, bearer(token(secret=SECRET + "!"))) == "signature"
    signed = jwt.encode(claims(), private_key("other"), "RS256", {"kid": "rsa"})
    assert await refused(public, bearer(signed)) == "signature"
    assert await refused(public, bearer(token("other"))) == "key"
    assert await refused(public, bearer(jwt.encode(claims(), private_key("rsa"), "RS256", {"kid": "ec"}))) == "key"
    await public.admit(bearer(jwt.encode(claims(), private_key("rsa"), "RS256")))  # there is one only that it can be


async def test_a_public_key_is_no_secret_even_where_both_kinds_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(json.dumps({"keys": [jwk("rsa"), {"kty": "oct", "kid": "rsa", "k": "AAAA"}]}).encode())
    auth = Auth(NodeSettings(**HS256 | {"auth_algorithms": "HS256,RS256", "auth_jwks": str(path)}))
    pem = private_key("rsa").public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for key in (pem, base64.b64decode("AAAA"), b""):
        assert await refused(auth, bearer(by_hand({"alg": "HS256", "kid": "rsa"}, signed_by(key)))) == "signature"
    for good in (token(), token("rsa")):
        await auth.admit(bearer(good))


async def test_garbage_is_refused(public: Auth) -> None:
    good = token("rsa")
    parts = good.split(".")
    nested = base64.urlsafe_b64encode(b'{"alg":' + b"[" * 5000).decode()
    huge = token("rsa", padding="x" * jwks.MOST_KEYS_BYTES)
    cases = ["x", "..", ".".join(parts[:2]), good + ".x", good[:-5], good.replace(".", "..", 1), "\xff\xfe", f"{nested}.x.x"]
    cases += [f"{parts[0]}.{parts[2]}.{parts[2]}", "e30.e30.e30", f"{good},{good}", f"{good} {good}", huge, "A" * 9000]
    for one in cases:
        assert await refused(public, bearer(one)) in ("malformed", "algorithm", "signature"), one[:80]
    fits = token("rsa", padding="x" * 5000)
    await public.admit(bearer(fits))
    assert await refused(public, bearer(token("rsa", padding="x" * 6000))) == "malformed", "8 KiB in all"


async def test_where_the_token_may_be() -> None:
    auth = Auth(NodeSettings(**HS256, auth_cookie="seat"))
    good, bad = token(), token(secret=SECRET + "!")
    for asked in (
        bearer(good),
        request(Authorization=f"bearer  {good}"),
        request(f"/websocket?a=b&token={good}"),
        request(Cookie=f"other=1; seat={good}"),
        request(f"/websocket?token={good}", Authorization="Basic eDp5"),
    ):
        await auth.admit(asked)
    for asked, reason in (
        (request(), "missing"),
        (request(Authorization=good), "missing"),
        (request(Authorization="Bearer "), "missing"),
        (request("/websocket?token="), "missing"),
        (request(Cookie=f"token={good}"), "missing"),
        (request(f"/websocket?token={bad}", Authorization=f"Bearer {good}"), None),
        (request(f"/websocket?token={good}", Authorization=f"Bearer {bad}"), "signature"),
        (request(f"/websocket?token={bad}", Cookie=f"seat={good}"), "signature"),
        (request(f"/websocket?token={good}&token={good}"), "missing"),
        (request("/websocket?token=%FF%00"), "malformed"),
    ):
        if reason is not None:
            assert await refused(auth, asked) == reason
    assert await refused(Auth(NodeSettings(**HS256)), request(Cookie=f"={good}; token={good}")) == "missing"


async def test_without_settings_everybody_may_read_everything() -> None:
    for asked in (request(), bearer("x"), request("/websocket?token=x")):
        assert await Auth(NodeSettings()).admit(asked) is EVERYTHING
    assert EVERYTHING.may_read("any table")
    assert EVERYTHING.expires_at == math.inf


# Settings ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"auth_algorithms": ""}, "PARALLAX_AUTH_SECRET is set, but PARALLAX_AUTH_ALGORITHMS is not"),
        ({"auth_algorithms": "none"}, "expected some of HS256, RS256, ES256, not none"),
        ({"auth_algorithms": "HS256,HS512"}, "not HS512"),
        ({"auth_secret": "short"}, "at least 32 bytes"),
        ({"auth_secret": "-----BEGIN PUBLIC KEY-----" + "A" * 40}, "not a key pair's"),
        ({"auth_audience": ""}, "PARALLAX_AUTH_AUDIENCE"),
        ({"auth_issuer": ""}, "PARALLAX_AUTH_ISSUER"),
        ({"auth_algorithms": "RS256", "auth_jwks": "/keys"}, "PARALLAX_AUTH_SECRET"),
        ({"auth_algorithms": "RS256", "auth_secret": ""}, "PARALLAX_AUTH_JWKS"),
        ({"auth_jwks": "/keys"}, "PARALLAX_AUTH_JWKS"),
        ({"auth_algorithms": "RS256", "auth_secret": "", "auth_jwks": "/no/such/keys"}, "No such file"),
        ({"auth_algorithms": "RS256", "auth_secret": "", "auth_jwks": __file__}, "cannot be used"),
        ({"auth_algorithms": "RS256", "auth_secret": "", "auth_jwks": "http://id.example/keys"}, "https://"),
        ({"auth_algorithms": "RS256", "auth_secret": "", "auth_jwks": "ftp://id.example/keys"}, "https://"),
        ({"auth_algorithms": "RS256", "auth_secret": "", "auth_jwks": "http://localhost:1@id.example/"}, "https://"),
        ({"auth_algorithms": "RS256", "auth_secret": "", "auth_jwks": "http://[::1"}, "https://"),
        ({"auth_cookie": "a b"}, "PARALLAX_AUTH_COOKIE"),
        ({"auth_cookie": "seat", "allowed_origins": "a.example, *"}, "every page"),
    ],
)
async def test_settings_that_do_not_fit_stop_the_start(changes: dict[str, Any], says: str) -> None:
    settings = NodeSettings(**HS256 | changes)
    with pytest.raises(ConfigurationError) as found:
        Auth(settings)
    (problem,) = found.value.problems
    assert says in problem
    assert "\n" not in problem
    assert SECRET not in problem + repr(settings), "the secret is not told"


async def test_the_program_says_what_is_wrong_and_ends(tmp_path: Path) -> None:
    process = Process("node", python_module("node"), tmp_path, {"PARALLAX_AUTH_ALGORITHMS": "none", "PYTHONPATH": str(ROOT)})
    try:
        process.start()
        assert await process.ended(20) == 2
        assert (
            process.log.read_text() == "parallax: PARALLAX_AUTH_ALGORITHMS: expected some of HS256, RS256, ES256, not none\n"
        )
    finally:
        process.destroy()


# What may not be read is not there --------------------------------------------------------------------------------------

SPECS = {
    name: TableSpec.declare(name, {"schema": {"n": "integer"}, "limit": 9})
    for name in ("flights", "secret", "risk_1", "nosuch")
}
SPECS["edited"] = TableSpec.declare("edited", {"schema": {"n": "integer"}, "limit": 9, "writes": "forward"})


@pytest.fixture
async def gateway() -> AsyncIterator[Callable[[str], Any]]:
    """`await host(name)` adds a table to a gateway; `host.gateway` is the gateway."""
    engine = Engine(frame_seconds=0.001)
    made = Gateway(NodeSettings(linger_seconds=0))

    async def host(name: str) -> None:
        table = engine.table(name)
        await table.load(SPECS[name], SPECS[name].arrow_schema.empty_table())
        made.add_table(name, table)

    host.gateway = made  # type: ignore[attr-defined]
    await host("flights")
    await host("secret")
    yield host
    await made.close()
    await engine.close()


LIMITED = Access(patterns(["flights", "risk_*"]), patterns([]))


async def answers(viewer: Viewer, number: int, body: bytes, name: str) -> list[bytes]:
    """What a viewer is told of a table, its name left out."""
    said = await viewer.ask(number, body, name)
    return [one.encode().replace(name.encode(), b"??????") for one in said]


BODIES = [
    b"",
    b"\x08\x00",
    b"\x08\x01",
    b"\x0a\x01v",
    make("v"),
    make("v", expressions={"e": "1"}),
    b"\xff",
    b"\x0a\x06secret",
]


@pytest.mark.parametrize("number", range(3, 60))
async def test_a_table_that_may_not_be_read_is_answered_like_one_that_never_was(gateway: Any, number: int) -> None:
    for body in BODIES:
        limited = Viewer(gateway.gateway, LIMITED)
        hidden, absent = await answers(limited, number, body, "secret"), await answers(limited, number, body, "nosuch")
        assert hidden == absent
        assert limited.session.views == 0
        assert number == HOSTED or limited.session.subscriptions == 0
        await limited.close()


async def test_those_answers_are_of_another_kind_for_who_may_read_it(gateway: Any) -> None:
    """Else the test above would say nothing."""
    differ = set()
    for number in range(3, 60):
        viewer = Viewer(gateway.gateway)
        for body in BODIES:
            if await answers(viewer, number, body, "secret") != await answers(viewer, number, body, "nosuch"):
                differ.add(number)
        await viewer.close()
    assert differ == {HOSTED, 5, MAKE, 7, TABLE_SIZE, 9, ON_DELETE, 31, 32, 33, 41}


async def test_who_may_write_is_for_the_token_to_say_too(gateway: Any) -> None:
    edited: list[str] = []

    async def publish(table: str, *_: Any) -> None:
        edited.append(table)

    gateway.gateway.publish = publish
    await gateway("edited")
    edit = messages.new("Edit")
    edit.data.rows = '[{"n": 1}]'
    limited = Viewer(gateway.gateway, Access(patterns(["edited"]), patterns(["flights"])))
    writer = Viewer(gateway.gateway, Access(patterns(["e*"]), patterns(["e*"])))
    for number in (31, 32, 33):
        said = await limited.refused(number, messages.encode(edit), "edited")
        assert "token" in said
    assert edited == []
    assert (await writer.ask(33, messages.encode(edit), "edited"))[0].number == 33
    assert edited == ["edited"]
    for viewer in (limited, writer):
        await viewer.close()


async def test_hosted_tables_and_the_news_of_them_are_those_that_may_be_read(gateway: Any) -> None:
    limited, other = Viewer(gateway.gateway, LIMITED), Viewer(gateway.gateway)
    names = {}
    for viewer in (limited, other):
        (answer,) = await viewer.ask(HOSTED, b"\x08\x01", msg_id=50)
        names[viewer] = [name for name in SPECS if name.encode() in answer.body]
        viewer.frames.clear()
    assert (names[limited], names[other]) == (["flights"], ["flights", "secret"])
    await other.ask(ON_DELETE, b"", "secret", msg_id=51)
    await limited.ask(ON_DELETE, b"", "secret", msg_id=51)
    limited.frames.clear()
    gateway.gateway.remove_table("secret")
    await gateway("secret")
    for viewer in (limited, other):
        await viewer.settled()
    assert limited.frames == []
    assert [(one.msg_id, one.number) for one in map(decode, other.frames)] == [(51, ON_DELETE), (50, 0), (50, 0)]
    await gateway("risk_1")
    await limited.settled()
    assert [decode(frame).msg_id for frame in limited.frames] == [50]
    client = await limited.connect()
    limited.frames.clear()
    assert sorted(await client.get_hosted_table_names()) == ["flights", "risk_1"]
    assert await (await client.open_table("flights")).size() == 0
    for viewer in (limited, other):
        await viewer.close()


async def test_who_is_closed_is_told_nothing_more_and_makes_nothing_more(gateway: Any) -> None:
    """A viewer may go on to send until his side of the connection is closed, too."""
    viewer = Viewer(gateway.gateway, Access(patterns(["*"]), patterns([]), time.time()))
    assert (await viewer.ask(MAKE, make("v"), "flights"))[0].number == MAKE
    gateway.gateway._sweep(viewer.session, time.monotonic())
    assert viewer.closed == [(4401, "the token has expired")]
    assert await viewer.ask(TABLE_SIZE, b"", "flights") == []
    assert await viewer.ask(MAKE, make("w"), "flights") == []
    assert (viewer.session.views, gateway.gateway.sessions) == (0, 0)

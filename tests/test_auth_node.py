"""A real node that asks for tokens: who comes in, who is closed, keys that change; and that no token is ever written down."""

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import expect
from tornado.httpclient import AsyncHTTPClient
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.web import RequestHandler

from node.auth import REASONS
from node.server import PublicApplication
from parallax.replication.spec import TableSpec
from parallax.wire import SERVER_ERROR
from tests.browser import running_browser
from tests.cluster import Cluster
from tests.processes import HOST, PATIENCE, until
from tests.sockets import Measured, SocketViewer, open_socket, socket_viewer
from tests.test_gateway import make
from tests.tokens import HOSTED, HS256, MAKE, SECRET, TABLE_SIZE, Issuer, key_set, token

SPECS = [TableSpec.declare(name, {"schema": {"n": "integer"}, "limit": 9}) for name in ("flights", "secret")]


async def test_an_error_on_the_public_port_does_not_print_the_query(caplog: pytest.LogCaptureFixture) -> None:
    class Fails(RequestHandler):
        def get(self) -> None:
            raise RuntimeError("of a test")

    sock, port = bind_unused_port(address=HOST)
    server = HTTPServer(PublicApplication([(r"/.*", Fails)]))
    server.add_sockets([sock])
    try:
        with caplog.at_level(logging.DEBUG):
            answer = await AsyncHTTPClient().fetch(f"http://{HOST}:{port}/x?token=private", raise_error=False)
        assert answer.code == 500
        assert "of a test" in caplog.text
        assert "private" not in caplog.text
    finally:
        server.stop()
        await server.close_all_connections()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Cluster, Issuer]]:
    """A node that asks for tokens, and the issuer of its keys."""
    issuer = Issuer()
    settings = {name.upper(): value for name, value in HS256.items()} | {
        "AUTH_ALGORITHMS": "HS256,RS256,ES256",
        "AUTH_JWKS": issuer.url,
        "AUTH_JWKS_SECONDS": "0.5",
        "AUTH_LEEWAY_SECONDS": "0",
        "AUTH_COOKIE": "seat",
        "LOG_LEVEL": "debug",
    }

    cluster = Cluster(tmp_path_factory.mktemp("auth"), SPECS, coordinators=1, nodes=1, settings=settings)
    try:
        await cluster.start()

        async def keys_were_read() -> bool:
            return issuer.asked == 1

        await until(keys_were_read, 10, "the keys are read at the start, before anybody comes")
        yield cluster, issuer
    finally:
        await cluster.close()
        await issuer.close()
        print(cluster.logs())


in_module = pytest.mark.asyncio(loop_scope="module")
Site = tuple[Cluster, Issuer]


async def measured(cluster: Cluster) -> Measured:
    return Measured((await cluster.fetch(cluster.url("node-1", "/metrics", internal=True)))[1].decode())


def status_of(viewer: SocketViewer) -> int:
    assert viewer.response is not None
    return viewer.response.status_code


@pytest.mark.cluster
@in_module
async def test_a_node_lets_in_who_has_a_token_and_shows_what_it_allows(site: Site) -> None:
    cluster, _ = site
    port, good = cluster.ports["node-1"], token("rsa")
    ways: list[dict[str, Any]] = [
        {"headers": {"Authorization": f"Bearer {good}"}},
        {"headers": {"Cookie": f"seat={good}"}},
        {"query": f"?token={good}"},
        {"query": f"?token={token()}"},
    ]
    for way in ways:
        async with socket_viewer(port, **way) as viewer:
            assert status_of(viewer) == 101
            assert (await viewer.ask(TABLE_SIZE, b"", "flights")).number == TABLE_SIZE
            assert (await viewer.ask(TABLE_SIZE, b"", "secret")).number == SERVER_ERROR
            hosted = (await viewer.ask(HOSTED)).body
            assert b"flights" in hosted
            assert b"secret" not in hosted
    assert (await cluster.fetch(cluster.url("node-1", "/")))[0] == 200, "the page stays public"


@pytest.mark.cluster
@in_module
async def test_a_node_turns_everybody_else_away_before_the_upgrade(site: Site) -> None:
    cluster, _ = site
    before = await measured(cluster)
    cases = {"": "missing", "?token=x": "malformed", f"?token={token(secret=SECRET + '!')}": "signature"}
    cases |= {f"?token={token(exp=1)}": "expired", f"?token={token(aud='x')}": "audience", f"?token={token('other')}": "key"}
    for query, reason in cases.items():
        async with socket_viewer(cluster.ports["node-1"], query=query) as viewer:
            assert viewer.response is not None
            assert (status_of(viewer), viewer.response.body) == (401, f"{REASONS[reason]}\n".encode())
            assert viewer.response.headers["WWW-Authenticate"] == "Bearer"
    after = await measured(cluster)
    told = {
        reason: after("auth_refusals_total", reason=reason) - before("auth_refusals_total", reason=reason)
        for reason in REASONS
    }
    assert told == dict.fromkeys(REASONS, 0) | dict.fromkeys(cases.values(), 1)
    assert after("sessions") == 0


@pytest.mark.cluster
@pytest.mark.browser
@in_module
async def test_a_page_takes_its_token_from_the_address_and_says_when_it_is_no_good(site: Site) -> None:
    cluster, _ = site
    soon = int(time.time() + 8 * PATIENCE)
    async with running_browser() as browser:
        without = await browser.open(cluster.url("node-1"))
        pill = without.page.locator("#connection")
        await expect(pill).to_have_text("not allowed: a token is needed")

        tab = await browser.open(f"{cluster.url('node-1')}#token={token(exp=soon)}")
        await expect(tab.page.locator("#tables option")).to_have_text(["flights"])
        await expect(tab.page.locator("#connection")).to_have_text("live")
        await expect(tab.page.locator("#connection")).to_have_text("not allowed: the token has expired")


@pytest.mark.cluster
@in_module
async def test_a_viewer_whose_token_expires_is_closed_and_cannot_come_back_with_it(site: Site) -> None:
    cluster, _ = site
    port, soon, before = cluster.ports["node-1"], int(time.time() + 3 * PATIENCE), await measured(cluster)
    async with (
        socket_viewer(port, query=f"?token={token(exp=soon)}") as viewer,
        socket_viewer(port, query=f"?token={token()}") as other,
    ):
        await viewer.ask(MAKE, make("v"), "flights")
        await viewer.ended()
        assert viewer.close_code == 4401
        assert soon <= time.time() < soon + 2 * PATIENCE
        async with socket_viewer(port, query=f"?token={token(exp=soon)}") as again:
            assert status_of(again) == 401
        assert (await other.ask(TABLE_SIZE, b"", "flights")).number == TABLE_SIZE
        after = await measured(cluster)
        assert after("expired_closes_total") == before("expired_closes_total") + 1
        assert (after("sessions"), after("views")) == (1, 0)


@pytest.mark.cluster
@in_module
async def test_keys_change_under_a_running_node(site: Site) -> None:
    cluster, issuer = site
    port = cluster.ports["node-1"]

    async def comes_in(kid: str) -> bool:
        async with socket_viewer(port, query=f"?token={token(kid)}") as viewer:
            return status_of(viewer) == 101

    issuer.says = key_set("rsa", "ec")
    await until(lambda: comes_in("ec"), 10, "the new key is taken")
    issuer.status, asked = 500, issuer.asked
    await asyncio.sleep(0.6)
    assert not await comes_in("other")
    assert issuer.asked == asked + 1
    assert [await comes_in("ec"), await comes_in("rsa")] == [True, True], "the keys stay"
    issuer.status, issuer.says = 200, key_set("ec", "other")
    await until(lambda: comes_in("other"), 10, "the newest key is taken")
    assert not await comes_in("rsa"), "the oldest was withdrawn"
    issuer.may_answer.clear()
    await asyncio.sleep(0.6)
    async with asyncio.TaskGroup() as group:
        waits = group.create_task(comes_in("rsa"))
        assert await comes_in("ec"), "nobody else waits for the issuer"
        leaver = SocketViewer(await open_socket(port), port, f"?token={token('rsa')}")
        leaving = group.create_task(leaver.connect())
        await asyncio.sleep(0.1)
        assert not waits.done()
        leaving.cancel()
        leaver.close()  # while the node still looks for his key
        issuer.says = key_set("ec", "rsa")
        issuer.may_answer.set()
        assert await waits
    assert await comes_in("ec")


@pytest.mark.cluster
@in_module
async def test_no_token_is_in_what_a_node_says(site: Site) -> None:
    """Whatever way it comes, and however wrong the request around it is; at the level debug."""
    cluster, _ = site
    good = token()
    _, body, signature = good.split(".")
    host = f"Host: {HOST}\r\n"
    requests = [
        f"GET /websocket?token={good} HTTP/1.1\r\n{host}\r\n",
        f"GET /websocket?token={good}%FF HTTP/1.1\r\n{host}Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        f"GET /?token={good} HTTP/1.1\r\n{host}\r\n",
        f"GET /nothing?token={good} HTTP/1.1\r\n{host}\r\n",
        f"POST /websocket?token={good} HTTP/1.1\r\n{host}Content-Length: 0\r\n\r\n",
        f"GET /assets/0123456789abcdef/x.js?token={good} HTTP/1.1\r\n{host}\r\n",
        f"GET /websocket?token={good} HTTP/9.9\r\n{host}\r\n",
        f"GET /websocket HTTP/1.1\r\n{host}Authorization: Bearer {good}\x01\r\n\r\n",
        f"GET /websocket HTTP/1.1\r\n{host}Cookie: seat={good}\x00{good}\r\n\r\n",
        f"GET /websocket HTTP/1.1\r\n{host}Authorization Bearer {good}\r\n\r\n",
        f"GET /websocket HTTP/1.1\r\nHost: {good}@!\r\n\r\n",
        f"GET /websocket?token={good}&x=%zz&{'&'.join('abc')} HTTP/1.1\r\n{host}Origin: https://{HOST}/{good}\r\n"
        f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {good}\r\nSec-WebSocket-Version: 99\r\n\r\n",
    ]
    loop = asyncio.get_running_loop()
    for text in requests:
        sock = await open_socket(cluster.ports["node-1"])
        try:
            await loop.sock_sendall(sock, text.encode("latin-1"))
            async with asyncio.timeout(10 * PATIENCE):
                assert (await loop.sock_recv(sock, 1 << 16)).startswith(b"HTTP/1.1 "), text
        finally:
            sock.close()
    assert await cluster["node-1"].terminate() == 0
    said = cluster["node-1"].log.read_text()
    assert "public port" in said, "that is where it writes"
    assert "could not be read" in said, "the trouble with the keys above"
    assert "Traceback" not in said
    for part in (good, body, signature, body[:40], SECRET, "token="):
        assert part not in said
    assert re.findall(r"eyJ[\w-]{10,}", said) == [], "of no token whatever"

"""The claims of tests/test_claims.py over a real node's websockets, with real tokens; and what else its public port says."""

import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from node.gateway import edits
from parallax.replication.keys import TableKeys
from parallax.wire import SERVER_ERROR
from tests.claims import DATA, KINDS, bodies, comparable, declared, edit
from tests.cluster import PREFIX, Cluster
from tests.sockets import socket_viewer
from tests.test_gateway import make
from tests.tokens import HOSTED, HS256, MAKE, TABLE_SIZE, token

SPECS = [declared("flights"), declared("edited", writes="forward"), declared("secret", writes="forward")]
KEPT = "kept close"
COLUMNS = 24
pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """A node that asks for tokens, over tables with rows."""
    settings = {name.upper(): value for name, value in HS256.items()}
    cluster = Cluster(tmp_path_factory.mktemp("claims"), SPECS, coordinators=1, nodes=1, settings=settings)
    try:
        await cluster.start()
        for spec in SPECS:
            await cluster.publish(spec.name, data=json.dumps([{"id": KEPT if spec.name == "secret" else "a", "n": 1}]))
        await cluster.at_rest()
        yield cluster
    finally:
        await cluster.close()
        print(cluster.logs())


async def test_a_hidden_table_is_like_one_that_is_not_there(site: Cluster) -> None:
    limited = f"?token={token(read=['flights', 'edited', 'absent'], write=['*'])}"
    async with (
        socket_viewer(site.ports["node-1"], query=limited) as viewer,
        socket_viewer(site.ports["node-1"], query=f"?token={token(read=['*'])}") as other,
    ):
        assert (await other.ask(MAKE, make("theirs"), "secret")).number == MAKE
        assert (await viewer.ask(HOSTED, b"\x08\x01", msg_id=3)).number == HOSTED
        for number in KINDS:
            hidden, absent = bodies("v", "secret", 7)[number], bodies("v", "absent", 7)[number]
            for one, another in zip(hidden, absent, strict=True):
                found = [await viewer.ask(number, one, "secret")]
                nothing = [await viewer.ask(number, another, "absent")]
                assert comparable(found, "secret") == comparable(nothing, "absent")
                found = [await viewer.ask(number, one, "theirs")]
                assert comparable(found, "theirs") == comparable([await viewer.ask(number, one, "nobody")], "nobody")
                assert KEPT not in repr(found)
                assert "secret" not in repr(found)
        await site.publish("secret", data=json.dumps([{"id": "new", "n": 2}]))
        await site.at_rest()
        assert (await viewer.ask(TABLE_SIZE, b"", "flights")).number == TABLE_SIZE
        assert viewer.messages == [], "and nothing comes unasked"
        shown = (await other.ask(COLUMNS, b"", "theirs")).body
        assert KEPT.encode() in shown
        assert b"[1,2]" in shown.replace(b" ", b""), "nothing else was written"


async def test_edits_are_made_only_where_the_token_and_the_table_let_them(site: Cluster) -> None:
    reader, writer = token(read=["*"]), token(read=["flights", "edited"], write=["*"])
    async with (
        socket_viewer(site.ports["node-1"], query=f"?token={reader}") as reads,
        socket_viewer(site.ports["node-1"], query=f"?token={writer}") as writes,
    ):
        for number in edits.EDITS:
            for kind in DATA:
                for viewer, name in ((reads, "edited"), (reads, "secret"), (writes, "secret"), (writes, "flights")):
                    assert (await viewer.ask(number, edit(kind), name)).number == SERVER_ERROR
        for spec in SPECS:
            assert await site.redis.exists(TableKeys(PREFIX, spec.name).rejected) == 0, "the coordinator saw none of them"
        assert (await reads.ask(MAKE, make("v"), "edited")).number == MAKE
        assert b"[1]" in (await reads.ask(COLUMNS, b"", "v")).body
        assert (await writes.ask(33, edit("csv"), "edited")).number == 33
        assert b"[7]" in (await reads.ask(COLUMNS, b"", "v")).body, "the one that may"


@pytest.mark.parametrize("path", ["/", "/status", "/metrics", "/readyz", "/healthz", "/tables", "/websocket", "/nothing"])
async def test_the_public_port_names_no_table(site: Cluster, path: str) -> None:
    for query in ("", f"?token={token(read=['flights'])}"):
        code, body = await site.fetch(site.url("node-1", path + query))
        assert code == (200 if path == "/" else 404 if path != "/websocket" else 401 if not query else 200)
        for spec in SPECS:
            assert spec.name.encode() not in body
        assert KEPT.encode() not in body

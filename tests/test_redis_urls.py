"""Redis wherever it is: the same running path over TLS, a unix socket, as a user with few rights, Sentinel and a cluster."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from parallax import AsyncPublisher
from parallax.errors import ConfigurationError
from parallax.redis_url import Address, Kind, complete, parse, place
from parallax.replication.spec import TableSpec
from tests import stores
from tests.cluster import PREFIX, Cluster
from tests.processes import HOST, PATIENCE, ROOT
from tests.test_bad_days import refused_start

MakeCluster = Callable[..., Awaitable[Cluster]]

KEYED = TableSpec.declare("keyed", {"schema": {"id": "string", "n": "integer"}, "index": "id"})
NUMBERS = TableSpec.declare("numbers", {"schema": {"n": "integer"}, "limit": 100000})


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://h", Address(Kind.SERVER, (("h", 6379),))),
        ("redis://[::1]:7/2", Address(Kind.SERVER, (("::1", 7),), db=2)),
        ("redis://a:b%40c@h:1?db=3", Address(Kind.SERVER, (("h", 1),), db=3, user={"username": "a", "password": "b@c"})),
        ("unix:///run/r.sock?db=1", Address(Kind.SOCKET, path="/run/r.sock", db=1)),
        ("rediss://h", Address(Kind.SERVER, (("h", 6379),), is_tls=True, tls={"ssl_check_hostname": True})),
        (
            "redis+sentinel://:p@a,b:2,[::1]:3/main/1?sentinel_password=q",
            Address(
                Kind.SENTINEL,
                (("a", 26379), ("b", 2), ("::1", 3)),
                service="main",
                db=1,
                user={"password": "p"},
                sentinel_user={"password": "q"},
            ),
        ),
        ("redis+cluster://a:1,b", Address(Kind.CLUSTER, (("a", 1), ("b", 6379)))),
    ],
)
def test_a_url_is_read(url: str, expected: Address) -> None:
    assert parse(url) == expected


WRONG = [
    "secret@host",
    "http://u:secret@host",
    "redis://u:se/cret@host",
    "redis://u:se#cret@host",
    "redis://u:se@cret@host",
    "redis://u:secret@host:port",
    "redis://u:secret@host:99999",
    "redis://u:secret@host/one",
    "redis://u:secret@host/0/1",
    "redis://u:secret@a,b",
    "redis://u:secret@host?timeout=secret",
    "redis://u:secret@host?ssl_ca_certs=/nowhere",
    "rediss://u:secret@host?ssl_ca_certs=/nowhere",
    "rediss://u:secret@host?ssl_certfile=/nowhere",
    "rediss://u:secret@host?ssl_cert_reqs=secret",
    "redis+sentinel://u:secret@host",
    "redis://host?sentinel_password=secret",
    "redis+cluster://u:secret@host/1",
    "unix://u:secret@host/sock",
    "unix://",
]


@pytest.mark.parametrize("url", WRONG)
def test_a_wrong_url_is_one_readable_line_without_the_secret(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse(url)
    (problem,) = caught.value.problems
    assert problem.startswith("PARALLAX_REDIS_URL: ")
    assert "\n" not in problem
    assert "cret" not in problem + place(url)


def test_settings_fill_in_what_the_url_leaves_out() -> None:
    options = {"username": "u", "password": "p&/?@", "ssl_ca_certs": ""}
    assert parse(complete("redis://h", options)).user == {"username": "u", "password": "p&/?@"}
    assert parse(complete("redis://:own@h?db=2", options)).user == {"password": "own"}
    assert complete("redis://h?password=own", options) == "redis://h?password=own"


@pytest.mark.cluster
@pytest.mark.parametrize("kind", ["coordinator", "node"])
async def test_a_wrong_url_ends_the_start(kind: str) -> None:
    said = await refused_start(kind, REDIS_URL="redis+sentinel://:topsecret@host")
    assert said.startswith("parallax: PARALLAX_REDIS_URL: the name of the service is missing")
    assert len(said.splitlines()) == 1
    assert "topsecret" not in said


async def run_through(cluster: Cluster) -> None:
    """Publish in all ways, and see everything everywhere; then change tables by command."""
    url, count = cluster.server.url, 200
    async with AsyncPublisher(url, PREFIX) as publisher:
        for number in range(count):
            await publisher.update("numbers", [{"n": number}])
        await publisher.replace("keyed", [{"id": f"{number}", "n": number} for number in range(1000)])
        assert await publisher.confirm() == []
    large = [{"id": f"{number:0100}", "n": number} for number in range(30_000)]  # goes beside the log
    await cluster.publish("keyed", op="replace", data=json.dumps(large))
    await cluster.publish("keyed", data='[{"id": "a", "n": "no number"}]')
    digests = await cluster.converged()
    assert len(digests) == len(cluster.specs)
    assert len(await cluster.rejected("keyed")) == 1
    status = await cluster.status("node-1")
    assert {name: table["rows"] for name, table in status["tables"].items()} == {"keyed": 30_000, "numbers": count}
    node = await cluster.add_node()  # from the snapshot
    assert await cluster.converged() == digests
    assert (await cluster.status(node))["tables"]["keyed"]["rows"] == 30_000
    assert "more" not in await command(url, "tables", "list")
    await command(url, "tables", "create", "more", "-c", "n=integer", "--limit", "10")
    assert "more" in await command(url, "tables", "list")
    assert "more" in await command(url, "status")
    await command(url, "tables", "drop", "more")


async def command(url: str, *arguments: str, code: int = 0) -> str:
    """Run `parallax ...` and return what it said."""
    argv = [sys.executable, "-m", "parallax.cli", *arguments, "--prefix", PREFIX, "--redis", url]
    done = await asyncio.to_thread(
        subprocess.run, argv, capture_output=True, text=True, timeout=60 * PATIENCE, cwd=os.getcwd(), check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def assert_no_secret(cluster: Cluster, *secrets: str) -> None:
    for process in cluster.processes.values():
        said = process.log.read_text()
        assert [secret for secret in secrets if secret in said] == [], process.name


@pytest.mark.cluster
@pytest.mark.parametrize("url_has_files", [pytest.param(True, marks=pytest.mark.deep), False])
async def test_tls_with_certificates_on_both_sides(make_cluster: MakeCluster, tmp_path: Path, url_has_files: bool) -> None:
    store, settings = stores.secure(tmp_path, url_has_files=url_has_files)
    cluster = await make_cluster([KEYED, NUMBERS], coordinators=1, nodes=1, store=store, settings=settings)
    await run_through(cluster)


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("", "CERTIFICATE_VERIFY_FAILED"),
        ("?ssl_ca_certs={ca}", "CERTIFICATE_REQUIRED"),
    ],
)
async def test_tls_that_can_never_work_ends_the_start(tmp_path: Path, query: str, words: str) -> None:
    store, settings = stores.secure(tmp_path, url_has_files=False)
    try:
        store.start()
        await store.ready()
        url = settings["REDIS_URL"] + query.format(ca=settings["REDIS_CA_FILE"])
        said = await refused_start("node", REDIS_URL=url)
        assert words in said, said
    finally:
        store.destroy()


@pytest.mark.cluster
@pytest.mark.deep
async def test_a_unix_socket(make_cluster: MakeCluster, tmp_path: Path) -> None:
    cluster = await make_cluster([KEYED, NUMBERS], coordinators=1, nodes=1, store=stores.with_socket(tmp_path, "valkey"))
    await run_through(cluster)


FLEET_RULES = "~parallax:* &parallax:* -@all +@read +@write +@stream +@pubsub +@scripting +@transaction +@connection -@dangerous +info +time"
PUBLISHER_RULES = "~parallax:* -@all +@read +@stream +evalsha +eval +@connection"


@pytest.mark.cluster
@pytest.mark.parametrize("left_out", [pytest.param("", marks=pytest.mark.deep), " +time"])
async def test_a_user_with_few_rights(make_cluster: MakeCluster, tmp_path: Path, left_out: str) -> None:
    """Who may not ask what time it is has less to measure by, and does all else."""
    documented = (ROOT / "docs" / "operations.md").read_text()
    assert f"user fleet on >... {FLEET_RULES}\n" in documented
    assert f"user publisher on >... {PUBLISHER_RULES}\n" in documented
    users = {"fleet": f">secret/word {FLEET_RULES.removesuffix(left_out)}", "publisher": f">secret/word {PUBLISHER_RULES}"}
    store = stores.with_users(tmp_path, "redis", users)
    cluster = await make_cluster([KEYED, NUMBERS], coordinators=2, nodes=1, store=store)
    await run_through(cluster)
    leader = await cluster.leader()
    code, measured = await cluster.fetch(cluster.url(leader, "/metrics", internal=True))
    assert (code, b'parallax_coordinator_backlog_entries{table="keyed"} 0.0' in measured) == (200, True)
    async with AsyncPublisher(store.url.replace("fleet", "publisher"), PREFIX) as publisher:
        await publisher.update("keyed", [{"id": "by the publisher", "n": 1}])
        assert await publisher.confirm() == []
    assert "refuses us" in await refused_start("node", REDIS_URL=store.url.replace("fleet", "nobody"))
    assert_no_secret(cluster, "secret/word", "secret%2Fword")


@pytest.mark.cluster
async def test_a_sentinel_and_a_cluster_are_named_as_such(tmp_path: Path) -> None:
    store = stores.Store(tmp_path, "")
    ports = stores.choose_ports({"sentinel": 0, "cluster": 0, "bus": 0})
    config = tmp_path / "sentinel.conf"
    config.write_text(f"port {ports['sentinel']}\nbind {HOST}\nsentinel monitor some {HOST} 1 1\n")
    store.add("sentinel", "valkey", [str(config), "--sentinel"])
    member = ["--bind", HOST, "--port", str(ports["cluster"]), "--cluster-enabled", "yes"]
    store.add("member", "valkey", [*member, "--cluster-port", str(ports["bus"])])
    try:
        store.start()
        store.url = f"redis://{HOST}:{ports['sentinel']}"
        await store.ready()
        assert "use redis+sentinel://" in await refused_start("node", REDIS_URL=store.url)
        store.url = f"redis://{HOST}:{ports['cluster']}"
        await store.ready()
        assert "use redis+cluster://" in await refused_start("node", REDIS_URL=store.url)
        url = f"redis+sentinel://{HOST}:{ports['sentinel']}/another"
        assert "No such master with that name" in await refused_start("node", REDIS_URL=url)
    finally:
        store.destroy()


@pytest.mark.cluster
@pytest.mark.deep
async def test_a_cluster(make_cluster: MakeCluster, tmp_path: Path) -> None:
    cluster = await make_cluster([KEYED, NUMBERS], coordinators=2, nodes=1, store=stores.ClusterStore(tmp_path, "valkey"))
    await run_through(cluster)

"""Tables while everything runs: created, altered, dropped and made again, by command and by the tables file."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import perspective
import pytest
import yaml

from parallax.errors import TableRequestRefused
from parallax.replication.keys import TableKeys
from parallax.replication.spec import TableSpec
from parallax.tables import catalog, request
from tests.cluster import PREFIX, Cluster
from tests.processes import until

pytestmark = pytest.mark.cluster

BASE = TableSpec.declare("base", {"schema": {"n": "integer"}, "limit": 10})
FIRST = TableSpec.declare("t", {"schema": {"id": "string", "n": "integer"}, "index": "id"})
WIDER = TableSpec.declare("t", {"schema": {"id": "string", "n": "int64", "x": "float"}, "index": "id"})
OTHER = TableSpec.declare("t", {"schema": {"k": "string"}, "limit": 2})

Make = Callable[..., Awaitable[Cluster]]


async def read(cluster: Cluster, spec: TableSpec, name: str = "node-1") -> list[tuple[object, ...]]:
    return list(await cluster.read(name, spec))


async def everywhere(cluster: Cluster, spec: TableSpec, expected: list[tuple[object, ...]]) -> None:
    """Wait until every node serves exactly these rows."""

    async def equal() -> bool:
        for name in (name for name in cluster.running if name.startswith("node")):
            try:
                assert await read(cluster, spec, name) == expected, name
            except (perspective.PerspectiveError, KeyError) as error:  # not hosted yet, gone, or the old shape
                raise AssertionError(f"{name}: {error}") from error
        return True

    await until(equal, 10, f"every node serves {expected}")


async def test_a_table_lives_through_everything_that_can_be_asked(make_cluster: Make) -> None:
    cluster = await make_cluster([BASE], nodes=2)
    await request(cluster.redis, PREFIX, "create", "t", FIRST)
    await request(cluster.redis, PREFIX, "create", "t", FIRST)
    with pytest.raises(TableRequestRefused, match="there already, with another spec"):
        await request(cluster.redis, PREFIX, "create", "t", WIDER)
    await cluster.publish("t", data='[{"id": "a", "n": 1}, {"id": "b", "n": 2}]')
    await everywhere(cluster, FIRST, [("a", 1), ("b", 2)])

    await request(cluster.redis, PREFIX, "alter", "t", WIDER)
    await cluster.publish("t", data='[{"id": "b", "n": 9007199254740993, "x": 0.5}]')
    await everywhere(cluster, WIDER, [("a", 1, None), ("b", 9007199254740993, "float 0.5")])
    with pytest.raises(TableRequestRefused, match="column 'n'"):
        await request(cluster.redis, PREFIX, "alter", "t", FIRST)
    await everywhere(cluster, WIDER, [("a", 1, None), ("b", 9007199254740993, "float 0.5")])

    await request(cluster.redis, PREFIX, "drop", "t")
    await request(cluster.redis, PREFIX, "drop", "t")
    assert set(await catalog(cluster.redis, PREFIX)) == {"base"}

    async def is_gone() -> bool:
        async with cluster.viewer("node-1") as client:
            return "t" not in await client.get_hosted_table_names()

    await until(is_gone, 10, "the node no longer hosts it")
    with pytest.raises(TableRequestRefused, match="no table 't' to alter"):
        await request(cluster.redis, PREFIX, "alter", "t", FIRST)

    await request(cluster.redis, PREFIX, "create", "t", OTHER)
    for key in "xyz":
        await cluster.publish("t", data=f'[{{"k": "{key}"}}]')
    await everywhere(cluster, OTHER, [("y",), ("z",)])
    await cluster.add_node()
    await everywhere(cluster, OTHER, [("y",), ("z",)])
    log = await cluster.redis.xrange(TableKeys(PREFIX, "t").log)
    offsets = [int(position.partition(b"-")[2]) for position, _ in log]
    assert offsets == list(range(offsets[0], offsets[0] + len(offsets))), "one history"
    assert offsets[0] > 1, "it went on, it did not begin again"


async def test_a_changed_tables_file_is_followed_and_a_wrong_one_is_not(make_cluster: Make) -> None:
    cluster = await make_cluster([BASE], nodes=1)
    path = cluster.directory / "tables.yaml"

    def write(*specs: TableSpec, extra: str = "") -> None:
        tables = {
            spec.name: {key: value for key, value in spec.to_json().items() if key != "name"} | {"schema": dict(spec.schema)}
            for spec in specs
        }
        path.write_text(yaml.safe_dump({"tables": tables}) + extra)

    write(BASE, FIRST)
    await cluster.publish("t", data='[{"id": "a", "n": 1}]')
    await everywhere(cluster, FIRST, [("a", 1)])
    write(BASE, WIDER)
    await everywhere(cluster, WIDER, [("a", 1, None)])
    write(BASE, extra="  broken: {schema: {}}\n")
    await cluster.publish("t", data='[{"id": "b"}]')
    await everywhere(cluster, WIDER, [("a", 1, None), ("b", None, None)])

    # What a command did is not undone by a file that says what it said before.
    write(BASE, WIDER)
    await request(cluster.redis, PREFIX, "drop", "t")
    leader = await cluster.leader()
    await cluster[leader].terminate()
    await cluster.leader()
    assert "t" not in await catalog(cluster.redis, PREFIX)
    await request(cluster.redis, PREFIX, "create", "t", OTHER)
    await cluster.publish("t", data='[{"k": "z"}]')
    await everywhere(cluster, OTHER, [("z",)])


async def test_a_table_survives_a_leader_that_never_knew_it_and_a_lost_catalog(make_cluster: Make) -> None:
    cluster = await make_cluster([BASE], nodes=1)
    await request(cluster.redis, PREFIX, "create", "t", FIRST)
    await cluster.publish("t", data='[{"id": "a", "n": 1}]')

    async def all_have_it() -> bool:
        return all(["t" in (await cluster.status(name))["tables"] for name in cluster.running])

    await until(all_have_it, 10, "every member follows the new table")
    await cluster[await cluster.leader()].kill()
    await cluster.redis.delete("parallax:{fleet}:tables")
    await cluster.leader()
    await cluster.publish("t", data='[{"id": "b", "n": 2}]')
    await everywhere(cluster, FIRST, [("a", 1), ("b", 2)])
    assert set(await catalog(cluster.redis, PREFIX)) == {"base", "t"}


async def test_what_is_too_large_for_the_feed_travels_beside_it(make_cluster: Make) -> None:
    cluster = await make_cluster([BASE, FIRST], nodes=1, settings={"INLINE_MAX": "2000"})
    rows = [{"id": f"{number:06}", "n": number} for number in range(5000)]
    import json

    await cluster.publish("t", op="replace", data=json.dumps(rows))
    await everywhere(cluster, FIRST, [(row["id"], row["n"]) for row in rows])
    assert await cluster.redis.hlen(TableKeys(PREFIX, "t").blobs) == 1
    await cluster.add_node()
    await cluster.converged()


async def test_the_command_line(make_cluster: Make, tmp_path: Path) -> None:
    cluster = await make_cluster([BASE], nodes=0, coordinators=1)

    async def parallax(*argv: str, stdin: str = "") -> tuple[int, str, str]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "parallax", *argv),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=os.environ | {"PARALLAX_REDIS_URL": cluster.server.url},
        )
        out, err = await process.communicate(stdin.encode())
        return process.returncode or 0, out.decode(), err.decode()

    columns = ("-c", "id=string", "-c", "n=integer")
    assert (await parallax("tables", "create", "t", *columns, "--index", "id"))[0] == 0
    code, out, _ = await parallax("tables", "list")
    assert (code, [line.split("\t")[0] for line in out.splitlines()]) == (0, ["base", "t"])
    code, out, _ = await parallax("tables", "show", "t")
    assert (code, yaml.safe_load(out)["tables"]["t"]["schema"]) == (0, {"id": "string", "n": "integer"})
    code, _, err = await parallax("tables", "create", "-f", "-", stdin="tables:\n  a: {schema: {x: strin}}\n  b: {}\n")
    assert code == 2
    assert ["line 2" in line or "line 3" in line for line in err.splitlines()] == [True] * 4
    code, _, err = await parallax("tables", "alter", "nothing", *columns, "--limit", "5")
    assert (code, "no table 'nothing'" in err) == (1, True)
    assert (await parallax("tables", "drop", "t"))[0] == 0
    await cluster.publish("nobody", data="[]")
    code, _, err = await parallax("status")
    assert (code, "1 entries wait for a table 'nobody'" in err) == (0, True)
    code, out, _ = await parallax("verify")
    assert (code, "base" in out) == (0, True)
    code, _, err = await parallax("status", "--redis", "redis://127.0.0.1:1")
    assert (code, "127.0.0.1:1" in err, "Traceback" in err) == (1, True, False)

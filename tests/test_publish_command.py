"""`parallax publish` and `parallax host`, as their user meets them."""

import asyncio
import json
import os
import pty
import random
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from coordinator.batch import make_batch
from coordinator.limits import Limits
from parallax import publisher_files
from parallax.cli import main
from parallax.errors import PublishError
from parallax.publisher_data import Batching, payloads
from parallax.publisher_files import format_of, pieces
from parallax.replication.record import Op
from parallax.replication.spec import TableSpec
from parallax.replication.window import Window
from tests import formats
from tests.cluster import PREFIX, Cluster
from tests.oracle import comparable_rows
from tests.processes import PATIENCE, ROOT, until
from tests.test_publisher import read_new

SPEC = TableSpec.declare("t", {"schema": {"id": "string", "n": "int64", "x": "float"}, "index": "id"})
MakeCluster = Callable[..., Awaitable[Cluster]]


def table(rows: int, seed: int = 1) -> pa.Table:
    rng = random.Random(seed)
    texts = ["plain", 'quo"te', "new\nline", "comma,", "", "[{", "}]\\", "ü\U0001f600", '""', "\r\n"]
    return pa.table(
        {
            "id": pa.array([f"{number} {rng.choice(texts)}" for number in range(rows)]),
            "n": pa.array([rng.choice((None, number)) for number in range(rows)], pa.int64()),
            "x": pa.array([rng.uniform(-1, 1) for _ in range(rows)]),
        }
    )


def write(content: pa.Table, format: str, path: Path) -> Path:
    if format == "parquet":
        parquet.write_table(content, path)
    elif format == "arrow":
        path.write_bytes(formats.arrow(content, is_file=True, rows=10))
    else:
        path.write_bytes(formats.WRITERS[format](content))
    return path


def carried(path: Path, format: str, *, rows: int) -> tuple[pa.Table, list[int]]:
    """Read a file in pieces, and return what the coordinator makes of them, and the rows of each piece."""
    read: list[int] = []
    with path.open("rb") as source:
        found = list(pieces(source, format, rows=rows, follow=False, advance=read.append))
    assert sum(read) >= path.stat().st_size or format in ("parquet", "arrow")
    sent = [payload for piece in found for _, payload in payloads(Op.UPDATE, piece, Batching())]
    entries = []
    for number, payload in enumerate(sent):
        form, data = payload.encode()
        entries.append((b"%d-0" % number, [b"format", form.encode(), b"data", data]))
    batch = make_batch(entries, SPEC, Window(), Limits())
    assert batch.refused == []
    return pa.concat_tables([one for change in batch.changes for one in change.tables]), [payload.rows for payload in sent]


@pytest.mark.parametrize("format", publisher_files.FORMATS)
@pytest.mark.parametrize("block", [1, 7, 100, 1 << 20])
def test_a_file_cut_anywhere_is_the_same_rows(
    format: str, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher_files, "BLOCK_BYTES", block)
    content = table(40)
    found, rows = carried(write(content, format, tmp_path / "file"), format, rows=16)
    assert found.to_pydict() == content.to_pydict()
    assert sum(rows) == 40
    assert max(rows) <= 16


def test_lines_end_in_other_ways_too(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes("\ufeff\r\n\nid,n\r\n\r\na,1\r\n\nb,2".encode())
    assert carried(path, "csv", rows=10)[0].to_pydict() == {"id": ["a", "b"], "n": [1, 2]}
    path.write_bytes(b'\n{"id":"a"}\r\n\n{"id":"b"}')
    assert carried(path, "ndjson", rows=10)[0].to_pydict() == {"id": ["a", "b"]}
    path.write_bytes(b' {"id": "a"}\n{"id": "b"}, {"id":"c"}')
    assert carried(path, "json", rows=2)[0].to_pydict() == {"id": ["a", "b", "c"]}
    path.write_bytes(formats.arrow(table(3)))
    assert carried(path, "arrow", rows=10)[0].num_rows == 3


@pytest.mark.parametrize(
    ("format", "data", "says"),
    [
        ("json", b'[{"id": "a"}, 7]', "expected a row as a JSON object, not '7]'"),
        ("json", b'[{"id": "a"}, {"id": ', "it ends within"),
        ("json", b'[{"id": "\xff"}]', "not UTF-8"),
        ("json", b'[{"a": ' + b"[" * 100_000, "nested too deeply"),
        ("arrow", b"ARROW1\0\0 and then nothing", "not a readable Arrow"),
        ("arrow", b"", "not a readable Arrow"),
        ("parquet", b"PAR1", "not a readable parquet"),
    ],
)
def test_a_source_that_is_not_what_it_should_be(format: str, data: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    with path.open("rb") as source, pytest.raises(PublishError, match=says):
        list(pieces(source, format, rows=10, follow=False, advance=lambda _: None))


def test_names_tell_formats() -> None:
    assert [format_of(name) for name in ("a.CSV", "b.jsonl", "c.parquet", "d.arrow", "-", "e.txt")] == [
        *("csv", "ndjson", "parquet", "arrow"),
        None,
        None,
    ]


# As a user types it --------------------------------------------------------------------------------------------------


class Given:
    """Standard input with these bytes in it, through a real pipe."""

    def __init__(self, data: bytes) -> None:
        reading, writing = os.pipe()
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(data)
        self.buffer = os.fdopen(reading, "rb")


class Command:
    """Runs the command in this process, in a thread of its own."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capsys, self._monkeypatch = capsys, monkeypatch

    async def __call__(self, cluster: Cluster, *arguments: str, given: bytes = b"") -> tuple[int, str, str]:
        """Return the exit code and what it said."""
        words = [arguments[0], *arguments[1:], "--redis", cluster.server.url, "--prefix", PREFIX]
        self._monkeypatch.setattr(sys, "stdin", Given(given))
        self._capsys.readouterr()
        async with asyncio.timeout(60 * PATIENCE):
            code = await asyncio.to_thread(main, words)
        sys.stdin.buffer.close()
        return code, *self._capsys.readouterr()


@pytest.fixture
def parallax(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    return Command(capsys, monkeypatch)


def environment(cluster: Cluster) -> dict[str, str]:
    return dict(os.environ) | {"PARALLAX_REDIS_URL": cluster.server.url, "PARALLAX_PREFIX": PREFIX}


async def rows_of(cluster: Cluster, spec: TableSpec = SPEC) -> list[tuple[Any, ...]]:
    await cluster.at_rest()
    return await cluster.read("node-1", spec)


@pytest.mark.cluster
async def test_publish_sends_every_kind_of_file(make_cluster: MakeCluster, parallax: Command, tmp_path: Path) -> None:
    cluster = await make_cluster([SPEC], coordinators=1, nodes=1)
    for number, format in enumerate(publisher_files.FORMATS):
        content = table(300, seed=number)
        path = write(content, format, tmp_path / f"rows.{format}")
        code, said, complained = await parallax(cluster, "publish", "t", str(path), "--op", "replace", "--batch-rows", "100")
        assert (code, complained) == (0, ""), format
        assert said.startswith("t: 300 rows in ")
        assert await rows_of(cluster) == comparable_rows(
            sorted(content.to_pylist(), key=lambda row: str(row["id"]).encode()), SPEC.columns
        )
    # from a pipe, as JSON, and with what is wrong
    data = b"id,n\nz,1\n"
    code, said, _ = await parallax(cluster, "publish", "t", "-", "--format", "csv", "--json", given=data)
    assert code == 0
    assert json.loads(said)["rows"] == 1
    code, said, complained = await parallax(cluster, "publish", "t", "-", "--format", "csv", given=b"id,n\nz,1\ny,x\n")
    assert code == 1
    assert "1 entries refused" in said
    assert "refused (entry 1): row 1, column 'n': \"x\" does not fit int64" in complained
    code, said, complained = await parallax(
        cluster, "publish", "t", "-", "--format", "csv", "--op", "remove", given=b"id\nz\n"
    )
    assert code == 0
    assert ("z",) not in [row[:1] for row in await rows_of(cluster)]
    for arguments, says in (
        (("publish", "nope", str(path)), "there is no table 'nope'; there are t"),
        (("publish", "t", "no such file.csv"), "no such file.csv: No such file or directory"),
        (("publish", "t", "-"), "give its --format"),
        (("publish", "t", str(path), "--follow"), "--follow cannot read parquet"),
        (("publish", "t", "-", "--format", "parquet"), "parquet cannot be read from a pipe"),
    ):
        code, said, complained = await parallax(cluster, *arguments)
        assert code in (1, 2), arguments
        assert says in complained
        assert "Traceback" not in complained


@pytest.mark.cluster
async def test_following_a_file_publishes_what_is_added(make_cluster: MakeCluster, tmp_path: Path) -> None:
    cluster = await make_cluster([SPEC], coordinators=1, nodes=1)
    path = tmp_path / "growing.ndjson"
    path.write_text('{"id": "a"}\n{"id": ')
    arguments = (sys.executable, "-m", "parallax.cli", "publish", "t", str(path), "--follow")
    process = await asyncio.create_subprocess_exec(
        *arguments, cwd=ROOT, env=environment(cluster), stdout=asyncio.subprocess.PIPE
    )

    def there(*keys: str) -> Callable[[], Awaitable[bool]]:
        async def ask() -> bool:
            return [row[0] for row in await cluster.read("node-1", SPEC)] == list(keys)

        return ask

    try:
        await until(there("a"), 20, "what was there")
        with path.open("a") as file:
            file.write('"b"}\n')
        await until(there("a", "b"), 20, "what was added")
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(20 * PATIENCE):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0
    assert b"t: 2 rows in 2 entries" in said


@pytest.mark.cluster
async def test_host_creates_a_table_from_a_file(make_cluster: MakeCluster, parallax: Command, tmp_path: Path) -> None:
    cluster = await make_cluster([SPEC], coordinators=1, nodes=1)
    path = tmp_path / "flights.csv"
    path.write_text("id,delay,at,day\nb,NA,2013-01-01T10:00:00Z,2013-01-01\na,2.5,,2013-01-02\n")
    code, said, complained = await parallax(cluster, "host", "flights", str(path), "--index", "id", "--null", "NA")
    assert (code, complained) == (0, "")
    assert said.startswith("flights (id string, delay float, at datetime, day date): 2 rows")
    code, said, _ = await parallax(cluster, "tables", "show", "flights", "--json")
    spec = TableSpec.from_json(json.loads(said))

    async def is_there() -> bool:
        return [row[0] for row in await read_new(cluster, spec)] == ["a", "b"]

    await until(is_there, 20, "the node serves it")
    code, _, complained = await parallax(cluster, "host", "flights", str(path), "--limit", "7")
    assert code == 1
    assert "flights" in complained
    code, _, complained = await parallax(
        cluster, "host", "x", "-", "--format", "json", "--limit", "7", given=b'[{"a": [1]}]'
    )
    assert code == 2
    assert "column 'a' is list<item: int64>, which a Perspective table cannot hold" in complained


@pytest.mark.cluster
async def test_a_terminal_gets_a_progress_bar(make_cluster: MakeCluster, tmp_path: Path) -> None:
    cluster = await make_cluster([SPEC], coordinators=1, nodes=0)
    path = write(table(2_000), "csv", tmp_path / "rows.csv")
    ours, theirs = pty.openpty()
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "parallax.cli", "publish", "t", str(path), "--batch-rows", "50"),
            cwd=ROOT,
            env=environment(cluster),
            stdout=asyncio.subprocess.PIPE,
            stderr=theirs,
        )
        async with asyncio.timeout(60 * PATIENCE):
            said, _ = await process.communicate()
        shown = os.read(ours, 1 << 16).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert process.returncode == 0
    assert said.startswith(b"t: 2,000 rows in ")
    assert "] 100%  " in shown
    assert "rows/s" in shown
    assert shown.endswith("\r\x1b[K"), "the bar is gone at the end"

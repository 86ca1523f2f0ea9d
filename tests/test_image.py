"""The image is what the Dockerfile says: built for real, looked through, and started as a container is, without a container engine.

buildah builds it in a chroot, on a base of Debian's own packages. What is in it then runs from a read-only root, as its user, with
its environment and its commands, in namespaces of its own. Building as root without an engine is Linux with Debian's tools.
"""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from tornado.httpclient import AsyncHTTPClient

from parallax.demo.ports import choose_ports
from parallax.replication.keys import TableKeys
from tests.processes import HOST, ROOT, Process, RedisServer, until

pytestmark = [pytest.mark.deep, pytest.mark.cluster, pytest.mark.timeout(1800)]

FOREIGN = re.compile(
    r"(^|/)(tests?|\.git|\.venv|node_modules|__tests__)(/|$)|\.(pem|key|env)$|/pip/|/setuptools/|/gcc$|/cc$"
)
"""What has no business among the programs of an image. Authorities' certificates are no secrets: certifi's file is taken out below."""
MOST_MIB = 800
"""Of what stands on top of the base."""


def run(*argv: str | Path, **more: Any) -> str:
    done = subprocess.run([str(one) for one in argv], capture_output=True, text=True, **more)
    assert done.returncode == 0, f"{' '.join(map(str, argv))}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@dataclass(frozen=True)
class Image:
    """A built image: where its files are, and what it says of itself."""

    root: Path
    config: dict[str, Any]

    def argv(self, *command: str) -> list[str]:
        """Return what starts a command in it: on its files, read-only, as its user."""
        steps = (
            'mount --bind "$0" "$0"',
            'mount --rbind /dev "$0/dev"',
            'mount -t proc proc "$0/proc"',
            'mount -o remount,ro,bind "$0"',
            'exec chroot --userspec="$1" "$0" "${@:2}"',
        )
        return ["unshare", "--mount", "bash", "-c", " && ".join(steps), str(self.root), self.config["User"], *command]

    @property
    def env(self) -> dict[str, str]:
        """Return its environment."""
        return dict(one.split("=", 1) for one in self.config["Env"])


class Builder:
    """buildah, with a store of its own."""

    def __init__(self, place: Path) -> None:
        self._buildah = ["buildah", "--root", str(place / "store"), "--runroot", str(place / "run")]
        self._place = place

    def base(self) -> None:
        """Make a base: Debian's Python, and nothing else."""
        mirror = run("apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME)", "Created-By: Packages").split()
        run("debootstrap", "--variant=minbase", "--include=python3,python3-venv", mirror[1], self._place / "base", mirror[0])
        made = run(*self._buildah, "from", "scratch").strip()
        run(*self._buildah, "add", "--quiet", made, self._place / "base", "/")
        run(*self._buildah, "commit", "--quiet", made, "base")
        run(*self._buildah, "rm", made)

    def build(self, tag: str, *more: str) -> Image:
        """Build a target of the Dockerfile, and unfold it."""
        settings = pip_settings(self._place)
        argv = [
            "bud",
            "--isolation",
            "chroot",
            "--build-arg",
            "BASE=localhost/base",
            "--tag",
            tag,
            *settings,
            *more,
            str(ROOT),
        ]
        run(*self._buildah, *argv)
        made = run(*self._buildah, "from", f"localhost/{tag}").strip()
        config = json.loads(run(*self._buildah, "inspect", made))["OCIv1"]["config"]
        return Image(Path(run(*self._buildah, "mount", made).strip()), config)

    def close(self) -> None:
        """Throw all of it away."""
        run(*self._buildah, "umount", "--all")
        run(*self._buildah, "rm", "--all")


def pip_settings(place: Path) -> list[str]:
    """Return options that let pip find packages in a build as it finds them here."""
    here = dict(line.split("=", 1) for line in run(sys.executable, "-m", "pip", "config", "list").splitlines())
    wanted = {
        name.split(".")[1]: value.strip("'\"") for name, value in here.items() if name.split(".")[1] in ("cert", "index-url")
    }
    (place / "pip.conf").write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in wanted.items()))
    options = ["--volume", f"{place / 'pip.conf'}:/etc/pip.conf:ro"]
    return [*options, "--volume", f"{wanted['cert']}:{wanted['cert']}:ro"] if "cert" in wanted else options


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builder]:
    if os.geteuid() or not shutil.which("apt-get"):
        pytest.skip("this needs root, and Debian's packages")
    if missing := [name for name in ("buildah", "debootstrap") if not shutil.which(name)]:
        run(ROOT / ".ci" / "packages", *missing)
    made = Builder(tmp_path_factory.mktemp("image"))
    made.base()
    yield made
    made.close()


@pytest.fixture(scope="module")
def image(builder: Builder) -> Image:
    return builder.build("parallax")


def programs(image: Image) -> list[Path]:
    """Return all files that the image has on top of its base."""
    return [path for path in (image.root / "opt").rglob("*") if path.is_file()]


def mib(image: Image) -> float:
    """Return how much that is."""
    return sum(path.stat().st_size for path in programs(image)) / 2**20


def test_what_is_in_it(image: Image) -> None:
    files = programs(image)
    names = [str(path.relative_to(image.root)) for path in files]
    assert [name for name in names if FOREIGN.search(name) and not name.endswith("certifi/cacert.pem")] == []
    print(f"the image: {mib(image):.0f} MiB on top of its base")
    assert mib(image) < MOST_MIB
    assert not list((image.root / "root").glob(".cache"))
    assert not list((image.root / "build").glob("*") if (image.root / "build").exists() else [])
    for tool in ("gcc", "cc", "make"):
        assert not (image.root / "usr/bin" / tool).exists()


def test_what_it_says_of_itself(image: Image) -> None:
    uid, _, gid = image.config["User"].partition(":")
    assert min(int(uid), int(gid)) > 10_000
    assert image.config["StopSignal"] == "SIGTERM"
    assert image.config["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert set(image.config["ExposedPorts"]) == {"8080/tcp", "8081/tcp", "8091/tcp"}
    assert image.config["Cmd"] == ["python", "-m", "node"]


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[RedisServer]:
    server = RedisServer(tmp_path, choose_ports({"redis": 0})["redis"])
    server.start()
    await server.ready()
    yield server
    server.destroy()


async def test_both_services_run_as_nobody_on_a_root_that_cannot_be_written(
    image: Image, redis: RedisServer, tmp_path: Path
) -> None:
    ports = choose_ports(dict.fromkeys(("public", "node", "coordinator"), 0))
    env = image.env | {"PARALLAX_REDIS_URL": redis.url, "PARALLAX_BIND": HOST, "PARALLAX_GUARD": "false"}
    node = env | {"PARALLAX_PORT": str(ports["public"]), "PARALLAX_INTERNAL_PORT": str(ports["node"])}
    leader = env | {"PARALLAX_INTERNAL_PORT": str(ports["coordinator"])}
    running = [
        Process("node", image.argv(*image.config["Cmd"]), tmp_path, node),
        Process("coordinator", image.argv("python", "-m", "coordinator"), tmp_path, leader),
    ]
    argv = image.argv("sh", "-c", "id -u; touch /opt/x /tmp/x")
    said = await asyncio.to_thread(subprocess.run, argv, env=env, capture_output=True, text=True)
    assert said.stdout == image.config["User"].split(":")[0] + "\n"
    assert said.stderr.count("Read-only file system") == 2
    try:
        for process in running:
            process.start()
        command = image.argv(
            "parallax", "tables", "create", "t", "--column", "id=string", "--column", "n=integer", "--index", "id"
        )

        async def is_made() -> bool:
            done = await asyncio.to_thread(subprocess.run, command, env=env, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            return True

        await until(is_made, 60, "the table is made")
        async with Redis.from_url(redis.url) as client:
            await client.xadd(TableKeys("parallax", "t").ingest, {"format": "json", "data": '[{"id": "a", "n": 1}]'})

        async def has_row() -> bool:
            answer = await AsyncHTTPClient().fetch(f"http://{HOST}:{ports['node']}/status", raise_error=False)
            return bool(json.loads(answer.body)["tables"].get("t", {}).get("rows") == 1)

        await until(has_row, 60, "the row is at the node")
        for process in running:
            assert await process.terminate(30) == 0
    finally:
        for process in running:
            process.destroy()


def test_load_tests_come_as_an_image_of_their_own(builder: Builder) -> None:
    image = builder.build("load", "--target", "load")
    said = subprocess.run(
        image.argv("sh", "-c", f"cd {image.config['WorkingDir']} && {' '.join(image.config['Cmd'])}"),
        env=image.env,
        capture_output=True,
        text=True,
    )
    assert said.returncode == 0, said.stderr
    assert "usage" in said.stdout
    assert not [path for path in programs(image) if "tests" in path.parts]
    print(f"the load tests' image: {mib(image):.0f} MiB on top of its base")

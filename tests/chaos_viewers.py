"""Who looks on while a fleet is tried: viewers that find another node, as links do, and views that were there all the while."""

import asyncio
import json
import random
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import perspective
import websockets
from google.protobuf import text_format

from node.gateway import messages
from parallax.replication.position import ORIGIN, Position
from parallax.tasks import Tasks
from tests.chaos_load import NUMBERS, RECENT, TABLES, TRADES
from tests.cluster import Cluster
from tests.processes import PATIENCE
from tests.sockets import COLUMNS, MAKE, SocketViewer, said_by, socket_viewer
from tests.test_gateway import make

ALL_ROWS = messages.encode(messages.new("ToText"))
COUNTED = messages.encode(
    text_format.Parse(
        """view_id: "numbers" config { group_by: "p" columns { columns { columns: "n" columns: "g" } }
        aggregates { key: "n" value { aggregations: "max" } } aggregates { key: "g" value { aggregations: "count" } } }""",
        messages.new("MakeView"),
    )
)
"""For each producer: the highest of its numbers, and how many they are."""
AGGREGATES = ("count", "min", "max", "distinct count", "sum", "avg")
"""The last two not of `x`: a sum in a view that was there already is wrong after an int32 changed by more than an int32 holds."""
PATIENCE_SECONDS = 2.0
"""After so long without an answer a viewer tries another node."""
GIVES_UP = (TimeoutError, OSError, AssertionError, websockets.WebSocketException)


class LinkedViewer:
    """Watches the numbers, and goes to another node whenever one leaves it without an answer; no table may go back in time.

    At each moment each producer's numbers must be those from 1 to the highest, each once, and the highest never less than before,
    unless the node said that it is behind what this viewer has seen.
    """

    def __init__(self, cluster: Cluster, rng: random.Random, *, uses_front: bool) -> None:
        self.problems: list[str] = []
        self.reads = self.moves = self.stale = 0
        self._cluster, self._rng, self._uses_front = cluster, rng, uses_front
        self._highest: dict[str, Position] = {}  # of each table, as told by any node
        self._excused: set[str] = set()  # tables that this node said may be older than that
        self._seen: dict[str, int] = {}  # of each producer

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            try:
                port = self._cluster.ports["front" if self._uses_front else self._rng.choice(self._nodes())]
                async with asyncio.timeout(3 * PATIENCE_SECONDS * PATIENCE), AsyncExitStack() as stack:
                    viewer = await stack.enter_async_context(socket_viewer(port))
                    await self._greet(viewer)
                    stack = stack.pop_all()  # the time-out was for the greeting
                async with stack:
                    await self._watch(viewer)
            except GIVES_UP:
                await asyncio.sleep(0.05)
            self.moves += 1

    def _nodes(self) -> list[str]:
        return [name for name in self._cluster.processes if name.startswith("node")]

    async def _greet(self, viewer: SocketViewer) -> None:
        said = await viewer.hello(**{table: str(position) for table, position in self._highest.items()})
        self._excused = set(said["behind"])
        self.stale += len(self._excused)
        for spec in TABLES:
            body = COUNTED if spec is NUMBERS else make(spec.name, columns=["x"])
            answer = await viewer.ask(MAKE, body, spec.name)
            if answer.number != MAKE:
                raise ConnectionRefusedError("a node that has only just started")

    async def _watch(self, viewer: SocketViewer) -> None:
        leaves_after = self._rng.choice((3, 10, 60))
        for _ in range(leaves_after):
            for spec in TABLES:
                async with asyncio.timeout(PATIENCE_SECONDS * PATIENCE):
                    answer = await viewer.ask(COLUMNS, ALL_ROWS, spec.name)
                if answer.number != COLUMNS:
                    self.problems.append(f"{spec.name} could not be read: {answer.body!r}")
                    return
                self._note_positions(viewer)
                if spec is NUMBERS:
                    self._check(json.loads(said_by(answer.body)))
                self.reads += 1
            await asyncio.sleep(0.03)

    def _note_positions(self, viewer: SocketViewer) -> None:
        """Take in what was told before the answer that just came."""
        for text in viewer.texts:
            for table, told in text.get("position", {}).items():
                position, highest = Position.parse(told), self._highest.get(table, ORIGIN)
                if position >= highest:
                    self._highest[table] = position
                    self._excused.discard(table)
                elif table not in self._excused:
                    self.problems.append(f"{table} went back from {highest} to {position}")
        viewer.texts.clear()

    def _check(self, found: dict[str, list[Any]]) -> None:
        for path, highest, count in zip(found["__ROW_PATH__"], found["n"], found["g"], strict=True):
            if not path:
                continue
            (producer,) = path
            if highest != count:
                self.problems.append(f"{producer}'s numbers up to {highest} were {count} rows")
            if highest < self._seen.get(producer, 0) and NUMBERS.name not in self._excused:
                self.problems.append(f"{producer}'s numbers went back from {self._seen[producer]} to {highest}")
            self._seen[producer] = max(highest, self._seen.get(producer, 0))


def pivots(seed: int, count: int = 20) -> list[tuple[str, dict[str, Any]]]:
    """Return views, as (table, configuration), that show the same however old they are."""
    rng = random.Random(f"pivots {seed}")
    chosen: list[tuple[str, dict[str, Any]]] = []
    while len(chosen) < count:
        table = rng.choice(TABLES)
        groups = {TRADES.name: ["id", "b", "s"], RECENT.name: ["b", "s"], NUMBERS.name: ["p", "g"]}[table.name]
        values = {TRADES.name: ["x", "small"], RECENT.name: ["x", "n"], NUMBERS.name: ["n", "g"]}[table.name]
        columns = rng.sample(values, rng.choice((1, 2)))
        config: dict[str, Any] = {"columns": columns}
        config["aggregates"] = {name: rng.choice(AGGREGATES[: 4 if name == "x" else 6]) for name in columns}
        config["group_by"] = rng.sample(groups, rng.choice((0, 1, 1, 2)))
        split = {TRADES.name: "b", RECENT.name: "b", NUMBERS.name: "p"}[table.name]
        if config["group_by"] and split not in config["group_by"] and rng.random() < 0.4:
            config["split_by"] = [split]
        if rng.random() < 0.4:
            config["filter"] = [[rng.choice(values), rng.choice((">", "<")), rng.randrange(-100, 200)]]
        if not config["group_by"]:
            del config["aggregates"]
        chosen.append((table.name, config))
    return chosen


class Watcher:
    """Holds the same pivots on one node, on one connection, for as long as that lasts."""

    def __init__(self, cluster: Cluster, node: str, configs: Sequence[tuple[str, dict[str, Any]]]) -> None:
        self.node = node
        self.views: list[Any] = []
        self._cluster, self._configs = cluster, configs
        self._stack = AsyncExitStack()
        self._socket: Any = None

    async def open(self) -> None:
        """Make every view."""
        url = self._cluster.url(self.node, "/websocket").replace("http://", "ws://")
        self._socket = await self._stack.enter_async_context(websockets.connect(url, max_size=None, ping_interval=None))
        tasks = await self._stack.enter_async_context(Tasks())
        client = perspective.AsyncClient(self._socket.send)
        tasks.start(self._listen(client), name=f"watcher of {self.node}")
        tables = {spec.name: await client.open_table(spec.name) for spec in TABLES}
        self.views = [await tables[name].view(**config) for name, config in self._configs]

    async def _listen(self, client: Any) -> None:
        try:
            async for message in self._socket:
                await client.handle_response(message)
        except websockets.WebSocketException:
            pass  # `is_open` tells

    @property
    def is_open(self) -> bool:
        """Say whether the connection lasted."""
        return self._socket is not None and self._socket.state is websockets.protocol.State.OPEN

    async def read(self) -> list[dict[str, Any]]:
        """Return what every view shows."""
        async with asyncio.timeout(20 * PATIENCE):
            shown = []
            for view, config in zip(self.views, self._configs, strict=True):
                try:
                    shown.append(await view.to_columns())
                except perspective.PerspectiveError as error:
                    raise AssertionError(f"{self.node}: {config}: {error}") from error
            return shown

    async def close(self) -> None:
        """Leave."""
        await self._stack.aclose()

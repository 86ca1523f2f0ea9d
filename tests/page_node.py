"""The public port of a node in the test's own process: its gateway and its page, on tables of the test's own."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application

from node.auth import Auth
from node.gateway import Gateway
from node.gateway.handler import gateway_routes, websocket_settings
from node.pages import page_routes
from node.settings import NodeSettings
from parallax.replica.engine import Engine, EngineTable, to_ipc
from parallax.replication.record import Op
from parallax.replication.spec import TableSpec
from tests.processes import HOST

Row = dict[str, Any]
TRADES = TableSpec("trades", (("id", "string"), ("price", "float")), index="id")
ACCOUNTS = TableSpec("accounts", (("number", "integer"), ("holder", "string")), index="number")
TRADED: list[Row] = [{"id": "a", "price": 1.5}, {"id": "b", "price": 2.5}, {"id": "c", "price": 3.5}]
ANN: list[Row] = [{"number": 7, "holder": "Ann"}]


class Node:
    """The public port of a node, in this process: its gateway and its page, on tables of the test's own."""

    def __init__(self, allowed_origins: str = "") -> None:
        settings = NodeSettings(allowed_origins=allowed_origins)
        self._engine = Engine(frame_seconds=0.01)
        self._gateway = Gateway(settings)
        self._tables: dict[str, EngineTable] = {}
        routes = [*gateway_routes(self._gateway, settings, Auth(settings)), *page_routes()]
        sockets = bind_sockets(0, HOST)
        self.url = f"http://{HOST}:{sockets[0].getsockname()[1]}/"
        self._server = HTTPServer(Application(routes, **websocket_settings(settings)))
        self._server.add_sockets(sockets)

    async def host(self, spec: TableSpec, rows: Sequence[Row]) -> None:
        """Host a table, or give a hosted one another shape."""
        table = self._tables.setdefault(spec.name, self._engine.table(spec.name))
        await table.load(spec, pa.Table.from_pylist(list(rows), spec.arrow_schema))
        self._gateway.add_table(spec.name, table)

    async def update(self, spec: TableSpec, rows: Sequence[Row]) -> None:
        payload = to_ipc(pa.Table.from_pylist(list(rows), spec.arrow_schema))
        await self._tables[spec.name].apply([(Op.UPDATE, payload)])

    async def drop(self, name: str) -> None:
        self._gateway.remove_table(name)
        await self._tables.pop(name).drop()

    async def leave(self) -> None:
        """Close every viewer's socket, and let nobody in again."""
        self._server.stop()
        await self._gateway.drain(0)

    async def hand_over(self) -> None:
        """Close every viewer's socket once; who comes again is let in."""
        await self._gateway.drain(0)

    async def lose_log(self, *tables: str) -> None:
        """Tell viewers that nothing moves these tables any more; none: that all is well again."""
        self._gateway.stale = lambda: tables
        for session in list(self._gateway._sessions):
            session.link.tell_stale()

    @property
    def views(self) -> int:
        """How many views of viewers there are."""
        return sum(len(hosted.views) for hosted in self._gateway.hosted)

    async def close(self) -> None:
        self._server.stop()
        await self._gateway.close()
        await self._server.close_all_connections()
        await self._engine.close()

"""A Perspective server as it comes, which is told what a table of the node's engine is told."""

from typing import Any

import perspective

from parallax.replica.engine import EngineTable
from parallax.wire import Envelope, decode


class Stock:
    """A server as it comes, which is told what a table of the engine is told. Put between the table and its own client."""

    def __init__(self, table: EngineTable) -> None:
        self.frames: list[bytes] = []
        self.notes: dict[int, list[bytes]] = {}  # by our message id: what a subscription was sent since last asked
        self.server = perspective.Server(on_poll_request=lambda *_: None)
        self.session = self.server.new_session(self.frames.append)
        self._client = self.server.new_local_client()
        self._numbers = iter(range(1, 1 << 30))
        real_server, real_client = table._server, table._client
        stock = self

        class BothServers:
            def poll(self) -> None:
                real_server.poll()
                stock.server.poll()

        class BothClients:
            def table(self, data: bytes, **options: Any) -> Any:
                return BothTables(real_client.table(data, **options), stock._client.table(data, **options))

        table._server, table._client = BothServers(), BothClients()

    def number(self) -> int:
        """Return a message id."""
        return next(self._numbers)

    def ask(self, entity: str, number: int, body: bytes, msg_id: int | None = None) -> Envelope | None:
        """Put a request, and return its answer."""
        self.hear()
        msg_id = msg_id or self.number()
        self.session.handle_request(Envelope(msg_id, entity, number, body).encode())
        answers = [decode(frame) for frame in self.frames]
        self.frames.clear()
        return next((answer for answer in answers if answer.msg_id == msg_id), None)

    def hear(self) -> None:
        """Put what subscriptions were sent where it is looked for."""
        for frame in self.frames:
            envelope = decode(frame)
            self.notes.setdefault(envelope.msg_id, []).append(envelope.body)
        self.frames.clear()


class BothTables:
    """Tells two tables the same."""

    def __init__(self, real: Any, stock: Any) -> None:
        self._both = (real, stock)

    def __getattr__(self, name: str) -> Any:
        real, stock = (getattr(table, name) for table in self._both)
        if name not in ("update", "remove", "replace", "clear", "delete"):
            return real

        def call(*values: Any, **options: Any) -> None:
            real(*values, **options)
            stock(*values, **options)

        return call

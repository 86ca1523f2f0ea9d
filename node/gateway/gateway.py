"""The tables that a node hosts, and the sessions that look at them."""

import asyncio
import itertools
import logging
import random
from collections.abc import Callable

from node.gateway.backend import Backend
from node.gateway.session import Session
from node.settings import NodeSettings
from parallax.replica.engine import EngineTable
from parallax.tasks import Tasks

log = logging.getLogger(__name__)

LOTS = 20


class Gateway:
    """All sessions of one node."""

    def __init__(self, settings: NodeSettings) -> None:
        self.settings = settings
        self.is_draining = False
        self.tasks = Tasks()
        self._backends: dict[str, Backend] = {}
        self._sessions: dict[Session, Callable[[], None]] = {}  # and how to close each one's socket
        self.numbers = itertools.count(1)

    @property
    def sessions(self) -> int:
        """How many viewers are connected."""
        return len(self._sessions)

    @property
    def views(self) -> int:
        """How many views all of them have."""
        return sum(session.views for session in self._sessions)

    @property
    def hosted(self) -> list[Backend]:
        """The tables that can be read, by name."""
        return [self._backends[name] for name in sorted(self._backends)]

    def backend(self, name: str) -> Backend | None:
        """Return a hosted table."""
        return self._backends.get(name)

    def add_table(self, name: str, table: EngineTable) -> None:
        """Host a table. Saying so again does nothing, unless it is of another shape than before."""
        known = self._backends.get(name)
        if known is not None and known.table is table and known.generation == table.generation:
            return
        if known is not None:
            self.remove_table(name)
        self._backends[name] = Backend(table, self.numbers)
        self._tell_hosted()

    def remove_table(self, name: str) -> None:
        """Host a table no more: its viewers are told."""
        backend = self._backends.pop(name, None)
        if backend is None:
            return
        backend.close()
        for session in list(self._sessions):
            session.table_removed(name)
        self._tell_hosted()

    def _tell_hosted(self) -> None:
        for session in list(self._sessions):
            session.hosted_tables_changed()

    def open(self, send: Callable[[bytes], None], close: Callable[[], None] = lambda: None) -> Session:
        """Begin a session. `send` takes frames for the viewer and never raises; `close` ends its connection for a drain."""
        session = Session(self, lambda envelope: send(envelope.encode()))
        self._sessions[session] = close
        return session

    def closed(self, session: Session) -> None:
        """Forget a session; its views are deleted in the engine."""
        if self._sessions.pop(session, None) is not None:
            self.tasks.start(session.delete_views(), name="delete views")

    async def drain(self, seconds: float) -> None:
        """Take no new viewers, and hand over those who are here, in small lots over `seconds`."""
        self.is_draining = True
        closers = list(self._sessions.values())
        random.shuffle(closers)
        size = max(1, -(-len(closers) // LOTS))
        for start in range(0, len(closers), size):
            for close in closers[start : start + size]:
                close()
            if start + size < len(closers):
                await asyncio.sleep(seconds / LOTS * (0.5 + random.random()))

    async def close(self) -> None:
        """End what runs."""
        for session in list(self._sessions):
            self.closed(session)
        await self.tasks.close()

"""The tables that a node hosts, and the sessions that look at them."""

import asyncio
import itertools
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable

from node.auth import EVERYTHING, Access
from node.gateway.answers import Budget
from node.gateway.counts import Counts
from node.gateway.edits import Publish
from node.gateway.hosted import Hosted
from node.gateway.outbox import Outbox, Write
from node.gateway.quarantine import Quarantine
from node.gateway.session import Session
from node.gateway.shared_view import State
from node.settings import NodeSettings
from parallax.quarantine import Suspect
from parallax.replica.engine import MOST_VIEWS, EngineTable
from parallax.replication.position import Position
from parallax.replication.record import Op
from parallax.tasks import Tasks
from parallax.wire import Refused

log = logging.getLogger(__name__)

LOTS = 20
SWEEP_SECONDS = 1.0
LEAVING, SLOW, IDLE, SILENT, EXPIRED = 1012, 4008, 4009, 4010, 4401

Close = Callable[[int, str], None]
"""End a viewer's connection with a code and a reason."""

CatchUp = Callable[[str, Position, float], Awaitable[bool]]


class Gateway:
    """All sessions of one node."""

    def __init__(
        self,
        settings: NodeSettings,
        observe: Callable[[int, float], None] = lambda number, started: None,
        publish: Publish | None = None,
        quarantine: Quarantine | None = None,
    ) -> None:
        self.settings = settings
        self.quarantine = Quarantine() if quarantine is None else quarantine
        self.publish = publish or _nowhere
        self.name = ""
        """The node's, as it is told to links."""
        self.catch_up: CatchUp = _as_it_is
        """Waits until a table shows what was at a position, at most so many seconds; says whether it does."""
        self.stale: Callable[[], Iterable[str]] = list
        """Returns the tables whose log is out of reach."""
        self.observe = observe
        """Called with the number of each request that was answered, and time.monotonic() when it came."""
        self.counts = Counts()
        self.budget = Budget(limit=settings.cache_bytes, largest=settings.cache_max_answer_bytes)
        self.is_stuck = asyncio.Event()
        """Set when the engine has been at work on a view for so long that this node had better be started afresh."""
        self.tasks = Tasks()
        self._hosted: dict[str, Hosted] = {}
        self._sessions: dict[Session, Close] = {}
        self._numbers = itertools.count(1)

    @property
    def sessions(self) -> int:
        """How many viewers are connected."""
        return len(self._sessions)

    @property
    def is_full(self) -> bool:
        """Say whether no viewer more may come."""
        return len(self._sessions) >= self.settings.max_sessions

    @property
    def views(self) -> int:
        """How many views all of them have."""
        return sum(session.views for session in self._sessions)

    @property
    def subscriptions(self) -> int:
        """How many subscriptions all of them have."""
        return sum(session.subscriptions for session in self._sessions)

    @property
    def waiting_bytes(self) -> int:
        """How many bytes wait for all of them."""
        return sum(session.outbox.waiting_bytes for session in self._sessions)

    @property
    def hosted(self) -> list[Hosted]:
        """The tables that can be read, by name."""
        return [self._hosted[name] for name in sorted(self._hosted)]

    def find(self, name: str) -> Hosted | None:
        """Return a hosted table."""
        return self._hosted.get(name)

    # Tables ----------------------------------------------------------------------------------------------------------

    def add_table(self, name: str, table: EngineTable) -> None:
        """Host a table. Saying so again does nothing, unless it is of another shape than before."""
        known = self._hosted.get(name)
        if known is not None and known.table is table and known.generation == table.generation:
            return
        self._hosted[name] = Hosted(
            table, self._numbers, self.settings, self.budget, self.counts, self.quarantine, self.tasks
        )
        if known is not None:
            known.close()
            for session in list(self._sessions):
                session.table_made_anew(name)
        self._tell_hosted(name)

    def remove_table(self, name: str) -> None:
        """Host a table no more: its viewers are told."""
        hosted = self._hosted.pop(name, None)
        if hosted is None:
            return
        hosted.close()
        for session in list(self._sessions):
            session.table_removed(name)
        self._tell_hosted(name)

    def _tell_hosted(self, name: str) -> None:
        for session in list(self._sessions):
            if session.access.may_read(name):
                session.hosted_tables_changed()

    def lives_beyond(self, suspect: Suspect, applied: str) -> bool:
        """Say whether a view is alive here, its table at `applied`, that was made before the position of another one's end."""
        hosted = self._hosted.get(suspect.table)
        if hosted is None or not hosted.table.is_visible or not suspect.position:
            return False
        then, now = Position.parse(suspect.position), Position.parse(applied)
        for view in hosted.views:
            if view.fingerprint == suspect.name and view.born and view.state is not State.CREATING:
                born = Position.parse(view.born)
                return born.term == then.term == now.term and born < then <= now
        return False

    async def is_current(self, name: str, seconds: float) -> bool:
        """Wait until the table of that name is hosted in its present shape; say whether it is within `seconds`."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            hosted = self._hosted.get(name)
            if hosted is not None and hosted.generation == hosted.table.generation and hosted.table.spec is not None:
                return True
            await asyncio.sleep(0.02)
        return False

    def make_room(self) -> bool:
        """Say whether the engine may get a view more; if it is full, those go that nobody looks at."""
        if sum(len(hosted.views) for hosted in self._hosted.values()) < MOST_VIEWS:
            return True
        for hosted in self._hosted.values():
            for view in hosted.lingering():
                hosted.delete(view)
                return True
        return False

    # Sessions --------------------------------------------------------------------------------------------------------

    def open(
        self, write: Write, close: Close = lambda code, reason: None, access: Access = EVERYTHING
    ) -> tuple[Session, Outbox]:
        """Begin a session. `write` takes frames for the viewer, see `Outbox`; `access` is what he may look at."""
        outbox = Outbox(
            write,
            lambda: self._close_slow(session),
            self.counts,
            rows_limit=self.settings.outbox_bytes,
            limit=self.settings.outbox_bytes + self.settings.max_answer_bytes,
        )
        session = Session(self, outbox, access)
        self._sessions[session] = close
        return session, outbox

    def closed(self, session: Session) -> None:
        """Forget a session that has ended."""
        self._sessions.pop(session, None)

    def end(self, session: Session, code: int, reason: str) -> None:
        """Close a viewer's connection with a code and a reason."""
        close = self._sessions.get(session)
        if close is not None:
            session.close()
            close(code, reason)

    def _close_slow(self, session: Session) -> None:
        log.info("closing a slow viewer: %d bytes wait", session.outbox.waiting_bytes)
        self.counts.slow_closes += 1
        self.end(session, SLOW, "too slow")

    async def watch(self) -> None:
        """Close viewers whose token expired, or that accept nothing, answer no ping, or neither ask nor listen, until cancelled."""
        before = time.monotonic()
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            now = time.monotonic()
            if now - before > 3 * SWEEP_SECONDS:  # this process stood still: it heard nobody, and sent nothing
                for session in self._sessions:
                    session.alive_at = session.outbox.progress_at = now
            before = now
            for session in list(self._sessions):
                session.link.tell_stale()
                self._sweep(session, now)
            if any(hosted.give_up(now) > self.settings.stuck_seconds for hosted in self.hosted):
                self.is_stuck.set()

    def _sweep(self, session: Session, now: float) -> None:
        if time.time() >= session.access.expires_at:
            self.counts.expired_closes += 1
            self.end(session, EXPIRED, "the token has expired")
        elif session.outbox.waiting_bytes and now - session.outbox.progress_at > self.settings.stall_seconds:
            self._close_slow(session)
        elif session.outbox.waiting_bytes or not session.may_ask:
            # Our pings come after what waits, and its pongs are not read: only `stall_seconds` says whether it is there.
            session.heard_at = session.alive_at = now
        elif now - session.alive_at > 2 * self.settings.ping_seconds:
            self.counts.silent_closes += 1
            self.end(session, SILENT, "no answer to a ping")
        elif now - session.heard_at > self.settings.idle_seconds and not session.subscriptions:
            self.counts.idle_closes += 1
            self.end(session, IDLE, "nothing was asked for a long time")

    def shed(self, count: int) -> None:
        """Let some viewers go to another node: only those whose link will find one at once."""
        links = [session for session in self._sessions if session.link.is_there]
        for session in random.sample(links, min(count, len(links))):
            self.counts.shed += 1
            self.end(session, LEAVING, "another node has fewer viewers; connect again")

    async def drain(self, seconds: float) -> None:
        """Hand over those who are here, in small lots over `seconds`.

        Whoever comes meanwhile goes last: his load balancer does not know yet, and to refuse him would be an error on his screen.
        """
        leaving = list(self._sessions)
        random.shuffle(leaving)
        size = max(1, -(-len(leaving) // LOTS))
        for start in range(0, len(leaving), size):
            self._hand_over(leaving[start : start + size])
            if start + size < len(leaving):
                await asyncio.sleep(seconds / LOTS * (0.5 + random.random()))
        self._hand_over(list(self._sessions))

    def _hand_over(self, sessions: Iterable[Session]) -> None:
        for session in sessions:
            close = self._sessions.get(session)
            if close is not None:
                close(LEAVING, "this node is leaving; connect again")

    async def close(self) -> None:
        """End what runs."""
        for session in list(self._sessions):
            session.close()
        for hosted in self._hosted.values():
            hosted.close()
        await self.tasks.close()


async def _as_it_is(table: str, position: Position, seconds: float) -> bool:
    return True


async def _nowhere(table: str, op: Op, format: str, data: bytes) -> None:
    raise Refused("this node publishes no edits")

"""A viewer's connection that survives the loss of its node: what `node/page/link.js` does for pages, for Python programs.

The requests that made each live view are kept, what was expanded and collapsed since, and all subscriptions. After a loss they
are made again on the next node, under their ids; what was not answered is asked again; subscribers are told to look again.
"""

import asyncio
import json
import logging
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.websocket import WebSocketClientConnection, WebSocketClosedError, websocket_connect

from parallax import wire
from parallax.errors import ConnectError
from parallax.link_state import Change, LinkState, RefusedToLink, View, Waiting, abort, abort_late, first_number, first_text
from parallax.replication.position import Position
from parallax.tasks import Tasks
from parallax.wire import Envelope, decode

log = logging.getLogger(__name__)

HOSTED, MAKE_VIEW, VIEW_DELETE, TO_ARROW, COLLAPSE, EXPAND, ON_UPDATE, REMOVE_ON_UPDATE = 4, 6, 11, 16, 18, 19, 21, 22
SET_DEPTH, TO_COLUMNS, TABLE_ON_DELETE, TABLE_REMOVE_DELETE, VIEW_ON_DELETE, VIEW_REMOVE_DELETE = 23, 24, 29, 30, 34, 35
HOSTED_END, ON_REMOVE, REMOVE_ON_REMOVE = 37, 39, 40
EDITS = frozenset({27, 28, 31, 32, 33, 38})
UNANSWERED = frozenset({ON_UPDATE, ON_REMOVE, TABLE_ON_DELETE, VIEW_ON_DELETE})

FIRST_OWN_ID = 3_000_000_000  # the client counts its messages from 1: it will not come here
MOST_CHANGES = 200  # expansions that are kept for one view; beyond, the oldest are forgotten
MOST_ROWS = 100_000  # among so many a group is looked for
FIRST_WAIT, LONGEST_WAIT, SLOW_WAIT, HEALTHY = 0.1, 10.0, 2.0, 5.0
FIRST_HELLO, LONGEST_HELLO, MOST_LENIENT = 3.0, 30.0, 32
LEAVING, SLOW, EXPIRED = 1012, 4008, 4401
UNCONFIRMED = "the connection was lost before this edit was confirmed: it may have been made, or not"


class Link:
    """One viewer's. Frames of its client go to `ask`; what comes back is handed to `deliver`."""

    def __init__(
        self,
        url: Callable[[], Awaitable[HTTPRequest]],
        deliver: Callable[[bytes], Awaitable[Any]],
        on_state: Callable[[LinkState], None],
        *,
        timeout_seconds: float,
        probe_seconds: float,
    ) -> None:
        self.state = LinkState("connecting")
        self._url, self._deliver, self._on_state = url, deliver, on_state
        self._timeout, self._probe = timeout_seconds, probe_seconds
        self._socket: WebSocketClientConnection | None = None
        self._is_open = False  # the node greeted us, and all is as before
        self._heard_at = self._live_since = 0.0
        self._pinged_at: float | None = None
        self._given_up = asyncio.Event()  # the node is silent
        self._is_greeted = False
        self._hello_wait = FIRST_HELLO
        self._leniency = 1  # times the patience: a pong stands in line behind an answer that takes long on its way
        self._wait = 0.0
        self._views: dict[str, View] = {}
        self._watches: dict[int, bytes] = {}  # by message id: of deletions, and of the hosted tables
        self._waiting: dict[int, Waiting] = {}
        self._own: dict[int, asyncio.Future[bytes]] = {}
        self._wholes: dict[int, int] = {}  # all rows, which we ask for: our message id -> that of their subscription
        self._next_id = FIRST_OWN_ID
        self._positions: dict[str, Position] = {}
        self._answers: asyncio.Queue[bytes] = asyncio.Queue()
        self._tasks = Tasks()
        self._first: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def open(self) -> None:
        """Connect, and keep connected until `close`.

        Raises:
            ConnectError: no node lets us in within the time-out, or one says that it never will.
        """
        self._tasks.start(self._keep_connected(), name="link")
        self._tasks.start(self._hand_over(), name="answers of a link")
        self._tasks.start(self._watch(), name="probes of a link")
        try:
            async with asyncio.timeout(self._timeout):
                await asyncio.shield(self._first)
        except TimeoutError:
            await self.close()
            raise ConnectError(f"no node answers: {self.state.reason or 'no answer'}") from None
        except ConnectError:
            await self.close()
            raise

    async def close(self) -> None:
        """End the connection for good; whatever waits for an answer fails."""
        self._tell(replace(self.state, name="closed"))
        self._drop()
        for waiting in list(self._waiting.values()):
            self._fail(waiting.request, "the connection was closed")
        while not self._answers.empty():
            await self._deliver(self._answers.get_nowait())
        await self._tasks.close()

    # The connection --------------------------------------------------------------------------------------------------

    async def _keep_connected(self) -> None:
        while True:
            code, reason = 0, ""
            try:
                connecting = websocket_connect(await self._url(), max_message_size=1 << 30)
                try:
                    self._socket = await asyncio.shield(connecting)
                except asyncio.CancelledError:
                    connecting.add_done_callback(abort_late)  # type: ignore[attr-defined]
                    raise
                code, reason = await self._converse(self._socket)
            except HTTPClientError as error:
                body = error.response.body.decode(errors="replace").strip() if error.response and error.response.body else ""
                reason = f"{error.code}: {body or error.message}"
                if error.code in (401, 403, 404) and not self._first.done():
                    self._first.set_exception(ConnectError(reason))
            except Exception as error:  # noqa: BLE001 - whatever a resolver, TLS or somebody's `token` raises: the next time may be better
                reason = f"{type(error).__name__}: {error}"
            self._drop()
            self._tell(replace(self.state, name="reconnecting", reason=reason))
            await asyncio.sleep(self._pause(code))

    def _pause(self, code: int) -> float:
        was_healthy = bool(self._live_since) and time.monotonic() - self._live_since > HEALTHY
        self._live_since = 0.0
        if was_healthy or code in (LEAVING, EXPIRED):
            self._wait, self._hello_wait = 0.0, FIRST_HELLO
        if code == SLOW:
            self._wait = max(self._wait, SLOW_WAIT)
        pause = self._wait * random.uniform(0.5, 1.5) if self._wait else random.uniform(0, 0.02)
        self._wait = min(LONGEST_WAIT, max(FIRST_WAIT, self._wait * 2))
        return pause

    async def _converse(self, socket: WebSocketClientConnection) -> tuple[int, str]:
        """Say hello, and take in what the node says until the connection ends; return why it did."""
        self._heard_at = time.monotonic()
        self._given_up.clear()
        self._is_greeted = False
        positions = {table: str(position) for table, position in self._positions.items()}
        await socket.write_message(json.dumps({"hello": {"positions": positions}}))
        async with Tasks() as tasks:
            reading = tasks.start(self._read(socket, tasks), name="messages of a link")
            silence = tasks.start(self._given_up.wait(), name="silence of a link")
            await asyncio.wait({reading, silence}, return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                return 0, "the node does not answer"
            reading.result()
        return socket.close_code or 0, socket.close_reason or "the connection was lost"

    async def _read(self, socket: WebSocketClientConnection, tasks: Tasks) -> None:
        while (message := await socket.read_message()) is not None:
            self._heard_at, self._pinged_at = time.monotonic(), None
            if isinstance(message, bytes):
                self._receive(message)
                continue
            match json.loads(message):
                case {"hello": {"node": node, "version": version, "behind": behind}}:
                    self._is_greeted = True
                    for table in behind:
                        self._positions.pop(table, None)
                    tasks.start(self._restore(socket, LinkState("live", node, version)), name="restore")
                case {"pong": _}:
                    self._leniency = 1
                case {"position": dict() as told}:
                    for table, text in told.items():
                        position = Position.parse(text)
                        self._positions[table] = max(position, self._positions.get(table, position))
                case {"stale": list() as stale}:
                    self._tell(replace(self.state, stale=tuple(stale)))

    def _drop(self) -> None:
        """Let go of the socket, and settle what depended on it."""
        socket, self._socket, self._is_open, self._pinged_at = self._socket, None, False, None
        if socket is not None:
            abort(socket)
        for future in self._own.values():
            future.cancel()
        self._own.clear()
        self._wholes.clear()
        for waiting in list(self._waiting.values()):
            if waiting.is_sent and waiting.request.number in EDITS:
                self._fail(waiting.request, UNCONFIRMED)

    async def _watch(self) -> None:
        """Probe a node that says nothing, and fail what waits too long."""
        while True:
            await asyncio.sleep(self._probe / 8)
            now = time.monotonic()
            socket = self._socket
            if socket is not None and not self._is_greeted:
                if now - self._heard_at > self._hello_wait:
                    self._hello_wait = min(LONGEST_HELLO, 2 * self._hello_wait)
                    self._given_up.set()
            elif socket is not None and self._pinged_at is not None:
                if now - self._pinged_at > self._probe / 2 * self._leniency:
                    self._leniency = min(MOST_LENIENT, 2 * self._leniency)
                    self._given_up.set()
            elif socket is not None and now - self._heard_at > self._probe:
                self._pinged_at = now
                socket.write_message('{"ping": 0}')
            for waiting in list(self._waiting.values()):
                if now - waiting.since > self._timeout:
                    self._fail(waiting.request, f"no answer within {self._timeout:g} s; the connection is {self.state.name}")

    def _tell(self, state: LinkState) -> None:
        if state != self.state and self.state.name != "closed":
            self.state = state
            self._on_state(state)

    # What the client asks ----------------------------------------------------------------------------------------------

    async def ask(self, frame: bytes) -> None:
        """Take a request of the client; it is sent now, or when there is a connection."""
        self.check_open()
        self.ask_now(frame)

    def check_open(self) -> None:
        """Raise ConnectError after `close`: nobody would answer any more."""
        if self.state.name == "closed":
            raise ConnectError("the connection was closed")

    def ask_now(self, frame: bytes) -> None:
        """Do the same, on the event loop."""
        request = decode(frame)
        view = self._views.get(request.entity_id)
        match request.number:
            case n if n == MAKE_VIEW:
                self._views[first_text(request.body)] = View(request.entity_id, request.body)
            case n if n == VIEW_DELETE:
                self._views.pop(request.entity_id, None)
            case n if n in (COLLAPSE, EXPAND, SET_DEPTH):
                if view is not None:
                    self._note(view, request)
            case n if n in (ON_UPDATE, ON_REMOVE):
                if view is not None:
                    view.subscriptions[request.msg_id] = frame
            case n if n in (REMOVE_ON_UPDATE, REMOVE_ON_REMOVE):
                if view is not None:
                    view.subscriptions.pop(first_number(request.body), None)
            case n if n == HOSTED:
                if first_number(request.body):
                    self._watches[request.msg_id] = frame
            case n if n in (TABLE_ON_DELETE, VIEW_ON_DELETE):
                self._watches[request.msg_id] = frame
            case n if n in (TABLE_REMOVE_DELETE, VIEW_REMOVE_DELETE, HOSTED_END):
                self._watches.pop(first_number(request.body), None)
        if request.number not in UNANSWERED:
            self._waiting[request.msg_id] = Waiting(frame, request, time.monotonic(), self._is_open)
        if self._is_open:
            self._send(frame)

    def _note(self, view: View, request: Envelope) -> None:
        """Keep a change of a view's state, with the path of its group."""
        change = Change(request.number, request.body)
        view.changes = [change] if request.number == SET_DEPTH else [*view.changes, change][-MOST_CHANGES:]
        if request.number != SET_DEPTH and self._is_open:
            self._tasks.start(self._remember_path(change, request.entity_id), name="path of a group")

    async def _remember_path(self, change: Change, view_id: str) -> None:
        row = first_number(change.body)
        try:
            (change.path,) = await self._paths(view_id, row, row + 1)
        except (RefusedToLink, ValueError):
            log.debug("row %d of view %s has no path", row, view_id)

    async def _paths(self, view_id: str, first: int, end: int) -> list[Any]:
        viewport = wire.field(1, first) + wire.field(2, 0) + wire.field(3, end) + wire.field(4, 0)
        answer = await self._ask_own(view_id, TO_COLUMNS, wire.field(1, viewport))
        paths: list[Any] = json.loads(first_text(answer))["__ROW_PATH__"]
        return paths

    def _ask_own(self, entity_id: str, number: int, body: bytes) -> "asyncio.Future[bytes]":
        """Ask something that the client does not know of. The future is cancelled when the connection is lost."""
        self._next_id += 1
        future = self._own[self._next_id] = asyncio.get_running_loop().create_future()
        self._send(Envelope(self._next_id, entity_id, number, body).encode())
        return future

    def _send(self, frame: bytes) -> None:
        if self._socket is not None:
            with suppress(WebSocketClosedError):  # `_converse` ends just now
                self._socket.write_message(frame, binary=True)

    # What the node says ------------------------------------------------------------------------------------------------

    def _receive(self, frame: bytes) -> None:
        response = decode(frame)
        if response.msg_id in self._wholes:
            msg_id = self._wholes.pop(response.msg_id)
            if response.number == wire.SERVER_ERROR:
                log.warning("subscribers of rows were not told of all of them: %s", first_text(response.body))
            else:
                self._answers.put_nowait(response._replace(msg_id=msg_id, number=ON_UPDATE).encode())
            return
        if response.msg_id in self._wholes.values():
            return
        own = self._own.pop(response.msg_id, None)
        if own is not None:
            if own.done():
                return
            if response.number == wire.SERVER_ERROR:
                own.set_exception(RefusedToLink(first_text(response.body)))
            else:
                own.set_result(response.body)
            return
        waiting = self._waiting.pop(response.msg_id, None)
        if waiting is not None and waiting.request.number == MAKE_VIEW:
            view_id = first_text(waiting.request.body)
            if response.number == wire.SERVER_ERROR:
                self._views.pop(view_id, None)
            elif view_id in self._views:
                self._views[view_id].is_made = True
        elif response.number in (VIEW_ON_DELETE, TABLE_ON_DELETE):
            self._watches.pop(response.msg_id, None)
            if response.number == VIEW_ON_DELETE:
                self._views.pop(response.entity_id, None)
        self._answers.put_nowait(frame)

    async def _hand_over(self) -> None:
        while True:
            await self._deliver(await self._answers.get())

    def _fail(self, request: Envelope, text: str) -> None:
        self._waiting.pop(request.msg_id, None)
        if request.number == MAKE_VIEW:
            self._views.pop(first_text(request.body), None)
        self._answers.put_nowait(wire.error(request.msg_id, request.entity_id, text).encode())

    # After a loss --------------------------------------------------------------------------------------------------------

    async def _restore(self, socket: WebSocketClientConnection, state: LinkState) -> None:
        """Make everything on a new connection as it was on the last one."""
        made = {view_id: view for view_id, view in self._views.items() if view.is_made}
        results = await asyncio.gather(*(self._remake(*item) for item in made.items()), return_exceptions=True)
        if self._socket is not socket:
            return
        for view_id, result in zip(made, results, strict=True):
            if isinstance(result, RefusedToLink):
                self._bury(view_id, result)
        for view_id, view in made.items():
            if self._views.get(view_id) is view:
                self._subscribe(view_id, view)
        for frame in self._watches.values():
            self._send(frame)
        self._is_open = True
        for msg_id, waiting in list(self._waiting.items()):
            if waiting.request.number == VIEW_DELETE:  # on this connection, it never was there
                del self._waiting[msg_id]
                self._answers.put_nowait(waiting.request._replace(body=b"").encode())
            elif msg_id not in self._watches:
                waiting.is_sent = True
                self._send(waiting.frame)
        self._live_since = time.monotonic()
        self._tell(state)
        if not self._first.done():
            self._first.set_result(None)

    async def _remake(self, view_id: str, view: View) -> None:
        await self._ask_own(view.table, MAKE_VIEW, view.make)
        for change in view.changes:
            if change.number == SET_DEPTH:
                await self._ask_own(view_id, SET_DEPTH, change.body)
            elif change.path is not None:
                paths = await self._paths(view_id, 0, MOST_ROWS)
                if change.path in paths:
                    await self._ask_own(view_id, change.number, wire.field(1, paths.index(change.path)))

    def _subscribe(self, view_id: str, view: View) -> None:
        """Subscribe as before, and tell subscribers to look again: everything may have changed.

        Those of rows get all rows as their next delta; what else comes before it is among them.
        """
        for msg_id, frame in view.subscriptions.items():
            self._send(frame)
            request = decode(frame)
            if request.number == ON_UPDATE and 1 in wire.fields(request.body):
                self._next_id += 1
                self._wholes[self._next_id] = msg_id
                self._send(Envelope(self._next_id, view_id, TO_ARROW, b"").encode())
            elif request.number == ON_UPDATE:
                self._answers.put_nowait(Envelope(msg_id, view_id, ON_UPDATE, b"").encode())

    def _bury(self, view_id: str, refused: RefusedToLink) -> None:
        """Let go of a view that cannot be made any more."""
        log.warning("view %s is gone: %s", view_id, refused)
        self._views.pop(view_id, None)
        for msg_id, frame in list(self._watches.items()):
            watch = decode(frame)
            if (watch.number, watch.entity_id) == (VIEW_ON_DELETE, view_id):
                del self._watches[msg_id]
                self._answers.put_nowait(Envelope(msg_id, view_id, VIEW_ON_DELETE, b"").encode())

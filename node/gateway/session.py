"""One viewer: its requests are checked, answered from shared views, and put under its own ids."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from node.auth import Access
from node.gateway import configs, edits, messages, safety
from node.gateway.answers import Answer
from node.gateway.deletions import OF_TABLE, OF_VIEW, Deletions
from node.gateway.hosted import Hosted
from node.gateway.link import Link
from node.gateway.outbox import Frame, Outbox
from node.gateway.quarantine import OVERDUE, Overdue
from node.gateway.requests import (
    CHANGE_STATE,
    COLUMN_PATHS,
    DATA,
    DESCRIBE,
    DIMENSIONS,
    ENDS_ON_DELETE,
    FEATURES,
    HOSTED,
    HOSTED_END,
    MAKE_PORT,
    MAKE_VIEW,
    OF_TABLES,
    ON_DELETE,
    ON_REMOVE,
    PORT,
    SUBSCRIBE,
    SYSTEM_INFO,
    SYSTEM_INFO_ANSWER,
    TABLE_READS,
    TABLE_SCHEMA,
    TABLE_SIZE,
    UNSUBSCRIBE,
    VALIDATE,
    VIEW_DELETE,
    VIEW_READS,
    WRITES,
    canonical,
    is_cheap,
)
from node.gateway.shared_view import PLAIN, REMOVED, ROWS, Subscription
from node.gateway.views import View, Views, bound_subscriptions
from parallax.replica.engine import StaleGeneration
from parallax.wire import Envelope, Malformed, Refused, Status, decode, error, head

if TYPE_CHECKING:
    from node.gateway.gateway import Gateway

log = logging.getLogger(__name__)

MOST_WAITING = 64
"""Requests of one viewer that may wait for the engine; with more, the next is not read from the socket."""
REMAKE_SECONDS = 2.0
"""How long a request waits for a table that is made anew with another shape."""


class Session:
    """One viewer's websocket, without the websocket.

    Requests about one view are handled in their order, and one after the other; different views do not wait for each other.
    """

    def __init__(self, gateway: "Gateway", outbox: Outbox, access: Access) -> None:
        self.outbox = outbox
        self.access = access
        """Tables that it does not let the viewer read are not there for him."""
        self.heard_at = self.alive_at = time.monotonic()
        """When the viewer last asked for something; when it last gave a sign of life, or could not give one."""
        self.link = Link(gateway, outbox, access)
        self._gateway = gateway
        self._views = Views(gateway, outbox)
        self._chains: dict[tuple[bool, str], deque[Callable[[], Any]]] = {}  # what waits, by (of a table?, entity)
        self._tasks: dict[tuple[bool, str], asyncio.Task[None]] = {}  # one for each chain
        self._waiting = 0
        self._has_turn = asyncio.Event()  # cleared while more than MOST_WAITING requests wait
        self._has_turn.set()
        self._large = asyncio.Lock()  # one answer of any size at a time: they would not fit into the outbox together
        self._deletions = Deletions(outbox, gateway.settings.max_views)
        self._hosted_subscriptions: set[int] = set()
        self._is_closed = False

    @property
    def views(self) -> int:
        """How many views the viewer has."""
        return len(self._views)

    @property
    def subscriptions(self) -> int:
        """How many subscriptions the viewer has."""
        return self._views.subscriptions + len(self._deletions) + len(self._hosted_subscriptions)

    @property
    def may_ask(self) -> bool:
        """Say whether the next request may be read from the socket."""
        return self._waiting < MOST_WAITING and self.outbox.has_room

    async def turn(self) -> None:
        """Wait until it may."""
        await self._has_turn.wait()
        await self.outbox.room()

    def receive(self, frame: bytes) -> None:
        """Take in one frame; the answer goes to the outbox, at once or later. Nothing that a frame holds makes it raise."""
        if self._is_closed:  # and the viewer has not gone yet
            return
        self.heard_at = self.alive_at = started = time.monotonic()
        try:
            request = decode(frame)
        except Malformed as wrong:
            self._gateway.counts.refused += 1
            self._send(error(wrong.msg_id, wrong.entity_id, str(wrong)))
            return
        try:
            message = messages.parse("MakeView", request.body) if request.number == MAKE_VIEW else None
            entity = request.entity_id if message is None else message.view_id
            key = (request.number in OF_TABLES, entity)
            if key not in self._chains and message is None and self._at_once(request):
                self._gateway.observe(request.number, started)
                return
        except StaleGeneration:
            log.debug("%r is being made anew", request.entity_id)  # it is waited for below
        except Exception as wrong:  # noqa: BLE001 - answered
            self._answer_error(request, wrong)
            return
        self._enqueue(key, lambda: self._handle(request, message, started))

    def close(self) -> None:
        """End the session; its views are let go."""
        if self._is_closed:
            return
        self._is_closed = True
        self.outbox.close()
        self._has_turn.set()
        for task in self._tasks.values():
            task.cancel()
        self._views.clear()
        self._gateway.closed(self)

    # Order -----------------------------------------------------------------------------------------------------------

    def _enqueue(self, key: tuple[bool, str], job: Callable[[], Any]) -> None:
        self._waiting += 1
        if self._waiting >= MOST_WAITING:
            self._has_turn.clear()
        chain = self._chains.get(key)
        if chain is None:
            chain = self._chains[key] = deque()
            self._tasks[key] = self._gateway.tasks.start(self._work(key, chain), name="requests of a viewer")
        chain.append(job)

    async def _work(self, key: tuple[bool, str], chain: deque[Callable[[], Any]]) -> None:
        try:
            while chain:
                await self.outbox.room()
                await chain.popleft()()
                self._waiting -= 1
                if self._waiting < MOST_WAITING:
                    self._has_turn.set()
        finally:
            del self._chains[key]
            del self._tasks[key]

    async def _handle(self, request: Envelope, message: Any, started: float) -> None:
        deadline = time.monotonic() + REMAKE_SECONDS
        try:
            while True:
                try:
                    await self._perform(request, message)
                    break
                except StaleGeneration:
                    if time.monotonic() > deadline or not await self._made_anew(request):
                        raise
        except Exception as wrong:  # noqa: BLE001 - answered: one request must not cost a viewer the connection
            self._answer_error(request, wrong)
        self._gateway.observe(request.number, started)

    def _answer_error(self, request: Envelope, wrong: Exception) -> None:
        status = Status.SERVER_ERROR
        match wrong:
            case Refused():
                text, status = str(wrong), wrong.status
            case messages.DecodeError() | messages.UnknownFields():
                text = f"request {request.number} is not readable: {wrong}"
            case StaleGeneration():
                text = f"{request.entity_id!r} is gone: its table was dropped, or changed its schema"
                status = Status.VIEW_NOT_FOUND
            case _:
                log.error("request %d could not be handled", request.number, exc_info=wrong)
                text = "the request could not be handled"
        self._gateway.counts.refused += 1
        self._send(error(request.msg_id, request.entity_id, text, status))
        if isinstance(wrong, Overdue):
            asyncio.get_running_loop().call_soon(self._gateway.end, self, OVERDUE, "a view takes too long")  # said before

    # Requests that need not wait -------------------------------------------------------------------------------------

    def _at_once(self, request: Envelope) -> bool:
        """Answer a request now if that can be done without waiting; say whether it was."""
        number = request.number
        if number in VIEW_READS:
            view = self._view(request)
            if number in CHANGE_STATE:
                return False
            body = canonical(VIEW_READS[number], request.body)
            hosted, answers = view.hosted, view.shared.answers
            answer = hosted.known(answers, number, body)
            if answer is None and is_cheap(number, body, view.config, hosted.columns):
                answer = hosted.read_at_once(answers, number, body)
            if answer is None:
                return False
            self._pass_on(request, hosted, answer)
        elif number in (TABLE_SCHEMA, TABLE_SIZE):
            hosted = self._table(request)
            body = canonical("Empty", request.body)
            answer = hosted.known(hosted.answers, number, body) or hosted.read_at_once(hosted.answers, number, body)
            if answer is None:
                return False
            self._pass_on(request, hosted, answer)
        elif number == FEATURES:
            self._reply(request, messages.encode(safety.offered()))
        elif number == HOSTED:
            self._hosted(request)
        elif number == HOSTED_END:
            self._hosted_subscriptions.discard(messages.parse("Id", request.body).id)
            self._reply(request, b"")
        elif number == SYSTEM_INFO:
            self._reply(request, SYSTEM_INFO_ANSWER)
        elif number == MAKE_PORT:
            self._table(request)
            self._reply(request, PORT)  # a port of the engine would leak; this number stands on no notification
        elif number in ON_DELETE:
            (self._table if request.number == OF_TABLE else self._view)(request)
            self._deletions.watch(request)
        elif number in ENDS_ON_DELETE:
            self._deletions.forget(messages.parse("Id", request.body).id)
            self._reply(request, b"")
        elif number in UNSUBSCRIBE:
            self._unsubscribe(request)
        elif number in WRITES and number not in edits.EDITS:
            raise Refused(f"{WRITES[number]} is refused: tables are read-only for viewers")
        elif number not in TABLE_READS and number not in edits.EDITS and number not in SUBSCRIBE and number != VIEW_DELETE:
            raise Refused(f"unknown request {number}" if number else "a request without a body")
        else:
            return False
        return True

    def _hosted(self, request: Envelope) -> None:
        if messages.parse("HostedTables", request.body).subscribe:
            bound_subscriptions(len(self._hosted_subscriptions), self._gateway.settings.max_views)
            self._hosted_subscriptions.add(request.msg_id)
        answer = messages.new("Hosted")
        for hosted in self._gateway.hosted:
            spec = hosted.table.spec
            if spec is None or not self.access.may_read(spec.name):
                continue
            info = answer.table_infos.add(entity_id=spec.name)
            if spec.index is not None:
                info.index = spec.index
            if spec.limit is not None:
                info.limit = spec.limit
        self._reply(request, messages.encode(answer))

    def _unsubscribe(self, request: Envelope) -> None:
        self._views.unsubscribe(self._view(request), messages.parse("Id", request.body).id)
        self._reply(request, b"")

    # Requests that may have to wait ----------------------------------------------------------------------------------

    async def _perform(self, request: Envelope, message: Any) -> None:
        number = request.number
        if number == MAKE_VIEW:
            await self._views.make(self._table(request), message.view_id, message.config)
            self._reply(request, messages.encode(messages.new("MadeView", view_id=message.view_id)))
        elif number in CHANGE_STATE:
            parsed = messages.parse(VIEW_READS[number], request.body)
            safety.cut_numbers(parsed)
            view = self._view(request)
            self._pass_on(request, view.hosted, await self._views.change_state(view, number, messages.encode(parsed)))
        elif number in VIEW_READS:
            view = self._view(request)
            body = canonical(VIEW_READS[number], request.body)
            if is_cheap(number, body, view.config, view.hosted.columns):
                # Hundreds of viewers ask after each poll: for all of them to change threads would cost more than the answers.
                await view.hosted.table.freed()
                if not self._at_once(request):
                    self._pass_on(request, view.hosted, await view.read(number, body, is_cheap=True))
                return
            parsed = messages.parse(VIEW_READS[number], body)
            if number == COLUMN_PATHS and parsed.HasField("start_col"):
                dimensions = await view.hosted.read(view.shared.answers, DIMENSIONS, b"")
                if dimensions.number == DIMENSIONS:
                    safety.cut_columns(parsed, messages.parse("Dimensions", dimensions.body).num_view_columns)
            async with self._large:
                await self.outbox.room()
                self._pass_on(request, view.hosted, await view.read(number, messages.encode(parsed)))
        elif number in TABLE_READS:
            await self._read_table(request)
        elif number in edits.EDITS:
            hosted = self._table(request)
            await edits.publish(number, request.body, hosted.spec, self.access, self._gateway.publish)
            self.link.tell_position(hosted)
            self._reply(request, b"")
        elif number in SUBSCRIBE:
            message = messages.parse(SUBSCRIBE[number], request.body)
            kind = REMOVED if number == ON_REMOVE else ROWS if message.HasField("mode") else PLAIN
            view = self._view(request)
            before = partial(self.link.tell_position, view.hosted)
            subscription = Subscription(self.outbox, request.msg_id, request.entity_id, number, kind, before)
            await self._views.subscribe(view, request.msg_id, subscription)
        elif number == VIEW_DELETE:
            self._view(request)
            self._end(request.entity_id)
            self._reply(request, b"")
        elif not self._at_once(request):
            raise Refused(f"request {number} could not be answered")

    async def _read_table(self, request: Envelope) -> None:
        hosted, number = self._table(request), request.number
        message = messages.parse(TABLE_READS[number], request.body)
        if number == DESCRIBE:
            self._reply(request, messages.encode(await configs.describe_safely(hosted, message.config)))
        elif number == VALIDATE:  # of clients up to 5.5
            self._reply(request, messages.encode(await configs.validate(hosted, message.expressions)))
        else:
            self._pass_on(request, hosted, await hosted.read(hosted.answers, number, messages.encode(message)))

    # What happens to tables ------------------------------------------------------------------------------------------

    def hosted_tables_changed(self) -> None:
        """Tell a viewer who asked for it."""
        for msg_id in self._hosted_subscriptions:
            self._send(Envelope(msg_id, "", 0, b""))

    def table_removed(self, name: str) -> None:
        """Tell the viewer that a table, and its views of it, are no more."""
        self._deletions.tell(OF_TABLE, name)
        for client_id in self._views.of_table(name):
            self._end(client_id)

    def table_made_anew(self, name: str) -> None:
        """Make the views of a table again, now that it has another shape."""
        for client_id in self._views.of_table(name):
            self._enqueue((False, client_id), partial(self._make_again, client_id))

    async def _make_again(self, client_id: str) -> None:
        name = self._views.table_of(client_id)
        if not await self._views.make_again(client_id):
            self._end(client_id)
            self._deletions.tell(OF_TABLE, name)

    def _end(self, client_id: str) -> None:
        if self._views.delete(client_id):
            self._deletions.tell(OF_VIEW, client_id)

    async def _made_anew(self, request: Envelope) -> bool:
        """Wait for the table's next shape, under which a request can be tried again; say whether there is one."""
        is_of_table = request.number in OF_TABLES or request.number == MAKE_VIEW
        name = request.entity_id if is_of_table else self._views.table_of(request.entity_id)
        if not name or not await self._gateway.is_current(name, REMAKE_SECONDS):
            return False
        if not is_of_table:
            await self._make_again(request.entity_id)
            return self._views.find(request.entity_id) is not None
        return True

    # Ids and answers ---------------------------------------------------------------------------------------------------

    def _table(self, request: Envelope) -> Hosted:
        hosted = self._gateway.find(request.entity_id) if self.access.may_read(request.entity_id) else None
        if hosted is None:
            raise Refused(f"there is no table {request.entity_id!r} here")
        return hosted

    def _view(self, request: Envelope) -> View:
        view = self._views.find(request.entity_id)
        if view is None:
            raise Refused(f"this session has no view {request.entity_id!r}", Status.VIEW_NOT_FOUND)
        return view

    def _reply(self, request: Envelope, body: bytes) -> None:
        self._send(Envelope(request.msg_id, request.entity_id, request.number, body))

    def _pass_on(self, request: Envelope, hosted: Hosted, answer: Answer) -> None:
        self.link.tell_position(hosted)
        self.outbox.put(Frame(head(request.msg_id, request.entity_id, answer.number, len(answer.body)), answer.body))
        if answer.number in DATA and hosted.table.stages is not None and hosted.table.stages.is_awaited:
            hosted.table.stages.fetched()

    def _send(self, envelope: Envelope) -> None:
        front = head(envelope.msg_id, envelope.entity_id, envelope.number, len(envelope.body))
        self.outbox.put(Frame(front, envelope.body))

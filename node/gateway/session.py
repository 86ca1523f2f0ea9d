"""One viewer: its requests are checked, put to the engine under our ids, and answered under its own."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from node.gateway import messages, safety
from node.gateway.backend import Backend
from node.gateway.wire import SERVER_ERROR, Envelope, Malformed, Refused, Status, decode, error
from parallax.replica.engine import MOST_VIEWS, StaleGeneration

if TYPE_CHECKING:
    from node.gateway.gateway import Gateway

log = logging.getLogger(__name__)

FEATURES, HOSTED, HOSTED_END, MAKE_PORT, MAKE_VIEW = 3, 4, 37, 5, 6
VALIDATE, DESCRIBE, SYSTEM_INFO, VIEW_DELETE = 9, 41, 17, 11
COLUMN_PATHS, DIMENSIONS, ON_UPDATE = 10, 12, 21
CHANGE_STATE = {18, 19, 23}  # collapse, expand, depth
TABLE_READS = {7: "Empty", 8: "Empty", VALIDATE: "ValidateExpressions", DESCRIBE: "Describe"}
VIEW_READS = {
    10: "ColumnPaths",
    12: "Empty",
    13: "Empty",
    14: "Empty",
    15: "Empty",
    16: "ToArrow",
    18: "RowIndex",
    19: "RowIndex",
    20: "MinMax",
    23: "Depth",
    24: "ToText",
    25: "ToCsv",
    26: "ToText",
    36: "ToText",
}
SUBSCRIBE = {21: "OnUpdate", 39: "Empty"}  # to a view; 22 and 40 end it
UNSUBSCRIBE = {22: 21, 40: 39}
ON_DELETE = {29: 30, 34: 35}  # of a table, of a view; and what ends it
WRITES = {27: "MakeTable", 38: "MakeJoinTable", 28: "TableDelete", 31: "TableRemove", 32: "TableReplace", 33: "TableUpdate"}
PORT = b"\x08\x01"
SYSTEM_INFO_ANSWER = b"\x08\x00\x10\x00"


@dataclass(slots=True)
class View:
    """A view of this session: the engine knows it under another id."""

    backend: Backend
    engine_id: str
    config: Any  # as it was checked
    subscriptions: dict[int, tuple[int, int]] = field(default_factory=dict)  # the client's msg_id -> (kind, the engine's)


class Session:
    """One viewer's websocket, without the websocket. Requests are handled one after the other, in their order."""

    def __init__(self, gateway: "Gateway", send: Callable[[Envelope], None]) -> None:
        self._gateway = gateway
        self._send = send
        self._views: dict[str, View] = {}  # by the client's id; at most `max_views`
        self._on_delete: dict[int, tuple[int, str]] = {}  # the client's msg_id -> (kind, entity); at most as many
        self._hosted_subscriptions: set[int] = set()
        self._is_closed = False

    @property
    def views(self) -> int:
        """How many views the viewer has."""
        return len(self._views)

    async def receive(self, frame: bytes) -> None:
        """Handle one frame, answered when this returns. Nothing that a frame holds makes it raise."""
        try:
            request = decode(frame)
        except Malformed as wrong:
            self._answer(error(wrong.msg_id, wrong.entity_id, str(wrong)))
            return
        try:
            await self._handle(request)
        except Refused as refusal:
            self._answer(error(request.msg_id, request.entity_id, str(refusal), refusal.status))
        except (messages.DecodeError, messages.UnknownFields) as wrong:
            self._answer(error(request.msg_id, request.entity_id, f"request {request.number} is not readable: {wrong}"))
        except StaleGeneration:
            text = f"{request.entity_id!r} is gone: its table was dropped, or changed its schema"
            self._answer(error(request.msg_id, request.entity_id, text, Status.VIEW_NOT_FOUND))
        except Exception:  # one request must not cost a viewer the connection
            log.exception("request %d could not be handled", request.number)
            self._answer(error(request.msg_id, request.entity_id, "the request could not be handled"))

    def close(self) -> None:
        """End the session; its views are deleted in their turn."""
        self._is_closed = True
        self._gateway.closed(self)

    async def delete_views(self) -> None:
        """Delete all views in the engine."""
        for client_id in list(self._views):
            view = self._views.pop(client_id)
            await self._delete(view)

    # What happens to tables ----------------------------------------------------------------------------------------

    def hosted_tables_changed(self) -> None:
        """Tell a viewer who asked for it."""
        for msg_id in self._hosted_subscriptions:
            self._answer(Envelope(msg_id, "", 0, b""))

    def table_removed(self, name: str) -> None:
        """Tell the viewer that a table, and its views of it, are no more."""
        gone = {client_id for client_id, view in self._views.items() if view.backend.table.name == name}
        for client_id in gone:
            del self._views[client_id]
        for msg_id, (kind, entity) in list(self._on_delete.items()):
            if (kind == 29 and entity == name) or (kind == 34 and entity in gone):
                del self._on_delete[msg_id]
                self._answer(Envelope(msg_id, entity, kind, b""))

    # Requests --------------------------------------------------------------------------------------------------------

    async def _handle(self, request: Envelope) -> None:
        number = request.number
        if number == FEATURES:
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
        elif number == MAKE_VIEW:
            await self._make_view(request)
        elif number in TABLE_READS:
            await self._read_table(request)
        elif number in VIEW_READS:
            await self._read_view(request)
        elif number == VIEW_DELETE:
            await self._delete_view(request)
        elif number in SUBSCRIBE:
            await self._subscribe(request)
        elif number in UNSUBSCRIBE:
            await self._unsubscribe(request)
        elif number in ON_DELETE:
            self._watch_deletion(request)
        elif number in ON_DELETE.values():
            self._on_delete.pop(messages.parse("Id", request.body).id, None)
            self._reply(request, b"")
        elif number in WRITES:
            raise Refused(f"{WRITES[number]} is refused: tables are read-only for viewers")
        else:
            raise Refused(f"unknown request {number}" if number else "a request without a body")

    def _hosted(self, request: Envelope) -> None:
        subscribe = messages.parse("HostedTables", request.body).subscribe
        if subscribe:
            self._hosted_subscriptions.add(request.msg_id)
        answer = messages.new("Hosted")
        for backend in self._gateway.hosted:
            spec = backend.table.spec
            if spec is None:
                continue
            info = answer.table_infos.add(entity_id=spec.name)
            if spec.index is not None:
                info.index = spec.index
            if spec.limit is not None:
                info.limit = spec.limit
        self._reply(request, messages.encode(answer))

    async def _read_table(self, request: Envelope) -> None:
        backend, number = self._table(request), request.number
        message = messages.parse(TABLE_READS[number], request.body)
        if number == DESCRIBE:
            self._reply(request, messages.encode(await self._describe(backend, message.config)))
        elif number == VALIDATE:  # of clients up to 5.5
            self._reply(request, messages.encode(await self._validate(backend, message.expressions)))
        else:
            self._pass_on(request, await backend.ask(request.entity_id, number, messages.encode(message)))

    async def _describe(self, backend: Backend, config: Any) -> Any:
        """Return what the engine says of a configuration; what it would not survive is said in the same way."""
        found = await backend.describe(safety.only_expressions(config.expressions))
        if found.expression_errors:
            return found
        try:
            safety.check_config(config, safety.column_types(backend.spec, found.expression_schema))
        except Refused as refused:
            found.config_error = str(refused)
            return found
        return await backend.describe(config)

    async def _validate(self, backend: Backend, expressions: Any) -> Any:
        found = await backend.describe(safety.only_expressions(expressions))
        if found.config_error:
            raise Refused(found.config_error)
        validated = messages.new("ValidatedExpressions")
        validated.expression_alias.update(expressions)
        validated.expression_schema.update(found.expression_schema)
        for name, problem in found.expression_errors.items():
            validated.errors[name].CopyFrom(problem)
        return validated

    async def _read_view(self, request: Envelope) -> None:
        view, number = self._view(request), request.number
        message = messages.parse(VIEW_READS[number], request.body)
        safety.cut_numbers(message)
        if number in CHANGE_STATE:
            safety.check_state_change(view.config)
        if number == COLUMN_PATHS and message.HasField("start_col"):
            dimensions = await view.backend.ask(view.engine_id, DIMENSIONS, b"")
            if dimensions is not None and dimensions.number == DIMENSIONS:
                safety.cut_columns(message, messages.parse("Dimensions", dimensions.body).num_view_columns)
        self._pass_on(request, await view.backend.ask(view.engine_id, number, messages.encode(message)))

    async def _make_view(self, request: Envelope) -> None:
        backend = self._table(request)
        message = messages.parse("MakeView", request.body)
        client_id = message.view_id
        if not client_id:
            raise Refused("a view needs an id")
        if client_id in self._views:
            raise Refused(f"this session has a view {client_id!r} already")
        if len(self._views) >= self._gateway.settings.max_views:
            raise Refused(f"this session has {len(self._views)} views; more are not allowed (PARALLAX_MAX_VIEWS)")
        if self._gateway.views >= MOST_VIEWS:
            raise Refused(f"this node holds {self._gateway.views} views and can hold no more; try again later")
        engine_id = message.view_id = backend.new_view_id()
        view = self._views[client_id] = View(backend, engine_id, message.config)
        try:
            await self._check_config(backend, message.config)
            answer = await backend.ask(request.entity_id, MAKE_VIEW, messages.encode(message), opens=engine_id)
        except BaseException:
            self._views.pop(client_id, None)
            raise
        if answer is None or answer.number == SERVER_ERROR:
            self._views.pop(client_id, None)
            await self._delete(view)  # it is not there, but the engine's facade has its id
            self._pass_on(request, answer)
            return
        if self._is_closed or self._views.get(client_id) is not view:
            await self._delete(view)
            return
        made = messages.new("MadeView")
        made.view_id = client_id
        self._reply(request, messages.encode(made))

    async def _check_config(self, backend: Backend, config: Any) -> None:
        made: Any = {}
        if config.expressions:
            found = await backend.describe(safety.only_expressions(config.expressions))
            for name, problem in found.expression_errors.items():
                raise Refused(f"expression {name!r}: {problem.error_message}")
            made = found.expression_schema
        safety.check_config(config, safety.column_types(backend.spec, made))

    async def _delete_view(self, request: Envelope) -> None:
        view = self._view(request)
        del self._views[request.entity_id]
        await self._delete(view)
        for msg_id, (kind, entity) in list(self._on_delete.items()):
            if kind == 34 and entity == request.entity_id:
                del self._on_delete[msg_id]
                self._answer(Envelope(msg_id, entity, kind, b""))
        self._reply(request, b"")

    async def _delete(self, view: View) -> None:
        for _, engine_msg_id in view.subscriptions.values():
            view.backend.unsubscribe(engine_msg_id)
        try:
            await view.backend.ask(view.engine_id, VIEW_DELETE, b"", closes=view.engine_id)
        except StaleGeneration:
            log.debug("view %s went with its table", view.engine_id)

    async def _subscribe(self, request: Envelope) -> None:
        view = self._view(request)
        message = messages.parse(SUBSCRIBE[request.number], request.body)
        takes_rows = request.number != ON_UPDATE or message.HasField("mode")
        if takes_rows and request.number == ON_UPDATE:
            safety.check_row_deltas(view.config)
        if len(view.subscriptions) >= self._gateway.settings.max_views:
            raise Refused("too many subscriptions to one view")

        def notify(frame: Envelope) -> None:
            # The engine sends rows to all subscribers of a view once one of them wants rows.
            body = frame.body if takes_rows or frame.number != ON_UPDATE else b""
            self._answer(Envelope(request.msg_id, request.entity_id, frame.number, body))

        body = messages.encode(message)
        engine_msg_id = await view.backend.subscribe(view.engine_id, request.number, body, notify)
        view.subscriptions[request.msg_id] = (request.number, engine_msg_id)

    async def _unsubscribe(self, request: Envelope) -> None:
        view = self._view(request)
        subscription = view.subscriptions.pop(messages.parse("Id", request.body).id, None)
        if subscription is not None:
            body = messages.new("Id")
            body.id = subscription[1]
            await view.backend.ask(view.engine_id, request.number, messages.encode(body))
            view.backend.unsubscribe(subscription[1])
        self._reply(request, b"")

    def _watch_deletion(self, request: Envelope) -> None:
        if request.number == 29:
            self._table(request)
        else:
            self._view(request)
        if len(self._on_delete) >= 4 * self._gateway.settings.max_views:
            raise Refused("too many subscriptions")
        self._on_delete[request.msg_id] = (request.number, request.entity_id)

    # Ids and answers ---------------------------------------------------------------------------------------------------

    def _table(self, request: Envelope) -> Backend:
        backend = self._gateway.backend(request.entity_id)
        if backend is None:
            raise Refused(f"there is no table {request.entity_id!r} here")
        return backend

    def _view(self, request: Envelope) -> View:
        view = self._views.get(request.entity_id)
        if view is None:
            raise Refused(f"this session has no view {request.entity_id!r}", Status.VIEW_NOT_FOUND)
        return view

    def _reply(self, request: Envelope, body: bytes) -> None:
        self._answer(Envelope(request.msg_id, request.entity_id, request.number, body))

    def _pass_on(self, request: Envelope, answer: Envelope | None) -> None:
        if answer is None:
            raise Refused("the engine gave no answer")
        self._answer(Envelope(request.msg_id, request.entity_id, answer.number, answer.body))

    def _answer(self, envelope: Envelope) -> None:
        if not self._is_closed:
            self._send(envelope)

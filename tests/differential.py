"""The gateway beside a stock Perspective server: the same requests, the same data at the same moments, the same answers.

Whatever a table of the node's engine is told (updates, polls) goes to a server of its own as it comes from Perspective, too. For
each view that the gateway makes in its engine, one is made there at that moment: a session that is given an older view, because
another has the same configuration, is held against that older one.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from node.gateway import Gateway, messages, safety
from node.gateway.outbox import Frame
from node.settings import NodeSettings
from parallax.replica.engine import Engine, EngineTable, to_ipc
from parallax.replication.record import Op
from parallax.replication.spec import TableSpec
from parallax.wire import SERVER_ERROR, Envelope, decode
from tests.differential_answers import Different, compare, rows_of, same_values
from tests.differential_requests import COLUMNS, KINDS, WRITES, Action
from tests.differential_stock import Stock
from tests.processes import PATIENCE

SPECS = {name: TableSpec.declare(name, {"schema": COLUMNS} | kind) for name, kind in KINDS.items()}

REFUSALS = (
    "tables are read-only for viewers",  # writes
    "this view is not grouped into a tree",  # its depth; the process may end
    "row updates of a view with more than one split_by column are not available",  # the process may end
    "a view that is grouped or split cannot have a filter of which any term",  # wrong numbers; the process may end
    "this session has no view",  # here a view is the session's own
)
"""What the gateway refuses and Perspective may not: then only the gateway is asked."""

CONSTANT = {5: b"\x08\x01", 17: b"\x08\x00\x10\x00"}
"""Answers that the gateway gives by itself: a port, the state of the server."""

SILENT = {21, 39, 29, 34}
"""Subscriptions, which are not answered, and the numbers of what they are sent."""

ENDS = {22: 21, 40: 39, 30: 29, 35: 34}
STATE = {18, 19, 23}


@dataclass(frozen=True)
class Told:
    """What a stock view tells, and under which message id."""

    msg_id: int
    has_rows: bool


@dataclass(eq=False)
class Twin:
    """A view of the gateway's engine, and the stock one that was made at the same moment."""

    engine_id: str
    stock_id: str
    table: str
    config: bytes
    hears: str = "plain"
    is_private: bool = False
    told: dict[int, Told] = field(default_factory=dict)  # by kind


@dataclass(eq=False)
class View:
    """A view of a session."""

    table: str
    config: bytes
    twin: Twin
    others: dict[str, Twin] = field(default_factory=dict)  # where rows come from, by kind, if not from `twin`
    subscriptions: dict[int, tuple[int, bytes, Twin]] = field(default_factory=dict)  # kind, body, where
    watches: set[int] = field(default_factory=set)


class Viewer:
    """A session of the gateway, and what it was sent."""

    def __init__(self, gateway: Gateway) -> None:
        self.answers: dict[int, list[Envelope]] = {}
        self.notes: dict[int, list[Envelope]] = {}
        self.silent: set[int] = set()
        self.views: dict[str, View] = {}
        self.arrived = asyncio.Event()
        self.session, self.outbox = gateway.open(self._took)

    def _took(self, sent: Sequence[Frame]) -> None:
        for head, body, _ in sent:
            self.outbox.accepted(len(head) + len(body))
            envelope = decode(head + body)
            is_note = envelope.msg_id in self.silent and envelope.number != SERVER_ERROR
            (self.notes if is_note else self.answers).setdefault(envelope.msg_id, []).append(envelope)
        self.arrived.set()

    async def put(self, request: Envelope) -> None:
        """Hand a frame to the session, which may be answered later."""
        self.session.receive(request.encode())
        await asyncio.sleep(0)

    async def ask(self, request: Envelope) -> Envelope:
        """Ask, and wait for the answer."""
        await self.put(request)
        async with asyncio.timeout(20 * PATIENCE):
            while request.msg_id not in self.answers:
                self.arrived.clear()
                await self.arrived.wait()
        answers = self.answers.pop(request.msg_id)
        if len(answers) != 1:
            raise Different(f"{len(answers)} answers to one request: {answers}")
        return answers[0]


# The comparison -------------------------------------------------------------------------------------------------------


class Comparison:
    """Both sides. `perform` takes one action and raises `Different`; `asked` counts the requests of each kind."""

    def __init__(self) -> None:
        self.asked: Counter[int] = Counter()
        self.happened: Counter[str] = Counter()
        self._fills = 0  # so often the last change may have filled an empty table
        self._viewers: dict[int, Viewer] = {}
        self._twins: list[Twin] = []
        self._engine = Engine(frame_seconds=3600)  # polls come when they are told to
        self._tables: dict[str, EngineTable] = {}
        self._stocks: dict[str, Stock] = {}

    async def start(self, rows: dict[str, Any]) -> None:
        """Make the tables, on both sides, and load them."""
        self.gateway = Gateway(NodeSettings(max_views=40))
        for name, spec in SPECS.items():
            table = self._tables[name] = self._engine.table(name)
            self._stocks[name] = Stock(table)
            await table.load(spec, arrow(rows))
            self.gateway.add_table(name, table)

    async def close(self) -> None:
        """End both sides."""
        for viewer in self._viewers.values():
            viewer.session.close()
        await self.gateway.close()
        await self._quiet()
        for twin in self._twins:
            self._stocks[twin.table].ask(twin.stock_id, 11, b"")
        for stock in self._stocks.values():
            stock.session.close()
        await self._engine.close()

    async def perform(self, action: Action) -> None:
        """Do one thing on both sides, and compare."""
        match action["do"]:
            case "open":
                self._viewers[action["who"]] = Viewer(self.gateway)
            case "close":
                await self._close(action)
            case "apply":
                await self._apply(action)
                await self._quiet()
            case "burst":
                await self._burst(action)
            case "ask":
                await self._ask(action)
        self._compare_notes()
        self._forget()

    async def _apply(self, action: Action, between: Callable[[], object] = bool) -> None:
        """Change a table. `between`: called when all is queued; a remove polls what came before it, which readers may see."""
        table = self._tables[action["table"]]
        empties = sum(op != "update" for op, _ in action["operations"])
        self._fills = empties + (table.rows == 0 or table._queued is Op.REMOVE)
        operations = [(Op(op), to_ipc(arrow(rows)) if rows else b"") for op, rows in action["operations"]]
        await table.apply(operations)
        between()
        if action["flush"]:
            await table.flush()

    async def _quiet(self) -> None:
        """Wait until nothing is under way in the tables' lanes."""
        calm = 0
        while calm < 4:
            calm = 0 if any(table._lane.locked() for table in self._tables.values()) else calm + 1
            await asyncio.sleep(0)

    def _engine_views(self) -> set[str]:
        return {view_id for table in self._tables.values() for view_id in table._views}

    async def _close(self, action: Action) -> None:
        viewer = self._viewers.pop(action["who"])
        during = action["during"]
        before = self._engine_views()
        if during is None:
            viewer.session.close()
        else:
            asking = asyncio.get_running_loop().create_task(viewer.put(request_of(during)))
            await asyncio.sleep(0)
            viewer.session.close()
            sent = sum(map(len, viewer.answers.values()))
            await asyncio.gather(asking, return_exceptions=True)
            if sum(map(len, viewer.answers.values())) != sent:
                raise Different("a session that was closed is answered")
            self.asked[during["number"]] += 1
        await self._quiet()
        for engine_id in self._engine_views() - before:  # it may linger, and be somebody's next
            config = messages.parse("MakeView", bytes.fromhex(during["body"])).config
            self._new_twin(during["entity"], messages.encode(config), engine_id)

    async def _burst(self, action: Action) -> None:
        asks = [ask for ask in action["asks"] if ask["entity"] in self._viewers[ask["who"]].views]
        moments = [[self._stock_answer(ask) for ask in asks]]
        waiting = [self._viewers[ask["who"]].ask(request_of(ask)) for ask in asks]
        if action["change"] is None:
            answers = await asyncio.gather(*waiting)
        else:
            # Of one kind: between two, there is a moment that both sides can be seen in.
            change = action["change"] | {"operations": action["change"]["operations"][:1]}
            applying = self._apply(change, lambda: moments.append([self._stock_answer(ask) for ask in asks]))
            *answers, _ = await asyncio.gather(*waiting, applying)
        await self._quiet()
        moments.append([self._stock_answer(ask) for ask in asks])
        for ask, answer, *expected in zip(asks, answers, *moments, strict=True):
            self.asked[ask["number"]] += 1
            if not any(is_same(ask["number"], answer, stock) for stock in expected):
                compare(ask["number"], answer, expected[-1])

    # One request -------------------------------------------------------------------------------------------------------

    async def _ask(self, ask: Action) -> None:
        viewer, request = self._viewers[ask["who"]], request_of(ask)
        number = request.number
        self.asked[number] += 1
        view = viewer.views.get(request.entity_id)
        before = self._engine_views()
        if number in SILENT:
            viewer.silent.add(request.msg_id)
            await viewer.put(request)
            # They are not acknowledged; what is asked of the same view afterwards is.
            await viewer.ask(Envelope(request.msg_id + (1 << 20), request.entity_id, 7 if number == 29 else 13, b""))
            refused = viewer.answers.pop(request.msg_id, [None])[0]
        else:
            answer = await viewer.ask(request)
            refused = answer if answer.number == SERVER_ERROR else None
        if refused is not None and any(known.encode() in refused.body for known in REFUSALS):
            self.happened["refused"] += 1
            return
        if number in WRITES:
            raise Different(f"a write was answered by {answer}")
        made = self._engine_views() - before
        if number == 6:
            await self._made(viewer, request, answer, made)
        elif number in SILENT or number in ENDS:
            if refused is not None:
                raise Different(f"a subscription was refused: {refused}")
            self._subscription(viewer, view, request, made)
        elif number == 11:
            self._deleted(viewer, request, answer)
        elif view is not None:
            if number in STATE:
                row = self._becomes_private(view, request, made)
                ask = ask | {"body": row.hex()}
            elif made:  # the engine's view was made anew to be read
                self._make_anew(view.twin, made)
            compare(number, answer, self._stock_answer(ask))
        else:
            self._compare_others(request, answer)

    def _stock_answer(self, ask: Action) -> Envelope | None:
        view = self._viewers[ask["who"]].views[ask["entity"]]
        stock, number, body = self._stocks[view.table], ask["number"], bytes.fromhex(ask["body"])
        if number == 10:  # Perspective never ends when asked for columns beyond all
            message = messages.parse("ColumnPaths", body)
            dimensions = stock.ask(view.twin.stock_id, 12, b"")
            assert dimensions is not None
            if message.HasField("start_col"):
                safety.cut_columns(message, messages.parse("Dimensions", dimensions.body).num_view_columns)
            body = messages.encode(message)
        answer = stock.ask(view.twin.stock_id, number, body)
        if number == 14 and answer is not None:  # a term more is there for the engine only, see tests/test_filling.py
            told, asked = messages.parse("Describe", answer.body), messages.parse("Config", view.config)
            kept = [term for term in told.config.filter if not term.column.startswith("psp_")]
            for term, wanted in zip(kept, asked.filter, strict=True):
                if (term.op, wanted.op) in {("in", "=="), ("not in", "!=")}:
                    term.CopyFrom(wanted)
            if len(kept) < len(told.config.filter) and asked.filter_op:
                told.config.filter_op = asked.filter_op
            del told.config.filter[:]
            told.config.filter.extend(kept)
            answer = answer._replace(body=messages.encode(told))
        return answer

    def _new_twin(self, table: str, config: bytes, engine_id: str, *, hears: str = "plain") -> Twin:
        stock = self._stocks[table]
        message = messages.new("MakeView")
        message.view_id = f"stock-{stock.number()}"
        message.config.ParseFromString(config)
        for term in message.config.filter:
            safety._check_filter(term, None)  # completed as any client does
        types = safety.column_types(SPECS[table], dict.fromkeys(["loud", "pair"], safety.STRING))
        message.config.CopyFrom(safety.for_engine(message.config, types))  # see tests/test_filling.py
        answer = stock.ask(table, 6, messages.encode(message))
        if answer is None or answer.number != 6:
            raise Different(f"Perspective does not make this view: {answer}")
        twin = Twin(engine_id, message.view_id, table, config, hears=hears)
        self._twins.append(twin)
        return twin

    async def _made(self, viewer: Viewer, request: Envelope, answer: Envelope, made: set[str]) -> None:
        message = messages.parse("MakeView", request.body)
        config = messages.encode(message.config)
        if answer.number == SERVER_ERROR:
            message.view_id = "refused"
            compare(6, answer, self._stocks[request.entity_id].ask(request.entity_id, 6, messages.encode(message)))
            await self._quiet()
            self.happened["not made"] += 1
            return
        if messages.parse("MadeView", answer.body).view_id != message.view_id:
            raise Different(f"made under another id: {answer}")
        if len(made) > 1:
            raise Different(f"one view was made as {made}")
        if made:
            twin = self._new_twin(request.entity_id, config, made.pop())
        else:
            twin = self._shared(request.entity_id, config)
            self.happened["shared"] += 1
        viewer.views[message.view_id] = View(request.entity_id, config, twin)

    def _shared(self, table: str, config: bytes) -> Twin:
        for twin in reversed(self._twins):
            if (twin.table, twin.config, twin.hears, twin.is_private) == (table, config, "plain", False):
                return twin
        raise Different("no view was made in the engine, and none with this configuration is there")

    def _becomes_private(self, view: View, request: Envelope, made: set[str]) -> bytes:
        """What one viewer expands, others must not see: the gateway may have made a view for it alone.

        Returns the request's body for that one: groups that compare equal can stand in another order there.
        """
        body = request.body
        if made:
            before = view.twin
            view.twin = self._new_twin(view.table, view.config, made.pop())
            if request.number in (18, 19) and messages.parse("Config", view.config).sort:
                row = messages.parse("RowIndex", body)
                meant = self._paths(before)[row.row_index : row.row_index + 1]
                there = self._paths(view.twin)
                if meant and meant[0] in there:  # an old view may show a group that a new one does not
                    row.row_index = there.index(meant[0])
                    body = messages.encode(row)
            view.others.clear()
            for msg_id, (kind, subscribed, _) in list(view.subscriptions.items()):
                self._subscribe_stock(view, msg_id, kind, subscribed, view.twin)
        view.twin.is_private = True
        self.happened["private"] += 1
        return body

    def _paths(self, twin: Twin) -> list[Any]:
        answer = self._stocks[twin.table].ask(twin.stock_id, 24, b"\x0a\x00")
        assert answer is not None
        found: list[Any] = json.loads(messages.parse("Text", answer.body).text)["__ROW_PATH__"]
        return found

    def _make_anew(self, twin: Twin, made: set[str]) -> None:
        fresh = self._new_twin(twin.table, twin.config, made.pop())
        self._twins.remove(fresh)
        self._stocks[twin.table].ask(twin.stock_id, 11, b"")
        twin.engine_id, twin.stock_id = fresh.engine_id, fresh.stock_id
        self.happened["made anew"] += 1

    # Subscriptions -----------------------------------------------------------------------------------------------------

    def _subscription(self, viewer: Viewer, view: View | None, request: Envelope, made: set[str]) -> None:
        msg_id, number = request.msg_id, request.number
        if number in ENDS:
            ended = messages.parse("Id", request.body).id
            viewer.silent.discard(ended)
            if view is not None:
                view.watches.discard(ended)
                view.subscriptions.pop(ended, None)
        elif number == 34 and view is not None:
            view.watches.add(msg_id)
        elif view is not None:
            source = view.twin
            if number == 39 or request.body:
                hears = "removed" if number == 39 else "rows"
                if made:
                    view.others[hears] = self._new_twin(view.table, view.config, made.pop(), hears=hears)
                elif hears not in view.others and not view.twin.is_private:
                    same = [twin for twin in self._twins if twin.hears == hears]
                    same = [twin for twin in same if (twin.table, twin.config) == (view.table, view.config)]
                    if same:
                        view.others[hears] = same[-1]
                source = view.others.get(hears, view.twin)
            self._subscribe_stock(view, msg_id, number, request.body, source)

    def _subscribe_stock(self, view: View, msg_id: int, kind: int, body: bytes, source: Twin) -> None:
        """Subscribe once for all who hear of a stock view: the second of two whom it tells of rows gets none."""
        stock = self._stocks[view.table]
        view.subscriptions[msg_id] = (kind, body, source)
        wants_rows = kind == 39 or bool(body)
        known = source.told.get(kind)
        if known is None or (wants_rows and not known.has_rows):
            if known is not None:
                message = messages.new("Id")
                message.id = known.msg_id
                stock.ask(source.stock_id, 22, messages.encode(message))
            source.told[kind] = Told(stock.number(), wants_rows)
            stock.ask(source.stock_id, kind, body, source.told[kind].msg_id)

    def _compare_notes(self) -> None:
        for stock in self._stocks.values():
            stock.hear()
        for viewer in self._viewers.values():
            for view in viewer.views.values():
                for msg_id, (kind, body, source) in view.subscriptions.items():
                    expected = self._stocks[view.table].notes.get(source.told[kind].msg_id, [])
                    heard = [note.body for note in viewer.notes.pop(msg_id, [])]
                    self._compare_heard(kind, bool(body) or kind == 39, heard, expected)
            if any(viewer.notes.values()):
                raise Different(f"nobody subscribed to {viewer.notes}")
            if viewer.answers:
                raise Different(f"nobody asked for {viewer.answers}")
            viewer.notes.clear()
        for stock in self._stocks.values():
            stock.notes.clear()

    def _compare_heard(self, kind: int, are_rows: bool, heard: list[bytes], expected: list[bytes]) -> None:
        if not are_rows:
            if bool(heard) != bool(expected) or len(heard) > len(expected):
                raise Different(f"{len(heard)} notifications instead of {len(expected)}")
            if any(heard):
                raise Different(f"a notification with a body: {heard}")
            self.happened["notified"] += bool(heard)
            return
        if len(heard) < len(expected) <= len(heard) + self._fills:
            # A row went ahead of those that filled an empty table; of that one, viewers hear nothing.
            for at in range(len(expected)):
                try:
                    self._compare_heard(kind, are_rows, heard, expected[:at] + expected[at + 1 :])
                except Different:
                    continue
                return
        if len(heard) != len(expected):
            raise Different(f"{len(heard)} times rows instead of {len(expected)}")
        for mine, stock in zip(heard, expected, strict=True):
            same_values(rows_of(mine), rows_of(stock), "rows")
            self.happened["removed rows" if kind == 39 else "changed rows"] += 1

    # The end of views --------------------------------------------------------------------------------------------------

    def _deleted(self, viewer: Viewer, request: Envelope, answer: Envelope) -> None:
        if answer.number != 11 or answer.body:
            raise Different(f"deleting is answered by {answer}")
        view = viewer.views.pop(request.entity_id)
        for msg_id in view.watches:
            notes = [note.number for note in viewer.notes.pop(msg_id, [])]
            if notes != [34]:
                raise Different(f"who wanted to hear of a view's end heard {notes}")
            self.happened["heard of the end"] += 1

    def _forget(self) -> None:
        """Delete the stock views whose twins the gateway has deleted."""
        there = self._engine_views()
        used = {
            id(twin)
            for viewer in self._viewers.values()
            for view in viewer.views.values()
            for twin in (view.twin, *view.others.values())
        }
        for twin in [twin for twin in self._twins if twin.engine_id not in there and id(twin) not in used]:
            self._twins.remove(twin)
            self._stocks[twin.table].ask(twin.stock_id, 11, b"")

    # Requests about no view --------------------------------------------------------------------------------------------

    def _compare_others(self, request: Envelope, answer: Envelope) -> None:
        number = request.number
        if number in CONSTANT:
            if answer.body != CONSTANT[number]:
                raise Different(f"instead of a constant: {answer}")
        elif number == 3:
            stock = messages.parse("Features", self._answer_of("all", "", 3, b"").body)
            for kind, options in stock.aggregates.items():
                kept = [option for option in options.aggregates if option.name not in safety._DEADLY_AGGREGATES[kind]]
                del options.aggregates[:]
                options.aggregates.extend(kept)
            same_values(messages.parse("Features", answer.body), stock, "features")
        elif number == 4:
            found = messages.new("Hosted")
            for name in sorted(self._stocks):
                found.MergeFrom(messages.parse("Hosted", self._answer_of(name, "", 4, b"").body))
            same_values(messages.parse("Hosted", answer.body), found, "hosted tables")
        elif number == 37:
            if answer.body:
                raise Different(f"instead of nothing: {answer}")
        elif number == 9:
            asked = safety.only_expressions(messages.parse("ValidateExpressions", request.body).expressions)
            describe = messages.new("Describe")
            describe.config.CopyFrom(asked)
            stock = self._answer_of(request.entity_id, request.entity_id, 41, messages.encode(describe))
            found, described = messages.parse("ValidatedExpressions", answer.body), messages.parse("Description", stock.body)
            same_values(sorted(found.expression_schema.items()), sorted(described.expression_schema.items()), "types")
            same_values(sorted(found.errors), sorted(described.expression_errors), "errors")
        else:
            compare(number, answer, self._answer_of(request.entity_id, request.entity_id, number, request.body))

    def _answer_of(self, table: str, entity: str, number: int, body: bytes) -> Envelope:
        answer = self._stocks[table].ask(entity, number, body)
        assert answer is not None
        return answer


def is_same(number: int, answer: Envelope, stock: Envelope | None) -> bool:
    """Say whether an answer is that of Perspective."""
    try:
        compare(number, answer, stock)
    except Different:
        return False
    return True


def request_of(ask: Action) -> Envelope:
    """Return the request that an action stands for."""
    return Envelope(ask["msg_id"], ask["entity"], ask["number"], bytes.fromhex(ask["body"]))


def arrow(rows: dict[str, list[Any]]) -> pa.Table:
    """Make a table of the columns that are there."""
    schema = SPECS["all"].arrow_schema
    kinds = {"d": pa.int32(), "t": pa.int64()}
    return pa.table(
        {
            name: pa.array(values, kinds.get(name, schema.field(name).type)).cast(schema.field(name).type)
            for name, values in rows.items()
        }
    )

"""A hosted table: its shared views, and the way to the engine, under ids that no client chose.

A table that was made anew with another shape is another hosted table.
"""

import asyncio
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from node.gateway import configs, messages, safety
from node.gateway.answers import Answer, Answers, Budget
from node.gateway.counts import Counts
from node.gateway.interned import Interned
from node.gateway.quarantine import Overdue, Quarantine
from node.gateway.requests import TO_COLUMNS, canonical
from node.gateway.shared_view import ONLY_PLAIN, PLAIN, REMOVED, ROWS, Kinds, SharedView, State
from node.settings import NodeSettings
from parallax.quarantine import fingerprint
from parallax.replica.engine import EngineTable, Listener, StaleGeneration
from parallax.replication.spec import TableSpec
from parallax.tasks import Tasks
from parallax.wire import SERVER_ERROR, Envelope, Refused, decode, read_msg_id

log = logging.getLogger(__name__)

MAKE_VIEW, VIEW_DELETE, VIEW_CONFIG, ON_UPDATE, REMOVE_ON_UPDATE, ON_REMOVE, DESCRIBE = 6, 11, 14, 21, 22, 39, 41


class Hosted:
    """One table of one shape."""

    def __init__(
        self,
        table: EngineTable,
        numbers: Iterator[int],
        settings: NodeSettings,
        budget: Budget,
        counts: Counts,
        quarantine: Quarantine,
        tasks: Tasks,
    ) -> None:
        self.table = table
        self.name = self.spec.name
        self.columns = len(self.spec.columns)
        self.generation = table.generation
        self.answers = Answers(self.name, budget)
        """Answers about the table itself."""
        self.views: set[SharedView] = set()
        """All that the engine has, or is about to have or to lose."""
        self._shared: dict[Any, SharedView] = {}  # by key: those that others may join, none of them DELETING
        self._heard_by: dict[int, tuple[SharedView, str]] = {}  # by our message id: engine subscriptions
        self._numbers = numbers
        self.interned = Interned()
        self.settings = settings
        self._budget = budget
        self._counts = counts
        self._quarantine = quarantine
        self._unproven: dict[
            str, set[asyncio.Future[Any]]
        ] = {}  # by fingerprint: who waits to hear that the engine survived
        self._tasks = tasks
        self._listener = Listener(self._heard, self._heard_by.clear)
        table.add_listener(self._listener)

    def close(self) -> None:
        """Listen no more. Sessions still delete what they hold, as far as it is there."""
        self.table.remove_listener(self._listener)
        self._heard_by.clear()
        self.answers.close()
        for view in self.views:
            view.answers.close()

    @property
    def spec(self) -> TableSpec:
        """The table's spec.

        Raises:
            StaleGeneration: the table was dropped.
        """
        if self.table.spec is None:
            raise StaleGeneration
        return self.table.spec

    # Reading ---------------------------------------------------------------------------------------------------------

    def known(self, answers: Answers, number: int, body: bytes) -> Answer | None:
        """Return an answer that is there, if it is of the table as it is now."""
        answer = answers.get((number, body), self.table.version)
        if answer is not None:
            self._counts.shared += 1
        return answer

    def read_at_once(self, answers: Answers, number: int, body: bytes) -> Answer | None:
        """Return an answer that takes the engine no time; None if the engine is busy.

        Raises:
            StaleGeneration: the table was dropped or changed its shape.
        """
        if not self.table.is_idle:
            return None
        msg_id = next(self._numbers)
        request = Envelope(msg_id, answers.entity_id, number, body).encode()
        self._counts.computed += 1
        said = self.table.request_at_once(request, self.generation, answers.fingerprint)
        return self._keep(answers, (number, body), msg_id, said.frames, said.version)

    async def read(self, answers: Answers, number: int, body: bytes, *, is_cheap: bool = False) -> Answer:
        """Return an answer that is known, or under way, or that the engine gives in its turn.

        Raises:
            StaleGeneration: as above.
        """
        answer = self.known(answers, number, body)
        if answer is not None:
            return answer
        question = (number, body)
        flight = answers.flights.get(question)
        if flight is None:
            flight = answers.flights[question] = asyncio.get_running_loop().create_future()
            self._tasks.start(self._compute(answers, number, body, flight, is_cheap), name=f"read of table {self.name}")
        else:
            self._counts.shared += 1
        return await asyncio.shield(flight)

    async def _compute(
        self, answers: Answers, number: int, body: bytes, flight: "asyncio.Future[Answer]", is_cheap: bool
    ) -> None:
        msg_id = next(self._numbers)
        request = Envelope(msg_id, answers.entity_id, number, body).encode()
        name = fingerprint(self.name, body) if number == DESCRIBE else answers.fingerprint
        self._counts.computed += 1
        try:
            with self._proving(name if number == DESCRIBE else "", flight):
                if number == DESCRIBE:
                    await self._quarantine.check(name)
                said = await self.table.request([request], self.generation, fingerprint=name, is_quick=is_cheap)
            answer = self._keep(answers, (number, body), msg_id, said.frames, said.version)
            if not flight.done():
                flight.set_result(answer)
        except Exception as error:  # noqa: BLE001 - raised again where it is waited for, if it still is
            _fail(flight, error)
        finally:
            answers.flights.pop((number, body), None)
            flight.cancel()

    def _keep(
        self, answers: Answers, question: tuple[int, bytes], msg_id: int, frames: Sequence[bytes], version: int
    ) -> Answer:
        answer = self._take(msg_id, frames)._replace(version=version)
        if answer.number != SERVER_ERROR:
            if len(answer.body) > self.settings.max_answer_bytes:
                raise Refused(
                    f"the answer has {len(answer.body)} bytes, more than PARALLAX_MAX_ANSWER_BYTES; ask for fewer rows or columns"
                )
            if answer.number == VIEW_CONFIG:
                answer = answer._replace(body=safety.as_asked(answer.body, answers.config))
            answers.keep(question, answer, version)
        return answer

    def _take(self, msg_id: int, frames: Sequence[bytes]) -> Answer:
        mine = None
        for frame in frames:
            if read_msg_id(frame) == msg_id:
                mine = decode(frame)
            else:
                self._heard([frame])
        if mine is None:
            raise Refused("the engine gave no answer")
        return Answer(mine.number, mine.body)

    async def change(self, view: SharedView, number: int, body: bytes) -> Answer:
        """Expand, collapse or set the depth of a private view.

        Raises:
            StaleGeneration: as above.
        """
        msg_id = next(self._numbers)
        request = Envelope(msg_id, view.engine_id, number, body).encode()
        said = await self.table.request([request], self.generation, fingerprint=view.fingerprint)
        view.answers.clear()
        return self._take(msg_id, said.frames)

    async def row_paths(self, view: SharedView, first: int, end: int) -> list[Any]:
        """Return of which groups some rows of a tree are, as far as there are such rows.

        Raises:
            StaleGeneration, Refused: as above.
        """
        message = messages.new("ToText")
        message.viewport.start_row, message.viewport.end_row = first, end
        message.viewport.start_col = message.viewport.end_col = 0
        answer = await self.read(view.answers, TO_COLUMNS, canonical("ToText", messages.encode(message)))
        if answer.number != TO_COLUMNS:
            raise Refused(messages.parse("Error", answer.body).message)
        found: list[Any] = json.loads(messages.parse("Text", answer.body).text)["__ROW_PATH__"]
        return found

    # Views -----------------------------------------------------------------------------------------------------------

    async def acquire(self, config: Any, *, hears: Kinds = ONLY_PLAIN, is_private: bool = False) -> SharedView:
        """Return the view of a configuration that was checked, making it if nobody has it yet. Release it when done.

        Views are equal if their configurations are equal, bit for bit, but for the order of maps. `hears`: what the
        engine tells of it. Rows are switched on for a whole view, and those that were removed are then missing among those that
        changed: who wants one shares no view with who wants another.

        Raises:
            StaleGeneration: as above.
            Refused: the engine does not make it, or holds too many views.
        """
        is_private = is_private or safety.depends_on_age(config, is_indexed=self.spec.index is not None)
        key = None if is_private else (hears, messages.encode(config))
        view = None if key is None else self._shared.get(key)
        if view is None:
            name = fingerprint(self.name, messages.encode(config))
            view = SharedView(key, config, f"view-{next(self._numbers)}", name, self._budget, hears)
            self.views.add(view)
            if key is not None:
                self._shared[key] = view
            self._tasks.start(self._make(view), name=f"view of table {self.name}")
        elif view.timer is not None:
            view.timer.cancel()
            view.timer, view.state = None, State.LIVE
        view.references += 1
        try:
            await asyncio.shield(view.made)
        except BaseException:
            self.release(view)
            raise
        return view

    def release(self, view: SharedView) -> None:
        """Look at a view no more. When nobody does, it lingers for a moment, then it is deleted."""
        view.references -= 1
        if view.references or view.state is not State.LIVE:
            return
        if view.key is None or self.table.generation != self.generation:
            self.delete(view)
        else:
            view.state = State.LINGERING
            view.timer = asyncio.get_running_loop().call_later(self.settings.linger_seconds, self.delete, view)

    def lingering(self) -> list[SharedView]:
        """Return the views that nobody looks at."""
        return [view for view in self.views if view.state is State.LINGERING]

    def delete(self, view: SharedView) -> None:
        """Delete a view at which nobody looks."""
        if view.timer is not None:
            view.timer.cancel()
            view.timer = None
        view.state = State.DELETING
        self._forget(view)
        self._tasks.start(self._delete(view), name=f"farewell to a view of table {self.name}")

    def _forget(self, view: SharedView) -> None:
        if self._shared.get(view.key) is view:
            del self._shared[view.key]
        for msg_id in [msg_id for msg_id, (heard_by, _) in self._heard_by.items() if heard_by is view]:
            del self._heard_by[msg_id]
        view.answers.close()

    async def _make(self, view: SharedView) -> None:
        message = messages.new("MakeView")
        message.view_id = view.engine_id
        msg_id = next(self._numbers)
        try:
            types = safety.column_types(self.spec, await configs.expression_types(self, view.config))
            message.config.CopyFrom(safety.for_engine(view.config, types))
            requests = [Envelope(msg_id, self.name, MAKE_VIEW, messages.encode(message)).encode()]
            requests += self._subscriptions(view, view.hears)
            with self._proving(view.fingerprint, view.made):
                await self._quarantine.check(view.fingerprint)
                said = await self.table.request(
                    requests, self.generation, opens=view.engine_id, fingerprint=view.fingerprint
                )
            view.born = self.table.work.position
            answer = self._take(msg_id, said.frames)
            if answer.number == SERVER_ERROR:
                raise Refused(messages.parse("Error", answer.body).message)
        except Exception as error:  # noqa: BLE001 - raised again for all who wait, if there still is one
            _fail(view.made, error)
        if view.made.done():  # with an error, and perhaps before the engine was done
            self.delete(view)  # it is not there, but the engine's facade has its id
            return
        view.state = State.LIVE
        view.made.set_result(None)
        if not view.references:  # all who waited have left
            view.references = 1
            self.release(view)

    @contextmanager
    def _proving(self, name: str, waiting: "asyncio.Future[Any]") -> Iterator[None]:
        """Let `give_up` find who waits for the engine to be done with a view."""
        self._unproven.setdefault(name, set()).add(waiting)
        try:
            yield
        finally:
            self._unproven[name].discard(waiting)
            if not self._unproven[name]:
                del self._unproven[name]

    def give_up(self, now: float) -> float:
        """Fail those who wait for a view that takes the engine too long, and quarantine it.

        Return for how long the engine has been at work on any view (s).
        """
        if self.table.work.view is None:
            return 0.0
        name, since = self.table.work.view
        limit = self.settings.creation_seconds
        waiting = self._unproven.get(name, set())
        if now - since > limit and any(not future.done() for future in waiting):
            log.error("a view of table %s takes more than %g s: it is quarantined as %s", self.name, limit, name)
            self._counts.overdue += 1
            for future in waiting:
                _fail(
                    future, Overdue(f"the view takes longer than {limit:g} s (PARALLAX_CREATION_SECONDS); it is quarantined")
                )
            self._tasks.start(self._quarantine.condemn(name, self.name), name="quarantine")
        return now - since

    async def _delete(self, view: SharedView) -> None:
        request = Envelope(next(self._numbers), view.engine_id, VIEW_DELETE, b"").encode()
        try:
            await self.table.request([request], self.generation, closes=view.engine_id, fingerprint=view.fingerprint)
        except StaleGeneration:
            log.debug("view %s went with its table", view.engine_id)
        finally:
            self.views.discard(view)

    async def switch_on(self, view: SharedView, kind: str) -> None:
        """Let a private view hear of something more.

        Raises:
            StaleGeneration: as above.
        """
        if kind in view.hears:
            return
        view.hears |= {kind}
        requests = []
        for msg_id, heard_by in list(self._heard_by.items()):
            if kind == ROWS and heard_by == (view, PLAIN):
                del self._heard_by[msg_id]
                message = messages.new("Id")
                message.id = msg_id
                body = messages.encode(message)
                requests.append(Envelope(next(self._numbers), view.engine_id, REMOVE_ON_UPDATE, body).encode())
        await self.table.request([*requests, *self._subscriptions(view, frozenset({kind}))], self.generation)

    def _subscriptions(self, view: SharedView, kinds: Kinds) -> list[bytes]:
        """Return the engine's subscriptions. Rows are told to the first of a view's subscribers only: they stand for plain news."""
        requests = []
        for kind in sorted(kinds - {PLAIN} if ROWS in kinds else kinds):
            message = messages.new("OnUpdate")
            if kind == ROWS:
                message.mode = 0
            msg_id = next(self._numbers)
            self._heard_by[msg_id] = (view, kind)
            number = ON_REMOVE if kind == REMOVED else ON_UPDATE
            requests.append(Envelope(msg_id, view.engine_id, number, messages.encode(message)).encode())
        return requests

    def _heard(self, frames: Sequence[bytes]) -> None:
        for frame in frames:
            heard_by = self._heard_by.get(read_msg_id(frame))
            if heard_by is not None:
                view, kind = heard_by
                envelope = decode(frame)
                if envelope.number != SERVER_ERROR:
                    view.hear(kind, envelope.body)
                    if kind == ROWS:
                        view.hear(PLAIN, b"")


def _fail(future: "asyncio.Future[Any]", error: Exception) -> None:
    """Tell those who wait, of whom there may be none, what went wrong, unless they were told."""
    if not future.done():
        future.set_exception(error)
        future.exception()

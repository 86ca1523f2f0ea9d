"""A hosted table, as the sessions see it: requests under ids of our own, and subscriptions."""

from collections.abc import Callable, Iterator
from typing import Any

from node.gateway import messages
from node.gateway.wire import SERVER_ERROR, Envelope, Refused, decode, read_msg_id
from parallax.replica.engine import EngineTable, Listener, StaleGeneration
from parallax.replication.spec import TableSpec


class Backend:
    """Puts the sessions' requests to the engine under message and view ids that no client chose."""

    def __init__(self, table: EngineTable, numbers: Iterator[int]) -> None:
        self.table = table
        self.generation = table.generation
        self._numbers = numbers
        self._subscribers: dict[int, Callable[[Envelope], None]] = {}  # by our message id
        self._listener = Listener(self._heard, self._subscribers.clear)
        table.add_listener(self._listener)

    def close(self) -> None:
        """Listen no more."""
        self._subscribers.clear()
        self.table.remove_listener(self._listener)

    @property
    def spec(self) -> TableSpec:
        """The table's spec.

        Raises:
            StaleGeneration: the table was dropped.
        """
        if self.table.spec is None:
            raise StaleGeneration
        return self.table.spec

    def new_view_id(self) -> str:
        """Return an id that no view ever had."""
        return f"view-{next(self._numbers)}"

    async def ask(
        self, entity_id: str, number: int, body: bytes, *, opens: str | None = None, closes: str | None = None
    ) -> Envelope | None:
        """Put one request to the engine and return its answer.

        Raises:
            StaleGeneration: the table was dropped or changed its shape.
        """
        msg_id = next(self._numbers)
        request = Envelope(msg_id, entity_id, number, body).encode()
        answers = await self.table.request(request, self.generation, opens=opens, closes=closes)
        mine = None
        others = []
        for frame in answers.frames:
            if read_msg_id(frame) == msg_id:
                mine = decode(frame)
            else:
                others.append(frame)
        self._heard(others)
        return mine

    async def describe(self, config: Any) -> Any:
        """Return what the engine says of a view's configuration: a `Description`.

        Raises:
            StaleGeneration: as `ask` does.
            Refused: it says nothing of it.
        """
        message = messages.new("Describe")
        message.config.CopyFrom(config)
        answer = await self.ask(self.spec.name, 41, messages.encode(message))
        if answer is None or answer.number == SERVER_ERROR:
            raise Refused("the engine cannot read this configuration")
        return messages.parse("Description", answer.body)

    async def subscribe(self, entity_id: str, number: int, body: bytes, notify: Callable[[Envelope], None]) -> int:
        """Subscribe, and return the message id under which the engine notifies."""
        msg_id = next(self._numbers)
        self._subscribers[msg_id] = notify
        request = Envelope(msg_id, entity_id, number, body).encode()
        answers = await self.table.request(request, self.generation)
        self._heard(answers.frames)
        return msg_id

    def unsubscribe(self, msg_id: int) -> None:
        """Hand over no more of a subscription's notifications."""
        self._subscribers.pop(msg_id, None)

    def _heard(self, frames: list[bytes]) -> None:
        for frame in frames:
            notify = self._subscribers.get(read_msg_id(frame))
            if notify is not None:
                notify(decode(frame))

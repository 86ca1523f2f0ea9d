"""A hosted table, as the sessions see it: requests under ids of our own, and subscriptions."""

from collections.abc import Callable, Iterator

from node.gateway.wire import Envelope, decode, read_msg_id
from parallax.replica.engine import EngineTable, Listener


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

"""Who wants to hear that a table or a view of his is no more."""

from node.gateway.outbox import Frame, Outbox
from node.gateway.views import bound_subscriptions
from parallax.wire import Envelope, head

OF_TABLE, OF_VIEW = 29, 34
"""The requests TableOnDelete and ViewOnDelete."""


class Deletions:
    """One session's wishes, at most `most` of them."""

    def __init__(self, outbox: Outbox, most: int) -> None:
        self._outbox = outbox
        self._most = most
        self._wishes: dict[int, tuple[int, str]] = {}  # the client's msg_id -> (kind, entity)

    def __len__(self) -> int:
        return len(self._wishes)

    def watch(self, request: Envelope) -> None:
        """Take note of a wish.

        Raises:
            Refused: there are too many.
        """
        bound_subscriptions(len(self._wishes), self._most)
        self._wishes[request.msg_id] = (request.number, request.entity_id)

    def forget(self, msg_id: int) -> None:
        """Forget one, if it is there."""
        self._wishes.pop(msg_id, None)

    def tell(self, kind: int, entity: str) -> None:
        """Tell who wished to hear it that a table or view is gone; once."""
        for msg_id, wish in list(self._wishes.items()):
            if wish == (kind, entity):
                del self._wishes[msg_id]
                self._outbox.put(Frame(head(msg_id, entity, kind, 0), b""))

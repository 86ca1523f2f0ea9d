"""What a gateway counts."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Counts:
    """Totals since the start."""

    computed: int = 0  # answers that the engine gave
    shared: int = 0  # answers that were in the cache, or joined a computation under way
    notified: int = 0
    conflated: int = 0  # notifications that were not sent, since the viewer had not got the last one
    slow_closes: int = 0
    idle_closes: int = 0
    silent_closes: int = 0  # viewers that answered no ping
    expired_closes: int = 0  # viewers whose token expired
    auth_refusals: Counter[str] = field(default_factory=Counter)  # connections without a good token, by reason
    full_refusals: int = 0  # connections that were refused because the node was full
    throttled: int = 0  # requests after which the viewer's next one had to wait, so fast they came
    shed: int = 0  # viewers that were let go to other nodes
    overdue: int = 0  # views that took longer than they may
    refused: int = 0  # requests answered by an error of the gateway

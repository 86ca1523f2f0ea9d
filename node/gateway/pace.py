"""How fast one viewer may ask."""


class Pace:
    """Lets through `per_second` requests, of which those of one second may come at once; whoever asks faster has to wait."""

    def __init__(self, per_second: float) -> None:
        self._gap = 1 / per_second
        self._due = 0.0  # when the last request would have come, had all come evenly

    def wait(self, now: float) -> float:
        """Take note of a request at `now`; return how many seconds no other may be read."""
        self._due = max(self._due, now) + self._gap
        return max(0.0, self._due - now - 1.0)

"""When a table is polled again."""

import time


def pause_after(poll_seconds: float, frame_seconds: float) -> float:
    """Return how long no other poll begins: polls begin a frame apart at least, and take four fifths of the time at most.

    In the pauses, requests are answered on the event loop at once; during polls they have to wait.
    """
    return max(frame_seconds - poll_seconds, poll_seconds / 4)


class FrameClock:
    """One table's. After a quiet time a poll is due at once."""

    def __init__(self, frame_seconds: float) -> None:
        self._frame_seconds = frame_seconds
        self._due_at = 0.0

    def polled(self, started: float) -> None:
        """Take note of a poll that began at a moment of time.monotonic(), and is over."""
        now = time.monotonic()
        self._due_at = now + pause_after(now - started, self._frame_seconds)

    @property
    def seconds_left(self) -> float:
        """How long until the next may begin; 0: now."""
        return max(0.0, self._due_at - time.monotonic())

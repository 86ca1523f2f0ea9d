"""When a table is polled again."""


def pause_after(poll_seconds: float, frame_seconds: float) -> float:
    """Return how long no other poll begins: polls begin a frame apart at least, and take four fifths of the time at most.

    In the pauses, requests are answered on the event loop at once; during polls they have to wait.
    """
    return max(frame_seconds - poll_seconds, poll_seconds / 4)

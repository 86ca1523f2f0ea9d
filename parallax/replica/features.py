"""What views of any of the engine's tables can do."""

import perspective


def features() -> bytes:
    """Return the engine's encoded Response to GetFeatures: what views of any of its tables can do."""
    frames: list[bytes] = []
    session = perspective.Server().new_session(frames.append)
    session.handle_request(b"\x1a\x00")
    session.close()
    return frames[0]

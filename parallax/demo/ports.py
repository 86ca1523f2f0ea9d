"""Free ports on the loopback interface."""

import socket
from contextlib import ExitStack

HOST = "127.0.0.1"


def choose_ports(wished: dict[str, int]) -> dict[str, int]:
    """Return a free port for each name: the wished one where it is free, else another; all are different. 0 wishes nothing.

    A port may be taken by somebody else before its owner listens on it; then the owner's start fails and says so.
    """
    with ExitStack() as held:
        chosen = {}
        for name, port in wished.items():
            holder = _hold(port) or _hold(0)
            assert holder is not None  # the system always has a port to give
            held.enter_context(holder)
            chosen[name] = int(holder.getsockname()[1])
        return chosen


def _hold(port: int) -> socket.socket | None:
    """Bind a port, or return None if somebody has it."""
    if port:
        # A listener on all addresses does not keep us from binding on every system, so knock first.
        with socket.socket() as knock:
            knock.settimeout(0.5)
            if knock.connect_ex((HOST, port)) == 0:
                return None
    holder = socket.socket()
    # Connections of an earlier run that linger in TIME_WAIT do not make the port taken.
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        holder.bind((HOST, port))
    except OSError:
        holder.close()
        return None
    return holder

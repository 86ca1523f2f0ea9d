"""Free ports on the loopback interface."""

import random
import socket
from contextlib import ExitStack

HOST = "127.0.0.1"
OTHER_PORTS = (10_000, 32_000)
_given: set[int] = set()  # those of OTHER_PORTS that somebody was given, who may not listen yet


def choose_ports(wished: dict[str, int]) -> dict[str, int]:
    """Return a free port for each name: the wished one where it is free, else another; all are different. 0 wishes nothing.

    Another one is of those that systems do not give to outgoing connections: such a connection could take it before its owner
    listens on it. Somebody else still may; then the owner's start fails and says so.
    """
    with ExitStack() as held:
        chosen = {}
        for name, port in wished.items():
            holder = _hold(port) if port else None
            while holder is None:
                other = random.randrange(*OTHER_PORTS)
                if len(_given) > (OTHER_PORTS[1] - OTHER_PORTS[0]) // 2:
                    _given.clear()
                if other not in _given:
                    holder = _hold(other)
                    _given.add(other)
            held.enter_context(holder)
            chosen[name] = int(holder.getsockname()[1])
        return chosen


def _hold(port: int) -> socket.socket | None:
    """Bind a port, or return None if somebody has it."""
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

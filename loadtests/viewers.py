"""The load generator, `python -m loadtests.viewers`: many light viewers in one process, which know just enough of the protocol to behave like real ones.

A viewer makes its view, subscribes, and at each notification sends what `<perspective-viewer>` sends: four dimensions, the
schema, the rows on its screen. When all six answers are in, that was one refresh; if it was notified meanwhile, it starts the
next at once. Requests are encoded once. Every answer's beginning is compared with that of the first, checked one.
"""

import asyncio
import gc
import itertools
import json
import os
import pickle
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import uvloop

from loadtests import protocol
from loadtests.meter import Meter, busy_seconds, percentile
from loadtests.plan import PATIENCE, Dialogue, Plan
from loadtests.protocol import BINARY, CLOSE, ERROR, FEATURES, PING, PONG, Body, Broken
from loadtests.seen import Seen, histogram

FIRST_ID = 0x10000000  # as long as the ids that Perspective's client draws
SUBSCRIPTION_ID = FIRST_ID + 0x100
PRICE = b'"price":['
LONG_AGO_MS = 1e12
"""A price below it is one that the table began with, and no instant."""
COARSE = 8
"""Refreshes of each viewer, below which a window is made longer."""
CONNECTING = 32
"""How many viewers are on their way in at once."""
LATE_SECONDS = 3.0
"""How long the updates of a window may take to come; who has not seen one by then waits at least so long."""


@dataclass(slots=True)
class Counts:
    """What all viewers of a process saw since the window began."""

    notifications: int = 0
    refreshes: int = 0
    errors: int = 0
    latencies: list[float] = field(default_factory=list)
    """From the first byte of a refresh's requests to its last answer, in ms."""


class Wire(asyncio.Protocol):
    """A websocket, from the client's side: hands each binary message to `on_message(data, start, end)`."""

    def __init__(self, hello: bytes) -> None:
        self._hello = hello
        self._rest = b""
        self.opened = asyncio.get_running_loop().create_future()
        self.closed: str | None = None
        self.transport: Any = None
        self.on_message: Callable[[bytes, int, int], None] = lambda data, start, end: None
        self.on_closed: Callable[[], None] = lambda: None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for a websocket."""
        self.transport = transport
        self.transport.write(self._hello)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who waits."""
        self.closed = self.closed or str(exc or "closed by the server")
        if not self.opened.done():
            self.opened.set_exception(Broken(self.closed))
        self.on_closed()

    def data_received(self, data: bytes) -> None:
        """Cut what came into messages."""
        if self._rest:
            data = self._rest + data
        at = 0
        if not self.opened.done():
            at = data.find(b"\r\n\r\n") + 4
            if at == 3:
                self._rest = data
                return
            if not data.startswith(b"HTTP/1.1 101"):
                self.opened.set_exception(Broken(data[:40].decode(errors="replace")))
                return
            self.opened.set_result(None)
        end = len(data)
        while end - at >= 2:
            size, start = data[at + 1], at + 2
            if size > 125:
                start += 2 if size == 126 else 8
                size = int.from_bytes(data[at + 2 : start], "big")
                if start > end:
                    break
            stop = start + size
            if stop > end:
                break
            opcode = data[at]
            at = stop
            if opcode == BINARY:
                self.on_message(data, start, stop)
            elif opcode == PING:
                self.transport.write(protocol.masked(data[start:stop], PONG))
            elif opcode == CLOSE:
                self.closed = f"close {int.from_bytes(data[start : start + 2], 'big')} {data[start + 2 : stop]!r}"
                self.transport.close()
        self._rest = data[at:] if at < end else b""


class Viewer:
    """One viewer. `counts` is shared by all of them."""

    _numbers = itertools.count(1)

    def __init__(self, plan: Plan, counts: Counts, dialogue: Dialogue | None) -> None:
        self._plan, self.counts, self._dialogue = plan, counts, dialogue
        self.view_id = f"bench{os.getpid()}x{next(self._numbers)}".ljust(21, "x")  # as long as those of Perspective's client
        self.refreshes = 0
        self._wire: Wire | None = None
        self._asked: dict[int, asyncio.Future[tuple[int, bytes]]] = {}
        self._batch = b""
        self._missing = 0
        self._is_notified = False
        self._started = 0.0
        self._prefixes: list[bytes] = []
        self._first_refresh: asyncio.Future[None] | None = None
        self.seen = Seen(plan.tick_ms) if plan.tick_ms else None

    @property
    def wire(self) -> Wire:
        """The connection."""
        assert self._wire is not None
        return self._wire

    async def connect(self) -> None:
        """Open the websocket, and no more.

        Raises:
            Broken: the server would not.
            OSError: nobody listens.
        """
        plan = self._plan
        hello = protocol.handshake(plan.host, plan.port)
        _, self._wire = await asyncio.get_running_loop().create_connection(lambda: Wire(hello), plan.host, plan.port)
        self._wire.on_message, self._wire.on_closed = self._answered, self._lost
        await self._wire.opened
        self._wire.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def start(self) -> None:
        """Make the view, check one refresh, and subscribe.

        Raises:
            Broken: the server refused something.
        """
        await self.connect()
        loop, dialogue = asyncio.get_running_loop(), self._dialogue
        if dialogue is None:
            self.wire.on_message = self._notified
            return
        await self.ask("", (FEATURES, b""))
        await self.ask(self._plan.table, protocol.make_view(self.view_id, dialogue.config))
        self._prefixes = [b"\xff"] * len(dialogue.refresh)
        requests = enumerate(dialogue.refresh, FIRST_ID)
        self._batch = b"".join(protocol.masked(protocol.request(number, self.view_id, body)) for number, body in requests)
        self._first_refresh = loop.create_future()
        self.wire.on_message = self._message
        self._refresh()
        await self._first_refresh
        self.wire.transport.write(protocol.masked(protocol.request(SUBSCRIPTION_ID, self.view_id, dialogue.subscribe)))

    async def ask(self, entity_id: str, body: Body) -> bytes:
        """Send one request and return its answer's body.

        Raises:
            Broken: it is an error, or another kind of answer.
        """
        msg_id = FIRST_ID + 0x200 + next(self._numbers) % 0x1000000
        self._asked[msg_id] = answer = asyncio.get_running_loop().create_future()
        self.send(protocol.request(msg_id, entity_id, body))
        number, content = await answer
        if number != body[0]:
            raise Broken(f"asked {body[0]}, answered {number}: {content[:200]!r}")
        return content

    def send(self, frame: bytes) -> None:
        """Send one message, whatever comes of it."""
        self.wire.transport.write(protocol.masked(frame))

    def close(self) -> None:
        """Hang up."""
        if self._wire is not None and self._wire.transport is not None:
            self._wire.transport.abort()

    def _lost(self) -> None:
        self.counts.errors += 1
        error = Broken(self.wire.closed or "lost")
        for answer in [*self._asked.values(), self._first_refresh]:
            if answer is not None and not answer.done():
                answer.set_exception(error)

    def _answered(self, data: bytes, start: int, end: int) -> None:
        msg_id, _, number, body = protocol.decode(data[start:end])
        answer = self._asked.pop(msg_id, None)
        if answer is not None and not answer.done():
            answer.set_result((number, body))

    def _notified(self, data: bytes, start: int, end: int) -> None:
        self.counts.notifications += 1

    def _refresh(self) -> None:
        self._is_notified = False
        self._missing = len(self._prefixes)
        self._started = time.perf_counter()
        self.wire.transport.write(self._batch)

    def _message(self, data: bytes, start: int, end: int) -> None:
        """Handle what comes once the view is there: answers of a refresh, notifications. This is the hot path."""
        msg_id, _ = protocol.read_varint(data, start + 1)
        if msg_id == SUBSCRIPTION_ID:
            self.counts.notifications += 1
            if self._plan.does == "refresh":
                if self._missing:
                    self._is_notified = True
                else:
                    self._refresh()
            return
        slot = msg_id - FIRST_ID
        if not 0 <= slot < len(self._prefixes):
            self._answered(data, start, end)
            return
        if not data.startswith(self._prefixes[slot], start):
            self._check(slot, data[start:end])
        if slot == 5 and self.seen is not None:
            at = data.find(PRICE, start, end)
            newest = float(data[at + len(PRICE) : at + len(PRICE) + 32].split(b",", 1)[0].rstrip(b"]}")) if at >= 0 else 0.0
            if newest > LONG_AGO_MS:
                self.seen.answer(newest, time.time() * 1000)
        self._missing -= 1
        if not self._missing:
            self.refreshes += 1
            self.counts.refreshes += 1
            self.counts.latencies.append((time.perf_counter() - self._started) * 1000)
            if self._first_refresh is not None and not self._first_refresh.done():
                self._first_refresh.set_result(None)
            elif self._is_notified:
                self._refresh()

    def _check(self, slot: int, frame: bytes) -> None:
        """Look at an answer that does not begin as the last of its kind did, and remember how it begins."""
        assert self._dialogue is not None
        _, _, number, body = protocol.decode(frame)
        if number != self._dialogue.refresh[slot][0] or not body:
            self.counts.errors += number == ERROR or not body
            if self._first_refresh is not None and not self._first_refresh.done():
                self._first_refresh.set_exception(Broken(f"answered {number}: {body[:200]!r}"))
            return
        tag = protocol.varint(number << 3 | 2)
        self._prefixes[slot] = frame[: len(frame) - len(body) - len(protocol.varint(len(body)))]
        assert self._prefixes[slot].endswith(tag)


async def gather_viewers(plan: Plan, counts: Counts) -> list[Viewer]:
    """Return viewers that are all there.

    Raises:
        Broken: one was refused, or it took too long.
    """
    dialogues = itertools.cycle(plan.dialogues or [None])
    viewers = [Viewer(plan, counts, dialogue) for dialogue, _ in zip(dialogues, range(plan.viewers), strict=False)]
    slots = asyncio.Semaphore(CONNECTING)

    async def start(viewer: Viewer) -> None:
        async with slots:
            await viewer.start()

    try:
        async with asyncio.timeout(plan.setup_seconds), asyncio.TaskGroup() as group:
            for viewer in viewers:
                group.create_task(start(viewer))
    except TimeoutError:
        raise Broken(f"{plan.viewers} viewers were not there within {plan.setup_seconds:g} s") from None
    except ExceptionGroup as errors:
        raise Broken(f"{type(errors.exceptions[0]).__name__}: {errors.exceptions[0]}") from None
    return viewers


async def watch(plan: Plan) -> None:
    """Set up, say so, wait for the word, measure for the plan's window, and report."""
    counts = Counts()
    idle_rss = Meter(plan.pid).rss_bytes()
    try:
        viewers = await gather_viewers(plan, counts)
    except Broken as error:
        say({"failed": str(error)})
        return
    gc.freeze()
    say({"ready": True})
    await asyncio.to_thread(sys.stdin.readline)
    await asyncio.sleep(plan.warm_seconds)
    meter, own, beside = Meter(plan.pid), Meter(os.getpid()), {name: Meter(pid) for name, pid in plan.beside.items()}
    machine = busy_seconds()
    counts.latencies.clear()
    before = [viewer.refreshes for viewer in viewers]
    began = (counts.refreshes, counts.notifications)
    seen = [viewer.seen for viewer in viewers if viewer.seen is not None]
    for one in seen:
        one.begin(time.time() * 1000)
    started = time.perf_counter()
    seconds = 0.0
    while seconds < plan.seconds or (seconds < PATIENCE * plan.seconds and _is_coarse(plan, counts.refreshes - began[0])):
        await asyncio.sleep(plan.seconds if not seconds else plan.seconds / 4)
        seconds = time.perf_counter() - started
    figures: dict[str, Any] = {
        "seconds": seconds,
        "viewers": plan.viewers,
        "server_cores": meter.cpu_seconds() / seconds,
        "loop_cores": meter.main_thread_seconds() / seconds,
        "client_cores": own.cpu_seconds() / seconds,
        "machine_cores": (busy_seconds() - machine) / seconds,
        "beside": {name: one.cpu_seconds() / seconds for name, one in beside.items()},
        "refreshes": counts.refreshes - began[0],
        "notifications": counts.notifications - began[1],
    }
    each = sorted((viewer.refreshes - count) / seconds for viewer, count in zip(viewers, before, strict=True))
    late = sorted(counts.latencies)
    cpu_seconds = max(figures["server_cores"] * seconds, 0.01)
    figures |= {
        "rate": figures["refreshes"] / seconds / max(plan.viewers, 1),
        "slowest": each[0] if each else None,
        "per_cpu_second": figures["refreshes"] / cpu_seconds,
        "deliveries_per_cpu_second": figures["notifications"] / cpu_seconds,
        "latency_p50": percentile(late, 0.5),
        "latency_p99": percentile(late, 0.99),
        "rss_idle": idle_rss,
        "rss": meter.rss_bytes(),
    }
    if seen:
        figures["seen"] = await _what_was_seen(seen)
    say(figures | {"errors": counts.errors})
    for viewer in viewers:
        viewer.close()


async def _what_was_seen(seen: list[Seen]) -> str:
    """Wait for the updates of the window, and return the histogram of all viewers' latencies, encoded."""
    ended = time.time() * 1000
    for one in seen:
        one.end(ended)
    deadline = time.monotonic() + LATE_SECONDS
    while any(one.missing(ended) for one in seen) and time.monotonic() < deadline:  # noqa: ASYNC110 - an event would cost at each answer
        await asyncio.sleep(0.02)
    now = time.time() * 1000
    encoded: bytes = histogram(latency for one in seen for latency in one.latencies(now)).encode()
    return encoded.decode()


def _is_coarse(plan: Plan, refreshes: int) -> bool:
    """Say whether a window saw so few refreshes of each viewer that where it began and ended would count."""
    return plan.does == "refresh" and refreshes < COARSE * plan.viewers


async def time_requests(plan: Plan) -> None:
    """One viewer on an idle server: report the median latency of each kind of request, in microseconds."""
    counts = Counts()
    viewer = Viewer(plan, counts, plan.dialogues[0])
    await viewer.connect()
    dialogue = plan.dialogues[0]
    await viewer.ask(plan.table, protocol.make_view(viewer.view_id, dialogue.config))
    kinds = {name: body for name, body in dialogue.kinds.items() if name != "whole"}
    found: dict[str, list[float]] = {name: [] for name in kinds}
    deadline = time.perf_counter() + plan.seconds
    while time.perf_counter() < deadline:
        for name, body in kinds.items():
            started = time.perf_counter()
            await viewer.ask(viewer.view_id, body)
            found[name].append((time.perf_counter() - started) * 1e6)
    say({name: percentile(values, 0.5) for name, values in found.items()})
    viewer.close()


def say(what: dict[str, Any]) -> None:
    """Tell the benchmark, which reads our output."""
    print(json.dumps(what), flush=True)


def main() -> None:
    """Read a pickled plan, in hex on one line, and do it."""
    plan: Plan = pickle.loads(bytes.fromhex(sys.stdin.readline()))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(time_requests(plan) if plan.does == "time requests" else watch(plan))


if __name__ == "__main__":
    main()

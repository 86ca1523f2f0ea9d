"""`parallax.connect`: a Perspective client whose connection survives the loss of a node."""

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import perspective
from tornado.httpclient import HTTPRequest

from parallax.errors import ConnectError
from parallax.link import Link
from parallax.link_state import LinkState

T = TypeVar("T")
Token = str | Callable[[], str] | Callable[[], Awaitable[str]]


@asynccontextmanager
async def connect(
    url: str,
    *,
    token: Token | None = None,
    on_state: Callable[[LinkState], None] = lambda state: None,
    timeout: float = 30.0,
    probe: float = 1.0,
) -> AsyncIterator["perspective.AsyncClient"]:
    """Connect to a fleet: `async with parallax.connect("https://parallax.example.org") as client:`.

    Args:
        url: of the load balancer or of a node; http(s) or ws(s), with or without /websocket.
        token: a JWT, or a function that returns a fresh one; it is asked before each connection.
        on_state: called whenever the state of the connection changes.
        timeout: seconds after which a request that has no answer fails, and the first connection, too.
        probe: seconds of silence after which the node is asked whether it is there.

    When a node dies, the client goes on with another one: its views and subscriptions are made again there, and subscribers are
    told to look again, those of rows (`on_update(mode="row")`) by all rows as one delta. An edit that was sent and not confirmed
    fails: it may have been made or not. A view that cannot be made any more is reported as deleted.

    Raises:
        ConnectError: no node lets us in.
    """
    client: perspective.AsyncClient

    async def deliver(frame: bytes) -> None:
        await client.handle_response(frame)

    link = Link(_requests(url, token, timeout), deliver, on_state, timeout_seconds=timeout, probe_seconds=probe)
    client = perspective.AsyncClient(link.ask)
    await link.open()
    try:
        yield client
    finally:
        await link.close()


@contextmanager
def connect_sync(
    url: str,
    *,
    token: Token | None = None,
    on_state: Callable[[LinkState], None] = lambda state: None,
    timeout: float = 30.0,
    probe: float = 1.0,
) -> Iterator["perspective.Client"]:
    """Do the same for programs without asyncio: `with parallax.connect_sync("https://parallax.example.org") as client:`.

    The connection has threads of its own. Callbacks of subscriptions run in one of them, one after the other: they must not call
    the client, whose answers come the same way, but hand over to another thread.

    Raises:
        ConnectError: no node lets us in.
    """
    client: perspective.Client
    loop = asyncio.new_event_loop()
    running = threading.Thread(target=loop.run_forever, name="parallax link", daemon=True)
    running.start()

    async def deliver(frame: bytes) -> None:
        await loop.run_in_executor(answers, client.handle_response, frame)

    async def opened() -> Link:
        return Link(_requests(url, token, timeout), deliver, on_state, timeout_seconds=timeout, probe_seconds=probe)

    def send(frame: bytes) -> None:
        link.check_open()
        loop.call_soon_threadsafe(link.ask_now, frame)

    def in_loop(work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, loop).result()

    with ThreadPoolExecutor(1, thread_name_prefix="parallax answers") as answers:
        try:
            link = in_loop(opened())
            client = perspective.Client(send, lambda: None)
            in_loop(link.open())
            try:
                yield client
            finally:
                in_loop(link.close())
        finally:
            loop.call_soon_threadsafe(loop.stop)
            running.join()
            loop.close()


def _requests(url: str, token: Token | None, timeout: float) -> Callable[[], Awaitable[HTTPRequest]]:
    address = _websocket_url(url)

    async def request() -> HTTPRequest:
        found = token() if callable(token) else token
        fresh = await found if inspect.isawaitable(found) else found
        headers = {} if fresh is None else {"Authorization": f"Bearer {fresh}"}
        return HTTPRequest(address, headers=headers, connect_timeout=min(timeout, 5.0), request_timeout=timeout)

    return request


def _websocket_url(url: str) -> str:
    parts = urlsplit(url)
    scheme = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}.get(parts.scheme)
    if scheme is None or not parts.netloc:
        raise ConnectError(f"{url!r} is no address: expected http://, https://, ws:// or wss:// and a host")
    path = parts.path if parts.path not in ("", "/") else "/websocket"
    return urlunsplit((scheme, parts.netloc, path, parts.query, ""))

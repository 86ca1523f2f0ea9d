"""A Locust user who speaks Perspective's protocol over a websocket: the base of this folder's users, and of anybody's own.

Works with any table of any node, and with or without the rest of this folder: what it measures are Locust's own entries.
"""

import itertools
import os
import random
import time
from collections.abc import Mapping
from typing import Any, ClassVar

import gevent
from locust import User, task

from loadtests.accounting import Freshness
from loadtests.conversation import PLAIN, Answer, Conversation, Heard, Lost, TooLate
from loadtests.measures import Measures, fire, now_us
from loadtests.plan import Dialogue
from loadtests.protocol import Body, Broken, make_view

REFRESH = ("dimensions",) * 4 + ("schema", "rows")
FIRST_WAIT, LONGEST_WAIT = 0.1, 2.0


class PerspectiveUser(User):
    """One viewer, who connects to `host` (http, https, ws or wss), and again whenever the connection is lost.

    A subclass says in `visit` what it does from one connection to its end.
    """

    abstract = True
    hello = True
    """Whether to speak as Parallax's link, which never goes back in time from node to node, or as a stock client."""
    headers: ClassVar[Mapping[str, str]] = (
        {"Authorization": f"Bearer {os.environ['TOKEN']}"} if "TOKEN" in os.environ else {}
    )
    """Of the websocket's request, such as `{"Authorization": "Bearer ..."}`."""
    timeout = 30.0
    freshness: Freshness | None = None
    """What of the schedule is on the screen, for those who look at it."""
    _numbers = itertools.count(1)

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self.lost_us = 0
        """When the connection was lost of which the traces still show; 0 before the first loss."""
        self._positions: dict[str, str] = {}
        self._talk: Conversation | None = None
        self._views = itertools.count(1)
        self._name = f"load{os.getpid():x}x{next(self._numbers):x}"

    # For subclasses --------------------------------------------------------------------------------------------------

    def visit(self) -> None:
        """Do what this user does on one connection; return when all is done."""
        raise NotImplementedError

    @property
    def talk(self) -> Conversation:
        """The connection.

        Raises:
            Lost: there is none.
        """
        if self._talk is None:
            raise Lost(0, "not connected")
        return self._talk

    def ask(self, name: str, entity_id: str, body: Body) -> Answer:
        """Send a request, wait for its answer, and have Locust note it under `name`.

        Raises:
            Broken: it was refused.
            Lost: the connection ended first.
            TooLate: nothing came in time.
        """
        return self.take(name, self.talk.send(entity_id, body))

    def take(self, name: str, msg_id: int) -> Answer:
        """Wait for the answer to a request that was sent before; as `ask`."""
        try:
            answer = self.talk.take(msg_id)
        except (Broken, TooLate) as error:
            self.note(name, 0, wrong=str(error))
            raise
        self.note(name, answer.took_us, answer.size)
        return answer

    def make_view(self, table: str, config: bytes) -> str:
        """Make a view and return its id; raises as `ask`. `loadtests.requests.record` tells the bytes of a configuration."""
        view_id = f"{self._name}v{next(self._views):x}"
        self.ask("make view", table, make_view(view_id, config))
        return view_id

    def subscribe(self, view_id: str, hear: Heard, body: bytes = PLAIN) -> None:
        """Have notifications of a view handed to `hear`."""
        self.talk.subscribe(view_id, hear, body)

    def refresh(self, view_id: str, dialogue: Dialogue) -> Answer:
        """Ask the six questions that `<perspective-viewer>` asks at each notification, and return the answer with the rows."""
        numbers = [self.talk.send(view_id, body) for body in dialogue.refresh]
        answers = [self.take(name, number) for name, number in zip(REFRESH, numbers, strict=True)]
        self.note("refresh", max(answer.took_us for answer in answers), sum(answer.size for answer in answers))
        return answers[-1]

    def note(self, name: str, microseconds: int, size: int = 0, wrong: str | None = None) -> None:
        """Record something that took so long; `wrong` says how it failed."""
        if self.measures is None:
            fire(self.environment, name, microseconds, size, wrong)
        else:
            self.measures.record(name, microseconds, size, wrong)

    def traffic(self) -> tuple[int, int]:
        """Return the messages and bytes that came since the last call."""
        return (0, 0) if self._talk is None else self._talk.traffic()

    # Connections -----------------------------------------------------------------------------------------------------

    @property
    def measures(self) -> Measures | None:
        """The books of this process, if the locustfile keeps any."""
        found: Measures | None = getattr(self.environment, "measures", None)
        return found

    @task
    def live(self) -> None:
        """Visit again and again until it is done."""
        wait = FIRST_WAIT
        while True:
            try:
                self._connect()
                wait = FIRST_WAIT
                self.visit()
                return
            except (Lost, Broken, TooLate) as error:
                self._left(error)
            gevent.sleep(random.uniform(0, wait))
            wait = min(LONGEST_WAIT, 2 * wait)

    def on_start(self) -> None:
        """Be among those who are looked at."""
        if self.measures is not None:
            self.measures.users.add(self)

    def on_stop(self) -> None:
        """Hang up."""
        if self.measures is not None:
            self.measures.users.discard(self)
        self._hang_up()

    def leave(self) -> None:
        """Drop the connection on purpose, to come back at once."""
        self._hang_up()
        self.lost_us = now_us()
        raise Lost(0, "left")

    def _connect(self) -> None:
        url = (self.host or "http://127.0.0.1:8080").rstrip("/").replace("http", "ws", 1)
        started = time.perf_counter()
        try:
            self._talk = Conversation(
                url + "/websocket",
                headers=self.headers,
                positions=self._positions,
                hello=self.hello,
                timeout=self.timeout,
            )
        except Lost as error:
            self.note("connect", 0, wrong=str(error))
            raise
        self.note("connect", round((time.perf_counter() - started) * 1e6))

    def _left(self, error: Exception) -> None:
        if self._talk is not None:
            self._positions = self._talk.positions
            self.lost_us = now_us()
            if self.measures is not None:
                self.measures.count("connections lost")
                self.measures.count(f"lost: {error}"[:80])
        self._hang_up()

    def _hang_up(self) -> None:
        if self._talk is not None:
            self._positions = self._talk.positions
            if self.measures is not None:
                self.measures.received(*self._talk.traffic())
            self._talk.close()
            self._talk = None

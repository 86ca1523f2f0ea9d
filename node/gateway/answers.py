"""Answers of the engine about one view or table, each computed once for each version."""

import asyncio
from typing import Any, NamedTuple


class Answer(NamedTuple):
    """The body of a Response, and its kind; ids are put in front for each session."""

    number: int
    body: bytes
    version: int = -1
    """Of the table, when it was computed."""


Question = tuple[int, bytes]
"""The number of a request and its canonical body."""


class Budget:
    """The bytes that all cached answers of a node may take together."""

    def __init__(self, *, limit: int, largest: int) -> None:
        self.used = 0
        self._limit, self._largest = limit, largest
        self._caches: set[Answers] = set()  # those that hold something

    def admits(self, size: int) -> bool:
        """Say whether an answer may be kept; when all is full, everything else goes."""
        if size > self._largest:
            return False
        if self.used + size > self._limit:
            for cache in tuple(self._caches):
                cache.clear()
        return True

    def took(self, cache: "Answers", size: int) -> None:
        """Take note of an answer that is kept."""
        self.used += size
        self._caches.add(cache)

    def gave(self, cache: "Answers", size: int) -> None:
        """Take note that a cache was emptied."""
        self.used -= size
        self._caches.discard(cache)


class Answers:
    """The answers about `entity_id` at one version, and those that are being computed.

    A computation under way may be joined by anybody: it runs in the table's lane, in which polls run, too, so it cannot be of an
    older version than the last one that a session was notified of.
    """

    def __init__(self, entity_id: str, budget: Budget, config: Any = None, fingerprint: str = "") -> None:
        self.entity_id = entity_id
        self.fingerprint = fingerprint
        """A view's, by which the journal and the quarantine know it."""
        self.config = config
        """A view's, as it was asked for; None: it is a table."""
        self.flights: dict[Question, asyncio.Future[Answer]] = {}
        self._budget = budget
        self._version = -1
        self._is_closed = False
        self._kept: dict[Question, Answer] = {}
        self._bytes = 0

    def get(self, question: Question, version: int) -> Answer | None:
        """Return the answer, if it is known for this version of the table."""
        if self._version != version:
            self.clear()
            return None
        return self._kept.get(question)

    def keep(self, question: Question, answer: Answer, version: int) -> None:
        """Keep an answer, if it is small enough."""
        size = len(answer.body) + 200
        if self._is_closed or version < self._version or not self._budget.admits(size):
            return
        if version > self._version:
            self.clear()
            self._version = version
        if question not in self._kept:
            self._kept[question] = answer
            self._bytes += size
            self._budget.took(self, size)

    def clear(self) -> None:
        """Forget all answers."""
        if self._kept:
            self._kept.clear()
            self._budget.gave(self, self._bytes)
            self._bytes = 0

    def close(self) -> None:
        """Forget all answers, and keep none that still comes: nobody will ask again."""
        self._is_closed = True
        self.clear()

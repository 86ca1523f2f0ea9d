"""Background tasks that always have an owner."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self

from parallax.errors import ParallaxError

log = logging.getLogger(__name__)

CANCEL_AGAIN_SECONDS = 0.2


class Tasks:
    """Own background tasks: a failure is logged and reported, and closing cancels and awaits them all.

    Unlike `asyncio.TaskGroup`, one failed task does not cancel the others, because one broken table must not stop a node;
    `on_failure(task name, exception)` lets the owner decide.
    """

    def __init__(self, on_failure: Callable[[str, BaseException], None] | None = None) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._on_failure = on_failure

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, coroutine: Coroutine[Any, Any, Any], *, name: str) -> asyncio.Task[Any]:
        """Start `coroutine` in the background and keep it until it ends."""
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            is_expected = isinstance(error, ParallaxError)
            log.log(
                logging.INFO if is_expected else logging.ERROR,
                "task %s ended: %s",
                task.get_name(),
                error,
                exc_info=None if is_expected else error,
            )
            if self._on_failure is not None:
                self._on_failure(task.get_name(), error)

    async def close(self) -> None:
        """Cancel every task and wait until all have ended.

        A library that swallows a cancellation, as `asyncio.wait_for` does at times before Python 3.12, is told again.
        """
        pending = set(self._tasks)
        while pending:
            for task in pending:
                task.cancel()
            _, pending = await asyncio.wait(pending, timeout=CANCEL_AGAIN_SECONDS)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

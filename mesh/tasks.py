"""Cancellation that does not get lost, and work that several callers share."""

import asyncio
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from contextvars import Context, copy_context
from typing import Any, Generic, TypeVar

from mesh import deadlines

Result = TypeVar("Result")


def raise_if_cancelled() -> None:
    """Raises CancelledError where this task was asked to stop. For loops: now and then a
    cancellation gets lost in what they call, and nobody cancels twice.

    Python 3.11's asyncio.wait_for, under psycopg and redis-py, drops one that comes in the turn of
    the event loop in which it is done anyway.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


@contextmanager
def losing_no_cancellation() -> Generator[None]:
    """Raises CancelledError on leaving, where the task was asked to stop meanwhile and what it
    awaited lost that. A task that cleans up after its cancellation is not stopped again."""
    task = asyncio.current_task()
    before = 0 if task is None else task.cancelling()
    yield
    if task is not None and task.cancelling() > before:
        raise asyncio.CancelledError


def for_nobody() -> Context:
    """Returns a context for `create_task` in which no caller's deadline bounds what is done: the
    one who began work that others wait for, too, may have less time than they."""
    context = copy_context()
    context.run(deadlines.CALLER.set, None)
    return context


class Shared(Generic[Result]):
    """Work that several callers wait for. It goes on while one of them waits, whatever becomes of
    the others, and is cancelled when the last has gone."""

    def __init__(self, work: Coroutine[Any, Any, Result], done: Callable[[], object]) -> None:
        """Begins; `done` is called as soon as nobody may join any more."""
        self._waiting = 0
        self._done: Callable[[], object] | None = done
        self._task = asyncio.create_task(work, context=for_nobody())
        self._task.add_done_callback(self._ended)

    async def wait(self) -> Result:
        """Returns, or raises, what the work does."""
        self._waiting += 1
        try:
            return await asyncio.shield(self._task)
        finally:
            self._waiting -= 1
            if not self._waiting and not self._task.done():
                self._close()
                self._task.cancel()

    def _close(self) -> None:
        done, self._done = self._done, None
        if done is not None:
            done()

    def _ended(self, task: "asyncio.Task[Result]") -> None:
        self._close()
        if not task.cancelled():
            task.exception()  # is its waiters' to know; there may be none left

"""What a process works on: since when each call runs, and an end for those that take too long.

gRPC cancels the task of a call whose caller has gone, or whose deadline has passed. A caller that
named no deadline, or a longer one than `mesh/deadlines.py` allows, is answered DEADLINE_EXCEEDED,
and the task cancelled, by `watch`: a look at the running calls now and then costs a call much
less than a timer of its own would.

Whatever cancels it, the work ends where it waits: psycopg has PostgreSQL end the statement and
rolls back, a call to another server is cancelled there, too. What callers share goes on while one
of them waits (`mesh/tasks.py`).
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Any, cast

import grpc

from mesh import deadlines

LOOK_S = 0.1


class Running:
    """The running calls of one method."""

    __slots__ = ("_late", "allowed_s", "since")

    def __init__(self, path: str) -> None:
        """Raises KeyError where the table does not know the method."""
        self.allowed_s = deadlines.RULES[path].deadline_s
        """How long a call may take; None: for ever."""
        self.since: dict[asyncio.Task[Any], float] = {}
        """When each began, the oldest first."""
        self._late: set[asyncio.Task[Any]] = set()

    def begin(self, context: "grpc.aio.ServicerContext[Any, Any]") -> "asyncio.Task[Any]":
        """Counts the current task in; `end` must follow."""
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        self.since[task] = now = time.monotonic()
        deadlines.CALLER.set(_Caller(context, now, self))
        return task

    def attend(self, context: "grpc.aio.ServicerContext[Any, Any]") -> None:
        """Tells the current task who waits for it, without counting it: a stream."""
        deadlines.CALLER.set(_Caller(context, 0.0, self))

    def end(self, task: "asyncio.Task[Any]") -> None:
        """Counts it out."""
        del self.since[task]
        if self._late:
            self._late.discard(task)

    def was_late(self, task: "asyncio.Task[Any]") -> bool:
        """Whether a cancellation that arrived in the task came from `stop_late`, and from nobody
        else; then it is over."""
        return task in self._late and not task.uncancel()

    def stop_late(self, now: float) -> None:
        """Cancels what takes longer than is allowed."""
        if self.allowed_s is None:
            return
        for task, since in list(self.since.items()):
            if now - since < self.allowed_s:
                break
            if task not in self._late:
                self._late.add(task)
                task.cancel()


class _Caller:
    __slots__ = ("_context", "_running", "_since")

    def __init__(
        self, context: "grpc.aio.ServicerContext[Any, Any]", since: float, running: Running
    ) -> None:
        self._context = context
        self._since = since
        self._running = running

    def remaining_s(self) -> float | None:
        """See deadlines.Caller."""
        own_s = cast("float | None", self._context.time_remaining())  # None where none was named
        allowed_s = self._running.allowed_s
        if allowed_s is None:
            return own_s
        allowed_s -= time.monotonic() - self._since
        return allowed_s if own_s is None else min(own_s, allowed_s)


async def watch(methods: Sequence[Running], factor: float) -> None:
    """Stops what takes too long, until cancelled; deadlines are those of the table, times `factor`,
    from its first step on."""
    for running in methods:
        if running.allowed_s is not None:
            running.allowed_s *= factor
    while True:
        await asyncio.sleep(LOOK_S)
        now = time.monotonic()
        for running in methods:
            running.stop_late(now)

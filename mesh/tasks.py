"""Cancellation that does not get lost."""

import asyncio


def raise_if_cancelled() -> None:
    """Raises CancelledError where this task was asked to stop. For loops: now and then a
    cancellation gets lost in what they call, and nobody cancels twice.

    Python 3.11's asyncio.wait_for, under psycopg and redis-py, drops one that comes in the turn of
    the event loop in which it is done anyway.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError

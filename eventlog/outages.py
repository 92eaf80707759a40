"""Which errors mean that a part is away for now, so that trying again for ever is right."""

import asyncio
import random

import grpc
import psycopg
import redis.exceptions

from domain import errors
from mesh.tasks import raise_if_cancelled as raise_if_cancelled

# A failed write for want of memory or disk comes as a plain error with one of these words.
_VALKEY_WORDS = ("OOM", "MISCONF", "LOADING", "BUSY", "READONLY", "MASTERDOWN", "CLUSTERDOWN")
_GRPC_CODES = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)
_OUTAGES = (
    OSError,  # TimeoutError too
    psycopg.OperationalError,  # pool time-outs and cancelled statements too
    psycopg.InterfaceError,  # a connection that was closed under us
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.OutOfMemoryError,
    errors.Unavailable,
    errors.Overloaded,
    errors.DeadlineExceeded,
)


def is_outage(error: BaseException) -> bool:
    """Whether the error says that PostgreSQL, a Valkey, a server or the network is away."""
    if isinstance(error, _OUTAGES):
        return True
    if isinstance(error, redis.exceptions.ResponseError):
        return str(error).startswith(_VALKEY_WORDS)
    return isinstance(error, grpc.aio.AioRpcError) and error.code() in _GRPC_CODES


class Backoff:
    """Waits that double up to a limit, each shortened by up to a half at random, so that many
    processes do not come back at one moment."""

    def __init__(self, first_s: float = 0.05, limit_s: float = 2.0) -> None:
        self._first_s = first_s
        self._limit_s = limit_s
        self._next_s = first_s

    @property
    def fresh(self) -> bool:
        """Whether nothing was waited for since the last reset: the time to log."""
        return self._next_s == self._first_s

    async def wait(self) -> None:
        """Waits, longer each time."""
        wait_s, self._next_s = self._next_s, min(self._next_s * 2, self._limit_s)
        await asyncio.sleep(wait_s * (1 - random.random() / 2))  # noqa: S311 - no secret

    def reset(self) -> None:
        """Begins with the first wait again."""
        self._next_s = self._first_s

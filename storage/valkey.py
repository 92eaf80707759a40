"""Connections to Valkey by redis-py: for every call that is not on the hot path."""

import logging
from collections.abc import AsyncGenerator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

import hiredis
import redis.asyncio
import redis.exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from mesh.settings import Settings

Valkey = redis.asyncio.Redis
CONNECTIONS_MAX = 64  # of one process; more wait

log = logging.getLogger(__name__)


class _Packing:
    """Packs commands in C: 0.08 us an argument. redis-py's own packing takes ten times as long,
    which would be more than half of what fan-out's worker does: its calls have hundreds."""

    def pack_command(self, *arguments: Any) -> list[bytes]:
        """Returns a command as it is sent. A name of two words is two arguments."""
        name, *rest = arguments
        return [hiredis.pack_command((*name.split(), *rest))]


class _Connection(_Packing, redis.asyncio.Connection):
    pass


class _TlsConnection(_Packing, redis.asyncio.SSLConnection):
    pass


@asynccontextmanager
async def connect(url: str, settings: Settings) -> AsyncGenerator[Valkey]:
    """Opens a bounded pool of connections that answer bytes; it connects on first use."""
    # A caller waits for a connection; the plain pool would fail it at once.
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        url,
        decode_responses=False,
        socket_connect_timeout=settings.valkey_timeout_s,
        socket_timeout=settings.valkey_timeout_s,
        timeout=settings.valkey_timeout_s,
        max_connections=CONNECTIONS_MAX,
        protocol=2,
        # A caller knows what to do without the cache; three tries would only keep it waiting.
        retry=Retry(NoBackoff(), 0),
    )
    pool.connection_class = _TlsConnection if url.startswith("rediss:") else _Connection
    valkey = redis.asyncio.Redis(connection_pool=pool)
    try:
        yield valkey
    finally:
        await valkey.aclose()
        await pool.aclose()


async def best_effort(what: str, call: Awaitable[object]) -> None:
    """Awaits a call to the cache that may fail, because something else does the same later."""
    try:
        await call
    except (redis.exceptions.RedisError, OSError) as error:
        log.warning("%s failed: %s", what, type(error).__name__)

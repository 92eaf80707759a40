"""Connections to Valkey by redis-py: for every call that is not on the hot path."""

import logging
from collections.abc import AsyncGenerator, Awaitable
from contextlib import asynccontextmanager

import redis.asyncio
import redis.exceptions

from mesh.settings import Settings

Valkey = redis.asyncio.Redis
CONNECTIONS_MAX = 64

log = logging.getLogger(__name__)


@asynccontextmanager
async def connect(url: str, settings: Settings) -> AsyncGenerator[Valkey]:
    """Opens a bounded pool of connections that answer bytes; it connects on first use."""
    valkey = redis.asyncio.Redis.from_url(
        url,
        decode_responses=False,
        socket_connect_timeout=settings.valkey_timeout_s,
        socket_timeout=settings.valkey_timeout_s,
        max_connections=CONNECTIONS_MAX,
    )
    try:
        yield valkey
    finally:
        await valkey.aclose()


async def best_effort(what: str, call: Awaitable[object]) -> None:
    """Awaits a call to the cache that may fail, because something else does the same later."""
    try:
        await call
    except (redis.exceptions.RedisError, OSError) as error:
        log.warning("%s failed: %s", what, type(error).__name__)

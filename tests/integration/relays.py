"""Relays under test: run, fed, and looked at."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import redis.asyncio
from chirp.v1 import events_pb2

from eventlog import valkey_streams
from mesh.settings import Settings
from storage import database, outbox
from storage.database import Pool
from workers.outbox_relay import Relay

DEADLINE_S = 15.0
SEQUENCE_TAG = events_pb2.Event(sequence=1).SerializeToString()[:-1]


@asynccontextmanager
async def open_pool(settings: Settings) -> AsyncGenerator[Pool]:
    """Connections for the test itself; enough to hold a few transactions open at once."""
    async with database.open_pool(settings, size_max=6) as pool:
        yield pool


@asynccontextmanager
async def running(settings: Settings) -> AsyncGenerator[asyncio.Task[None]]:
    """A relay with its own connections, as a process has them."""
    async with (
        database.open_pool(settings, size_max=2) as own_pool,
        valkey_streams.open_log(settings) as event_log,
    ):
        task = asyncio.create_task(Relay(own_pool, event_log, settings).run())
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def post(pool: Pool, key: int, *payloads: str) -> None:
    async with pool.connection() as connection, connection.transaction():
        for payload in payloads:
            await outbox.insert(connection, partition_key=key, payload=payload.encode())


async def unsent(pool: Pool) -> int:
    async with pool.connection() as connection:
        return await outbox.count_unsent(connection)


async def until(done: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not await done():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


async def until_sent(pool: Pool) -> None:
    async def done() -> bool:
        return await unsent(pool) == 0

    await until(done)


async def appended(settings: Settings, key: int) -> list[str]:
    """Everything in the log of one key, in order, repetitions too."""
    found: list[tuple[tuple[int, int], str]] = []
    async with redis.asyncio.Redis.from_url(settings.eventlog_url, protocol=2) as valkey:
        for partition in range(settings.eventlog_partitions):
            entries = await cast(Any, valkey).xrange(f"eventlog:{{p{partition}}}")
            for name, fields in entries:
                epoch, _, count = name.decode().partition("-")
                if int(fields[b"k"]) == key:
                    found.append(((int(epoch), int(count)), written(fields[b"p"])))
    return [payload for _, payload in sorted(found)]


def written(payload: bytes) -> str:
    """What was put into the outbox, without the relay's stamp behind it."""
    text, _, stamp = payload.partition(SEQUENCE_TAG)
    assert stamp
    return text.decode()


async def flush(settings: Settings) -> None:
    async with redis.asyncio.Redis.from_url(settings.eventlog_url) as valkey:
        await valkey.flushall()

"""The relay: nothing lost, whoever dies."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import pytest
import pytest_asyncio
import redis.asyncio

from eventlog import valkey_streams
from eventlog.contract import Fenced, partition_of
from eventlog.valkey_streams import ValkeyStreams
from mesh.settings import Settings
from storage import outbox
from storage.database import Connection, Pool
from tests.integration.relays import (
    appended,
    open_pool,
    post,
    running,
    unsent,
    until_sent,
)
from workers.outbox_relay import Relay

DEADLINE_S = 15.0


@pytest_asyncio.fixture
async def pool(settings: Settings) -> AsyncGenerator[Pool]:
    async with open_pool(settings) as opened:
        yield opened


@pytest_asyncio.fixture
async def log(settings: Settings) -> AsyncGenerator[ValkeyStreams]:
    async with valkey_streams.open_log(settings) as event_log:
        yield event_log


async def test_a_relay_that_dies_between_append_and_mark_repeats_and_loses_nothing(
    settings: Settings, pool: Pool, log: ValkeyStreams
) -> None:
    await post(pool, 1, "1", "2", "3")
    async with pool.connection() as connection:
        dying = Relay(pool, log, settings)
        await dying.take_over(connection)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(outbox, "mark_sent", _dies)
            with pytest.raises(ConnectionResetError):
                await dying.step(connection)
    await post(pool, 1, "4")

    async with running(settings):
        await until_sent(pool)

    assert await appended(settings, 1) == ["1", "2", "3", "1", "2", "3", "4"]


async def test_a_relay_that_slept_while_another_took_over_neither_appends_nor_marks(
    settings: Settings, pool: Pool, log: ValkeyStreams
) -> None:
    await post(pool, 1, "1")
    async with pool.connection() as connection:
        sleeper = Relay(pool, log, settings)
        await sleeper.take_over(connection)
        assert await sleeper.step(connection) == 1
        async with valkey_streams.open_log(settings) as other_log, pool.connection() as other:
            await Relay(pool, other_log, settings).take_over(other)
        await post(pool, 1, "2")

        with pytest.raises(Fenced):
            await sleeper.step(connection)
        with pytest.raises(Fenced):
            await _append_nowhere(sleeper, connection)

    assert await appended(settings, 1) == ["1"]
    assert await unsent(pool) == 1


async def test_of_two_relays_one_leads_and_the_other_takes_over_when_it_dies(
    settings: Settings, pool: Pool
) -> None:
    async with running(settings) as first:
        await post(pool, 1, "1")
        await until_sent(pool)
        async with running(settings):
            await post(pool, 1, "2")
            await until_sent(pool)
            async with pool.connection() as connection:
                # The connection of whoever leads dies, as with a killed process.
                await connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
                    " AND objid = %s AND database ="
                    " (SELECT oid FROM pg_database WHERE datname = current_database())",
                    (outbox.RELAY_LOCK,),
                )
            first.cancel()
            began = time.monotonic()
            await post(pool, 1, "3")
            await until_sent(pool)
            assert time.monotonic() - began < 5

    assert await appended(settings, 1) == ["1", "2", "3"]


async def test_relay_processes_killed_again_and_again_lose_nothing(
    settings: Settings, pool: Pool
) -> None:
    environment = {
        **os.environ,
        "CHIRP_DATABASE_URL": settings.database_url,
        "CHIRP_EVENTLOG_URL": settings.eventlog_url,
        "CHIRP_LISTEN": "127.0.0.1:0",
        "CHIRP_OUTBOX_POLL_MS": "1",
    }
    posted = 0

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "workers.outbox_relay"],
            env=environment,
            stderr=subprocess.DEVNULL,
        )

    relays = [start(), start()]
    try:
        for _ in range(5):
            # Whichever leads is killed just after an append.
            leader_pid = await leader(pool, relays)
            victim = next(relay for relay in relays if relay.pid == leader_pid)
            before = await length(settings)
            await post(pool, 1, *map(str, range(posted, posted + 3_000)))
            posted += 3_000
            while await length(settings) == before:
                assert victim.poll() is None
            victim.kill()
            victim.wait()
            relays = [relay for relay in relays if relay is not victim] + [start()]
        await until_sent(pool)
    finally:
        for relay in relays:
            relay.kill()
            relay.wait()

    found = [int(payload) for payload in await appended(settings, 1)]
    firsts = list(dict.fromkeys(found))
    lasts = list(dict.fromkeys(reversed(found)))[::-1]
    print(f"{posted} events, {len(found) - posted} repetitions")
    assert firsts == lasts == list(range(posted))


async def length(settings: Settings) -> int:
    async with redis.asyncio.Redis.from_url(settings.eventlog_url) as valkey:
        partition = partition_of(1, settings.eventlog_partitions)
        return int(await cast(Any, valkey).xlen(f"eventlog:{{p{partition}}}"))


async def leader(pool: Pool, relays: list[subprocess.Popen[bytes]]) -> int:
    """The process id of the relay that holds the lock: it is the one whose port PostgreSQL sees."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        assert time.monotonic() < deadline
        async with pool.connection() as connection:
            cursor = await connection.execute(
                "SELECT client_port FROM pg_locks JOIN pg_stat_activity USING (pid)"
                " WHERE locktype = 'advisory' AND objid = %s AND granted AND database ="
                " (SELECT oid FROM pg_database WHERE datname = current_database())",
                (outbox.RELAY_LOCK,),
            )
            row = await cursor.fetchone()
        for relay in relays if row else ():
            if row and _has_port(relay.pid, int(row[0])):
                return relay.pid
        await asyncio.sleep(0.01)


def _has_port(pid: int, port: int) -> bool:
    inodes = {
        line.split()[9]
        for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
        if line.split()[1].endswith(f":{port:04X}")
    }
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            if any(f"socket:[{inode}]" == str(link.readlink()) for inode in inodes):
                return True
    return False


async def _append_nowhere(relay: Relay, connection: Connection) -> None:
    """A step whose append succeeded before it fell asleep: the mark alone is what is refused."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ValkeyStreams, "append", _nothing)
        await relay.step(connection)


async def _nothing(*_: object, **__: object) -> None:
    return


async def _dies(*_: object, **__: object) -> bool:
    raise ConnectionResetError("killed")

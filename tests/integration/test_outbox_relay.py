"""The relay: nothing lost, nothing out of order, whoever dies."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import pytest_asyncio
import redis.asyncio

from eventlog import valkey_streams
from eventlog.contract import Fenced, Record
from eventlog.valkey_streams import ValkeyStreams
from mesh.settings import Settings
from storage import database, outbox
from storage.database import Connection, Pool
from workers.outbox_relay import Relay

DEADLINE_S = 15.0


@pytest_asyncio.fixture
async def pool(settings: Settings) -> AsyncGenerator[Pool]:
    async with database.open_pool(settings, size_max=6) as opened:
        yield opened


@pytest_asyncio.fixture
async def log(settings: Settings) -> AsyncGenerator[ValkeyStreams]:
    async with valkey_streams.open_log(settings) as event_log:
        yield event_log


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
                    found.append(((int(epoch), int(count)), fields[b"p"].decode()))
    return [payload for _, payload in sorted(found)]


async def flush(settings: Settings) -> None:
    async with redis.asyncio.Redis.from_url(settings.eventlog_url) as valkey:
        await valkey.flushall()


async def test_committed_events_reach_the_log_in_order(settings: Settings, pool: Pool) -> None:
    async with running(settings):
        for begin in range(0, 60, 20):
            await asyncio.gather(
                *(post(pool, key, *map(str, range(begin, begin + 20))) for key in (1, 2, 3))
            )
        await until_sent(pool)

    for key in (1, 2, 3):
        assert await appended(settings, key) == [str(n) for n in range(60)]


async def test_a_transaction_that_commits_late_is_not_skipped(
    settings: Settings, pool: Pool
) -> None:
    async with running(settings), pool.connection() as slow:
        async with slow.transaction():
            await outbox.insert(slow, partition_key=1, payload=b"took the first id")
            for number in range(50):
                await post(pool, 2, str(number))
            await until_sent(pool)  # what is committed is sent; the open one is not seen
            assert await appended(settings, 1) == []
        await until_sent(pool)

    assert await appended(settings, 1) == ["took the first id"]
    assert await appended(settings, 2) == [str(n) for n in range(50)]


async def test_events_of_one_author_keep_the_order_of_their_commits(
    settings: Settings, pool: Pool
) -> None:
    async with pool.connection() as connection:
        await connection.execute(
            "INSERT INTO users (id, username, display_name) VALUES (1, 'author', 'Author')"
        )
    committed: list[str] = []

    async def post_as_the_services_do(number: int) -> None:
        async with pool.connection() as connection, connection.transaction():
            await connection.execute("UPDATE users SET tweet_count = tweet_count + 1 WHERE id = 1")
            await outbox.insert(connection, partition_key=1, payload=str(number).encode())
            committed.append(str(number))  # the row is locked: this is the order of commits

    async with running(settings):
        for begin in range(0, 100, 4):
            await asyncio.gather(*map(post_as_the_services_do, range(begin, begin + 4)))
        await until_sent(pool)

    assert await appended(settings, 1) == committed


async def test_an_event_waits_less_than_fifty_milliseconds_at_rest(
    settings: Settings, pool: Pool, log: ValkeyStreams
) -> None:
    normal = settings.model_copy(update={"outbox_poll_ms": 10})
    delays: list[float] = []
    async with running(normal), log.consumer("fanout", "a") as consumer:
        await post(pool, 0, "first")
        while not await consumer.poll(10, 100):
            pass
        for number in range(40):
            polling = asyncio.create_task(consumer.poll(10, 1_000))
            await asyncio.sleep(0.03 + number / 1_000)
            began = time.perf_counter()
            await post(pool, number, "x")
            assert await polling
            delays.append(time.perf_counter() - began)

    delays.sort()
    print(f"commit to consumer: p50 {delays[20] * 1e3:.1f} ms, max {delays[-1] * 1e3:.1f} ms")
    assert delays[37] < 0.05


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


async def test_two_relays_at_once_send_nothing_twice(settings: Settings, pool: Pool) -> None:
    async with running(settings), running(settings):
        for begin in range(0, 100, 10):
            await post(pool, 1, *map(str, range(begin, begin + 10)))
        await until_sent(pool)

    assert await appended(settings, 1) == [str(n) for n in range(100)]


async def test_a_lost_log_is_filled_again_also_at_rest(settings: Settings, pool: Pool) -> None:
    async with running(settings):
        await post(pool, 1, "1", "2", "3")
        await until_sent(pool)
        await flush(settings)

        async def filled() -> bool:
            return await appended(settings, 1) == ["1", "2", "3"]

        await until(filled)
        await post(pool, 1, "4")
        await until_sent(pool)

    assert await appended(settings, 1) == ["1", "2", "3", "4"]


async def test_a_log_lost_while_no_relay_ran_is_filled_by_the_next(
    settings: Settings, pool: Pool
) -> None:
    async with running(settings):
        await post(pool, 1, "1", "2")
        await until_sent(pool)
    await flush(settings)
    await post(pool, 1, "3")

    async with running(settings):
        await until_sent(pool)

    assert await appended(settings, 1) == ["1", "2", "3"]


async def test_a_refill_that_was_interrupted_is_finished_by_the_next_relay(
    settings: Settings, pool: Pool, log: ValkeyStreams
) -> None:
    async with running(settings):
        await post(pool, 1, "1", "2", "3")
        await until_sent(pool)
    async with pool.connection() as connection:
        fence = (await outbox.take_fence(connection)).fence
        await outbox.begin_refill(connection, fence=fence)
        assert await outbox.unmark(connection, fence=fence, keep_hours=24, limit=1) == 1

    async with running(settings):
        await until_sent(pool)

    assert (await appended(settings, 1))[-3:] == ["1", "2", "3"]


async def test_a_consumer_that_was_overrun_gets_everything_again(
    settings: Settings, pool: Pool
) -> None:
    small = settings.model_copy(update={"eventlog_retention_records": 1_000})
    async with (
        valkey_streams.open_log(small) as log,
        log.consumer("fanout", "a") as consumer,
        running(small),
    ):
        await post(pool, 1, "first")
        records: list[Record] = []
        while not records:
            records = await consumer.poll(10, 100)
        await consumer.commit(records[0].partition, records[0].position)
        await post(pool, 1, *map(str, range(3_000)))
        await until_sent(pool)

        seen: list[str] = []

        async def sent_again() -> bool:
            for record in await consumer.poll(100, 100):
                seen.append(record.payload.decode())
                await consumer.commit(record.partition, record.position)
            return seen[-1:] == ["2999"] and "first" in seen

        await until(sent_again)

    assert seen[seen.index("first") :] == ["first", *map(str, range(3_000))]


async def test_rows_sent_long_ago_are_deleted_and_others_are_not(
    settings: Settings, pool: Pool, log: ValkeyStreams
) -> None:
    async with running(settings):
        await post(pool, 1, "old", "kept")
        await until_sent(pool)
    await post(pool, 1, "unsent")
    async with pool.connection() as connection:
        await connection.execute(
            "UPDATE outbox SET sent_at = now() - interval '25 hours' WHERE payload = 'old'"
        )
        assert not await Relay(pool, log, settings).tidy(connection)
        cursor = await connection.execute("SELECT payload FROM outbox ORDER BY id")
        assert [bytes(row[0]) for row in await cursor.fetchall()] == [b"kept", b"unsent"]


async def test_a_log_that_is_away_is_waited_for(settings: Settings, pool: Pool) -> None:
    away = settings.model_copy(update={"eventlog_url": "redis://127.0.0.1:1/0"})
    await post(pool, 1, "1")
    async with running(away) as task:
        await asyncio.wait([task], timeout=0.3)
        assert not task.done()

    async with running(settings):
        await until_sent(pool)
    assert await appended(settings, 1) == ["1"]


async def test_another_number_of_partitions_than_at_first_is_refused(
    settings: Settings, pool: Pool
) -> None:
    async with running(settings):
        await post(pool, 1, "1")
        await until_sent(pool)

    async with running(settings.model_copy(update={"eventlog_partitions": 8})) as task:
        with pytest.raises(ValueError, match="CHIRP_EVENTLOG_PARTITIONS is 8"):
            await asyncio.wait_for(task, DEADLINE_S)


async def test_thousands_of_rows_a_second_when_busy(settings: Settings, pool: Pool) -> None:
    rows = 20_000
    async with pool.connection() as connection:
        await connection.execute(
            "INSERT INTO outbox (partition_key, payload)"
            " SELECT n %% 500, decode(repeat('ab', 60), 'hex') FROM generate_series(1, %s) AS n",
            (rows,),
        )
    began = time.perf_counter()
    async with running(settings):
        await until_sent(pool)
    took_s = time.perf_counter() - began

    print(f"relay: {rows / took_s:,.0f} rows/s")
    assert rows / took_s > 2_000


async def _append_nowhere(relay: Relay, connection: Connection) -> None:
    """A step whose append succeeded before it fell asleep: the mark alone is what is refused."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ValkeyStreams, "append", _nothing)
        await relay.step(connection)


async def _nothing(*_: object, **__: object) -> None:
    return


async def _dies(*_: object, **__: object) -> bool:
    raise ConnectionResetError("killed")

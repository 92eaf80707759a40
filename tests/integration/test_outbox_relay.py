"""The relay: nothing skipped, nothing out of order, soon."""

import asyncio
import time
from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio
from chirp.v1 import events_pb2

from eventlog import valkey_streams
from eventlog.valkey_streams import ValkeyStreams
from mesh.settings import Settings
from storage import outbox
from storage.database import Pool
from tests.integration.relays import (
    appended,
    open_pool,
    post,
    running,
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
    assert delays[20] < 0.05  # the slowest say how busy the machine is


async def test_a_relay_at_rest_is_woken(settings: Settings, pool: Pool) -> None:
    long = settings.model_copy(update={"outbox_poll_ms": 10_000})
    async with running(long), asyncio.timeout(DEADLINE_S):
        for number in range(10):
            async with pool.connection() as connection, connection.transaction():
                await outbox.insert_all(connection, [(1, str(number).encode())])
                await connection.execute(f"SELECT {outbox.WAKE}")
            await until_sent(pool)

    assert await appended(settings, 1) == [str(n) for n in range(10)]


async def test_two_relays_at_once_send_nothing_twice(settings: Settings, pool: Pool) -> None:
    async with running(settings), running(settings):
        for begin in range(0, 100, 10):
            await post(pool, 1, *map(str, range(begin, begin + 10)))
        await until_sent(pool)

    assert await appended(settings, 1) == [str(n) for n in range(100)]


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


async def test_what_is_stamped_as_settled_is_not_overtaken_by_a_late_commit(
    settings: Settings, pool: Pool, log: ValkeyStreams
) -> None:
    relay = Relay(pool, log, settings)
    async with pool.connection() as leading, log.consumer("fanout", "a") as consumer:
        await relay.take_over(leading)

        async def sent() -> list[tuple[int, int]]:
            for _ in range(3):
                await relay.settle(leading)
            while await relay.step(leading):
                pass
            found: list[events_pb2.Event] = []
            while records := await consumer.poll(100, 100):
                found += [events_pb2.Event.FromString(record.payload) for record in records]
            return sorted((event.sequence, event.settled) for event in found)

        event = events_pb2.Event(user_created=events_pb2.UserCreated(user_id=1))
        payload = event.SerializeToString()
        async with pool.connection() as slow:
            async with slow.transaction():
                await slow.execute("SELECT pg_current_xact_id()")
                await outbox.insert(slow, partition_key=1, payload=payload)
                for key in range(8):
                    async with pool.connection() as connection:
                        await outbox.insert(connection, partition_key=key, payload=payload)
                while_open = await sent()
            late = await sent()
        async with pool.connection() as connection:
            await outbox.insert(connection, partition_key=1, payload=payload)
        afterwards = await sent()

    first = while_open[0][0] - 1
    assert [sequence for sequence, _ in while_open] == list(range(first + 1, first + 9))
    assert all(settled < first for _, settled in while_open)
    assert [sequence for sequence, _ in late] == [first]
    assert late[0][1] <= first
    ((newest, settled),) = afterwards
    assert first + 8 <= settled <= newest == first + 9

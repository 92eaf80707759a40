"""A log that lost records is filled again from the outbox."""

from collections.abc import AsyncGenerator

import pytest_asyncio

from eventlog import valkey_streams
from eventlog.contract import Record
from eventlog.valkey_streams import ValkeyStreams
from mesh.settings import Settings
from storage import outbox
from storage.database import Pool
from tests.integration.relays import (
    appended,
    flush,
    open_pool,
    post,
    running,
    until,
    until_sent,
    written,
)


@pytest_asyncio.fixture
async def pool(settings: Settings) -> AsyncGenerator[Pool]:
    async with open_pool(settings) as opened:
        yield opened


@pytest_asyncio.fixture
async def log(settings: Settings) -> AsyncGenerator[ValkeyStreams]:
    async with valkey_streams.open_log(settings) as event_log:
        yield event_log


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
        assert not await consumer.commit({records[0].partition: records[0].position})
        await post(pool, 1, *map(str, range(3_000)))
        await until_sent(pool)

        seen: list[str] = []

        async def sent_again() -> bool:
            for record in await consumer.poll(100, 100):
                seen.append(written(record.payload))
                assert not await consumer.commit({record.partition: record.position})
            return seen[-1:] == ["2999"] and "first" in seen

        await until(sent_again)

    assert seen[seen.index("first") :] == ["first", *map(str, range(3_000))]

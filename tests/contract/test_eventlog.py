"""What every engine of the event log promises its writer. Engines are added to `ENGINES`."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, cast

import pytest
import pytest_asyncio
import redis.asyncio

from eventlog import valkey_streams
from eventlog.contract import (
    Consumer,
    EventLog,
    Fenced,
    LogLost,
    Outgoing,
    Record,
    RecordsMissed,
    partition_of,
)
from mesh.settings import Settings

Engine = Callable[[Settings], AbstractAsyncContextManager[EventLog]]
ENGINES: dict[str, Engine] = {"valkey_streams": valkey_streams.open_log}
DEADLINE_S = 10.0


@pytest.fixture(params=list(ENGINES))
def engine(request: pytest.FixtureRequest) -> Engine:
    return ENGINES[request.param]


@pytest_asyncio.fixture
async def log(settings: Settings, engine: Engine) -> AsyncGenerator[EventLog]:
    async with engine(settings) as event_log:
        yield event_log


@pytest_asyncio.fixture
async def other_writer(settings: Settings, engine: Engine) -> AsyncGenerator[EventLog]:
    async with engine(settings) as event_log:
        yield event_log


def numbered(key: int, numbers: range) -> list[Outgoing]:
    return [Outgoing(key, str(number).encode()) for number in numbers]


async def read(consumer: Consumer, count: int, *, batch: int = 100) -> list[Record]:
    """Reads without committing until there are `count` records."""
    records: list[Record] = []
    deadline = time.monotonic() + DEADLINE_S
    while len(records) < count:
        assert time.monotonic() < deadline, f"only {len(records)} of {count} records came"
        records += await consumer.poll(batch, 100)
    return records


def payloads(records: list[Record], key: int) -> list[int]:
    return [int(record.payload) for record in records if record.key == key]


async def flush(settings: Settings) -> None:
    async with redis.asyncio.Redis.from_url(settings.eventlog_url) as valkey:
        await valkey.flushall()


def test_the_partition_of_a_key_never_changes() -> None:
    # The published first outputs of splitmix64 for these seeds.
    assert partition_of(0, 1 << 64) == 0xE220A8397B1DCDAF
    assert partition_of(1_234_567, 1 << 64) == 6_457_827_717_110_365_317
    assert [partition_of(key, 16) for key in (0, 1, 2, 3, 1 << 62)] == [15, 1, 14, 13, 11]


def test_partitions_are_evenly_filled_by_ids_that_differ_in_few_bits() -> None:
    counts = [0] * 16
    for step in range(16_000):
        counts[partition_of(step << 22, 16)] += 1

    assert min(counts) > 850
    assert max(counts) < 1_150


async def test_records_of_a_key_come_in_the_order_of_appending(log: EventLog) -> None:
    for begin in range(0, 200, 40):
        mixed = [Outgoing(key, str(n).encode()) for n in range(begin, begin + 40) for key in (1, 2)]
        await log.append(mixed, fence=1)

    async with log.consumer("fanout", "a") as consumer:
        records = await read(consumer, 400, batch=37)

    assert payloads(records, 1) == list(range(200))
    assert payloads(records, 2) == list(range(200))
    assert {record.partition for record in records if record.key == 1} == {partition_of(1, 16)}


async def test_a_poll_returns_no_more_than_asked_for(log: EventLog) -> None:
    await log.append([Outgoing(key, b"x") for key in range(500)], fence=1)

    async with log.consumer("fanout", "a") as consumer:
        assert 0 < len(await consumer.poll(7, 1_000)) <= 7
        assert len(await read(consumer, 400, batch=7)) <= 407


async def test_payloads_of_any_bytes_come_back_as_they_were(log: EventLog) -> None:
    odd = [Outgoing(-5, b""), Outgoing((1 << 63) - 1, bytes(range(256))), Outgoing(0, b"\r\n" * 9)]
    await log.append(odd, fence=1)

    async with log.consumer("fanout", "a") as consumer:
        records = await read(consumer, 3)

    assert {(r.key, r.payload) for r in records} == {(o.key, o.payload) for o in odd}


async def test_a_writer_with_a_lower_fence_is_refused(
    log: EventLog, other_writer: EventLog
) -> None:
    await log.append(numbered(1, range(5)), fence=10)
    await other_writer.claim(fence=11, tail=log.tail)

    with pytest.raises(Fenced):
        await log.append(numbered(1, range(5, 6)), fence=10)
    with pytest.raises(Fenced):
        await log.claim(fence=10, tail=log.tail)
    await other_writer.append(numbered(1, range(6, 7)), fence=11)

    async with log.consumer("fanout", "a") as consumer:
        assert payloads(await read(consumer, 6), 1) == [0, 1, 2, 3, 4, 6]


async def test_an_append_goes_behind_an_earlier_try_whose_answer_was_lost(
    log: EventLog, other_writer: EventLog
) -> None:
    await log.start_over(fence=1)
    await other_writer.claim(fence=1, tail=log.tail)
    await log.append(numbered(1, range(2)), fence=1)  # other_writer does not know

    await other_writer.append(numbered(1, range(3)), fence=1)

    async with log.consumer("fanout", "a") as consumer:
        assert payloads(await read(consumer, 5), 1) == [0, 1, 0, 1, 2]


async def test_a_log_that_was_lost_is_noticed_by_claim_check_and_append(
    settings: Settings, log: EventLog, other_writer: EventLog
) -> None:
    await log.append(numbered(1, range(5)), fence=10)
    await log.check()
    await flush(settings)

    with pytest.raises(LogLost):
        await log.check()
    with pytest.raises(LogLost):
        await log.append(numbered(1, range(5, 6)), fence=10)
    with pytest.raises(LogLost):
        await other_writer.claim(fence=11, tail=log.tail)


async def test_a_log_that_lost_its_last_records_is_noticed(
    settings: Settings, log: EventLog, other_writer: EventLog
) -> None:
    await log.append(numbered(1, range(5)), fence=10)
    early = await dump(settings)
    await log.append(numbered(1, range(5, 7)), fence=10)
    await restore(settings, early)

    with pytest.raises(LogLost):
        await log.check()
    with pytest.raises(LogLost):
        await other_writer.claim(fence=11, tail=log.tail)


async def test_a_log_started_over_is_read_on_from_old_positions(
    settings: Settings, log: EventLog
) -> None:
    await log.append(numbered(1, range(5)), fence=10)
    async with log.consumer("fanout", "a") as consumer:
        records = await read(consumer, 5)
        assert not await consumer.commit({records[-1].partition: records[-1].position})
        await log.start_over(fence=11)
        await log.append(numbered(1, range(9)), fence=11)
        again = await read(consumer, 9)
        assert sum((await log.lag("fanout")).values()) >= 9
        assert not await consumer.commit({again[-1].partition: again[-1].position})

    await log.check()
    assert payloads(again, 1) == list(range(9))
    assert sum((await log.lag("fanout")).values()) == 0


async def test_a_consumer_goes_on_after_the_log_was_lost(settings: Settings, log: EventLog) -> None:
    await log.append(numbered(1, range(5)), fence=10)
    async with log.consumer("fanout", "a") as consumer:
        before = await read(consumer, 5)
        assert not await consumer.commit({before[-1].partition: before[-1].position})
        await flush(settings)
        await log.start_over(fence=11)
        await log.append(numbered(1, range(3)), fence=11)

        after = await read(consumer, 3)

    assert payloads(after, 1) == [0, 1, 2]
    assert after[0].fence > before[0].fence


async def test_a_consumer_that_was_overrun_asks_for_a_refill_and_goes_on(
    settings: Settings, engine: Engine
) -> None:
    small = settings.model_copy(update={"eventlog_retention_records": 1_000})
    async with engine(small) as log:
        await log.append(numbered(1, range(10)), fence=1)
        async with log.consumer("fanout", "a") as consumer:
            first = await read(consumer, 10)
            assert not await consumer.commit({first[-1].partition: first[-1].position})
            await log.append(numbered(1, range(10, 5_000)), fence=1)

            later = await consumer.poll(100, 1_000)

            assert int(later[0].payload) > 10
            with pytest.raises(RecordsMissed):
                await log.check()
            await log.start_over(fence=2)
            await log.check()


async def test_lag_counts_what_is_not_committed(log: EventLog) -> None:
    partition = partition_of(1, 16)
    await log.append(numbered(1, range(10)), fence=1)
    assert (await log.lag("fanout"))[partition] == 10

    async with log.consumer("fanout", "a") as consumer:
        records = await read(consumer, 10)
        assert not await consumer.commit({partition: records[6].position})
        assert (await log.lag("fanout"))[partition] == 3
        assert not await consumer.commit({partition: records[9].position})

    assert sum((await log.lag("fanout")).values()) == 0


async def test_a_poll_that_waits_is_woken_by_an_append(log: EventLog) -> None:
    wait_s = 2.0
    await log.append(numbered(0, range(1)), fence=1)
    async with log.consumer("fanout", "a") as consumer:
        await read(consumer, 1)
        delays: list[float] = []
        for number in range(20):
            polling = asyncio.create_task(consumer.poll(100, round(1_000 * wait_s)))
            while not polling.done() and len(delays) == number:
                await asyncio.sleep(0.01)  # lets the poll block
                began = time.perf_counter()
                await log.append(numbered(number, range(1)), fence=1)
                assert await polling
                delays.append(time.perf_counter() - began)

    # How soon is for `make bench` to say; one that slept would come when its wait is over.
    assert sorted(delays)[len(delays) // 2] < wait_s / 4


async def test_writers_survive_a_valkey_that_forgot_its_scripts(
    settings: Settings, log: EventLog
) -> None:
    await log.append(numbered(1, range(2)), fence=1)
    async with redis.asyncio.Redis.from_url(settings.eventlog_url) as valkey:
        await valkey.script_flush()

    await log.append(numbered(1, range(2, 4)), fence=1)

    async with log.consumer("fanout", "a") as consumer:
        assert payloads(await read(consumer, 4), 1) == [0, 1, 2, 3]


async def dump(settings: Settings) -> dict[bytes, bytes]:
    async with redis.asyncio.Redis.from_url(settings.eventlog_url) as client:
        valkey = cast(Any, client)
        return {key: await valkey.dump(key) async for key in valkey.scan_iter()}


async def restore(settings: Settings, dumped: dict[bytes, bytes]) -> None:
    """Puts the log back to what it was: a restart from an append-only file that ends early."""
    async with redis.asyncio.Redis.from_url(settings.eventlog_url) as valkey:
        await valkey.flushall()
        for key, value in dumped.items():
            await valkey.restore(key, 0, value)

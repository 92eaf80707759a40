"""What every engine of the event log promises readers without a group."""

import asyncio
import time
from collections.abc import Sequence

import pytest

from eventlog import positions
from eventlog.contract import EventLog, Reader, Record, RecordsMissed
from mesh.settings import Settings
from tests.contract.test_eventlog import engine, flush, log, numbered, payloads

__all__ = ["engine", "log"]

DEADLINE_S = 10.0
TURNS = 30


async def read_all(
    reader: Reader, after: Sequence[str], *, batch: int = 100
) -> tuple[list[Record], list[str]]:
    """Reads until there is no more; returns the records and the positions behind them."""
    at, found = list(after), list[Record]()
    while records := await reader.read(at, batch, 0):
        for record in records:
            assert record.fence == 0
            before, here = positions.order(at[record.partition]), positions.order(record.position)
            assert before < here, "the records of a partition are in order"
            at[record.partition] = record.position
        found += records
    return found, at


async def test_a_reader_reads_everything_behind_its_positions_and_commits_nothing(
    log: EventLog,
) -> None:
    reader = log.reader()
    beginning = await reader.newest(10)
    for key in range(20):
        await log.append(numbered(key, range(10)), fence=1)

    records, end = await read_all(reader, beginning, batch=7)
    again, _ = await read_all(reader, beginning)
    await log.append(numbered(3, range(10, 12)), fence=1)
    newer, _ = await read_all(reader, end)

    for key in range(20):
        assert payloads(records, key) == payloads(again, key) == list(range(10))
    assert payloads(newer, 3) == [10, 11]
    assert len(newer) == 2


async def test_the_newest_records_stand_behind_the_positions_for_them(log: EventLog) -> None:
    await log.append(numbered(3, range(50)), fence=1)
    reader = log.reader()

    records, _ = await read_all(reader, await reader.newest(5))
    none, _ = await read_all(reader, await reader.newest(0))
    every, _ = await read_all(reader, await reader.newest(100))

    assert payloads(records, 3) == [45, 46, 47, 48, 49]
    assert none == []
    assert payloads(every, 3) == list(range(50))


async def test_a_waiting_reader_wakes_at_once(log: EventLog) -> None:
    reader = log.reader()
    at = await reader.newest(0)
    waiting = asyncio.create_task(reader.read(at, 10, 1_000))
    await asyncio.sleep(0.05)
    began = time.perf_counter()

    await log.append(numbered(1, range(1)), fence=1)

    assert payloads(await waiting, 1) == [0]
    assert time.perf_counter() - began < 0.5


async def test_a_reader_that_waits_in_vain_comes_back(log: EventLog) -> None:
    reader = log.reader()

    assert await reader.read(await reader.newest(0), 10, 50) == []


async def test_trimmed_records_are_missed_and_others_are_not(settings: Settings) -> None:
    from eventlog import valkey_streams

    small = settings.model_copy(update={"eventlog_retention_records": 1_000})
    async with valkey_streams.open_log(small) as log:
        reader = log.reader()
        empty = await reader.newest(0)
        await log.append(numbered(1, range(1)), fence=1)
        old = (await read_all(reader, empty))[1]
        for start in range(0, 5_000, 500):
            await log.append(numbered(1, range(start, start + 500)), fence=1)

        for at in (empty, old):
            with pytest.raises(RecordsMissed):
                await read_all(reader, at)
        records, _ = await read_all(reader, await reader.newest(700))
        assert len(records) == 700


async def test_a_reader_goes_on_after_the_log_was_lost_and_filled_again(
    settings: Settings, log: EventLog
) -> None:
    reader = log.reader()
    beginning = await reader.newest(0)
    await log.append(numbered(1, range(5)), fence=1)
    _, end = await read_all(reader, beginning)

    await flush(settings)
    assert await reader.read(end, 10, 0) == []
    await log.start_over(fence=2)
    await log.append(numbered(1, range(3, 8)), fence=2)

    records, _ = await read_all(reader, end)
    assert payloads(records, 1) == [3, 4, 5, 6, 7]
    fresh, _ = await read_all(reader, await reader.newest(2))
    assert payloads(fresh, 1) == [6, 7]


async def test_a_read_that_is_cancelled_in_any_turn_of_the_loop_ends_there(log: EventLog) -> None:
    """asyncio.wait_for of Python 3.11, under redis-py, loses some: the reader would read on."""
    reader = log.reader()
    at = await reader.newest(0)
    for turns in range(TURNS):
        reading = asyncio.create_task(reader.read(at, 100, 1_000))
        for _ in range(turns):
            await asyncio.sleep(0)
        reading.cancel()
        began = time.monotonic()
        await asyncio.wait([reading])
        assert reading.cancelled(), f"after {turns} turns it came back after all"
        assert time.monotonic() - began < 0.5, f"after {turns} turns it read on"

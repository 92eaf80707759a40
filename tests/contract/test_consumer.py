"""What every engine of the event log promises the members of a group."""

import asyncio
import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from multiprocessing.synchronize import Event

import pytest
import pytest_asyncio

from eventlog import valkey_streams
from eventlog.contract import Consumer, EventLog, Outgoing, Record
from mesh.settings import Settings

Engine = Callable[[Settings], AbstractAsyncContextManager[EventLog]]
ENGINES: dict[str, Engine] = {"valkey_streams": valkey_streams.open_log}
DEADLINE_S = 10.0
LEASE_MS = 600


@pytest.fixture(params=list(ENGINES))
def engine(request: pytest.FixtureRequest) -> Engine:
    return ENGINES[request.param]


@pytest_asyncio.fixture
async def log(settings: Settings, engine: Engine) -> AsyncGenerator[EventLog]:
    short = settings.model_copy(update={"lease_ms": LEASE_MS})
    async with engine(short) as event_log:
        yield event_log


async def until_shared(consumers: list[Consumer], partitions: int = 16) -> None:
    """Polls in turn until the consumers own everything, evenly."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        for consumer in consumers:
            assert await consumer.poll(1, 0) == []
        shares = [len(consumer.owned()) for consumer in consumers]
        if sum(shares) == partitions and max(shares) - min(shares) <= 1:
            return
        assert time.monotonic() < deadline, f"shares are {shares}"
        await asyncio.sleep(0.01)


async def read(consumer: Consumer, count: int) -> list[Record]:
    records: list[Record] = []
    deadline = time.monotonic() + DEADLINE_S
    while len(records) < count:
        assert time.monotonic() < deadline, f"only {len(records)} of {count} records came"
        records += await consumer.poll(100, 100)
    return records


async def test_partitions_are_shared_evenly_when_members_join_and_leave(log: EventLog) -> None:
    async with AsyncExitStack() as stack:
        members = [await stack.enter_async_context(log.consumer("fanout", "first"))]
        await until_shared(members)
        for name in ("second", "third"):
            members.append(await stack.enter_async_context(log.consumer("fanout", name)))
            await until_shared(members)

        owners = Counter(partition for member in members for partition in member.owned())
        assert set(owners.values()) == {1}

        async with log.consumer("fanout", "fourth") as fourth:
            await until_shared([*members, fourth])
        await until_shared(members)


async def test_groups_do_not_share_with_each_other(log: EventLog) -> None:
    await log.append([Outgoing(key, b"x") for key in range(50)], fence=1)

    async with log.consumer("fanout", "a") as fanout, log.consumer("trend", "a") as trend:
        assert len(await read(fanout, 50)) == 50
        assert len(await read(trend, 50)) == 50


async def test_a_leaving_member_hands_over_at_once(log: EventLog) -> None:
    async with log.consumer("fanout", "stays") as stays:
        async with log.consumer("fanout", "leaves") as leaves:
            await until_shared([stays, leaves])
            polling = asyncio.create_task(stays.poll(100, 1_000))
        began = time.monotonic()
        await log.append([Outgoing(key, b"x") for key in range(100)], fence=1)
        records = await polling
        records += await read(stays, 100 - len(records))

        assert time.monotonic() - began < LEASE_MS / 1000 / 2
    assert len(records) == 100


async def test_records_without_a_commit_come_again_under_a_higher_fence(log: EventLog) -> None:
    await log.append([Outgoing(1, str(n).encode()) for n in range(10)], fence=1)
    async with log.consumer("fanout", "crashes") as crashes:
        first = await read(crashes, 10)
        assert not await crashes.commit({first[3].partition: first[3].position})

    async with log.consumer("fanout", "next") as successor:
        again = await read(successor, 6)

    assert [int(record.payload) for record in again] == list(range(4, 10))
    assert again[0].fence > first[0].fence


async def test_a_commit_of_many_partitions_records_those_that_are_ours(log: EventLog) -> None:
    await log.append([Outgoing(key, b"x") for key in range(500)], fence=1)
    async with log.consumer("fanout", "a") as first, log.consumer("fanout", "b") as second:
        last = {record.partition: record.position for record in await read(first, 500)}
        assert len(first.owned()) == len(last) == 16
        deadline = time.monotonic() + DEADLINE_S
        while len(second.owned()) < 8:
            assert time.monotonic() < deadline, f"the second got {second.owned()} of 16"
            await first.poll(1, 0)
            await second.poll(1, 0)

        lost = await first.commit(last)

        assert sorted(lost) == sorted(second.owned())
        lag = await log.lag("fanout")
        assert {partition for partition, records in lag.items() if records} == set(lost)


async def test_a_rewound_group_reads_everything_again(log: EventLog) -> None:
    await log.append([Outgoing(1, str(n).encode()) for n in range(10)], fence=1)
    async with log.consumer("fanout", "a") as consumer:
        first = await read(consumer, 10)
        assert not await consumer.commit({first[8].partition: first[8].position})
        await log.rewind("fanout")
        assert await consumer.commit({first[9].partition: first[9].position})

        again = await read(consumer, 10)

    assert [record.payload for record in again] == [record.payload for record in first]


async def test_a_paused_partition_begins_again_behind_its_commit(log: EventLog) -> None:
    await log.append([Outgoing(1, str(n).encode()) for n in range(10)], fence=1)
    async with log.consumer("fanout", "a") as consumer:
        first = await read(consumer, 10)
        assert not await consumer.commit({first[4].partition: first[4].position})
        consumer.pause(first[0].partition, 200)
        assert await consumer.poll(100, 50) == []

        again = await read(consumer, 5)

    assert [int(record.payload) for record in again] == [5, 6, 7, 8, 9]


async def test_a_cancelled_poll_skips_nothing(log: EventLog) -> None:
    await log.append([Outgoing(1, b"first")], fence=1)
    async with log.consumer("fanout", "a") as consumer:
        await read(consumer, 1)
        for number in range(50):
            polling = asyncio.create_task(consumer.poll(100, 1_000))
            await asyncio.sleep(0.001)
            await log.append([Outgoing(1, str(number).encode())], fence=1)
            polling.cancel()
            await asyncio.gather(polling, return_exceptions=True)
            got = [] if polling.cancelled() else polling.result()
            records = got or await read(consumer, 1)
            assert [int(record.payload) for record in records] == [number]


async def test_a_member_that_slept_over_its_lease_can_commit_nothing(
    settings: Settings, engine: Engine, log: EventLog
) -> None:
    """The sleeper is another process, stopped and woken by signals."""
    await log.append([Outgoing(key, b"x") for key in range(64)], fence=1)
    context = multiprocessing.get_context("spawn")
    ready, go, refused = context.Event(), context.Event(), context.Event()
    sleeper = context.Process(
        target=_sleeper, args=(settings.eventlog_url, LEASE_MS, ready, go, refused), daemon=True
    )
    sleeper.start()
    assert sleeper.pid is not None
    try:
        assert await asyncio.to_thread(ready.wait, 20)
        os.kill(sleeper.pid, signal.SIGSTOP)
        began = time.monotonic()

        async with log.consumer("fanout", "successor") as successor:
            records = await read(successor, 64)
            took_s = time.monotonic() - began
            go.set()
            os.kill(sleeper.pid, signal.SIGCONT)
            assert await asyncio.to_thread(refused.wait, 10)

            for record in records:
                assert not await successor.commit({record.partition: record.position})
    finally:
        sleeper.kill()
        sleeper.join()

    assert took_s < LEASE_MS / 1000 * 1.6
    assert sum((await log.lag("fanout")).values()) == 0


async def test_a_killed_member_is_replaced_within_five_seconds_under_default_settings(
    settings: Settings, engine: Engine
) -> None:
    context = multiprocessing.get_context("spawn")
    ready, go, refused = context.Event(), context.Event(), context.Event()
    victim = context.Process(
        target=_sleeper,
        args=(settings.eventlog_url, settings.lease_ms, ready, go, refused),
        daemon=True,
    )
    async with engine(settings) as log:
        await log.append([Outgoing(key, b"x") for key in range(64)], fence=1)
        victim.start()
        assert await asyncio.to_thread(ready.wait, 20)
        async with log.consumer("fanout", "successor") as successor:
            assert await successor.poll(100, 0) == []
            victim.kill()
            victim.join()
            began = time.monotonic()
            records = await read(successor, 64)
            took_s = time.monotonic() - began

    print(f"taken over after {took_s:.2f} s")
    assert len({record.partition for record in records}) == 16
    assert took_s < 5


def _sleeper(url: str, lease_ms: int, ready: Event, go: Event, refused: Event) -> None:
    asyncio.run(_read_then_commit_late(url, lease_ms, ready, go, refused))


async def _read_then_commit_late(
    url: str, lease_ms: int, ready: Event, go: Event, refused: Event
) -> None:
    settings = Settings(eventlog_url=url, lease_ms=lease_ms)
    async with (
        valkey_streams.open_log(settings) as log,
        log.consumer("fanout", "sleeper") as consumer,
    ):
        records = await read(consumer, 64)
        ready.set()
        while not go.is_set():  # beats its heart until it is stopped by a signal
            await asyncio.sleep(0.005)
        for record in records:
            if not await consumer.commit({record.partition: record.position}):
                return
        refused.set()

"""What becomes of records that a handler takes, refuses, or cannot take now."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio

from domain import errors
from eventlog import client, deadletters, runner, scripts, valkey_streams
from eventlog.contract import Outgoing, Record
from eventlog.deadletters import DeadLetters
from eventlog.valkey_streams import ValkeyStreams
from mesh.settings import Settings

GROUP = "fanout"
DEADLINE_S = 10.0


@dataclass
class Recorder:
    """A handler that remembers what it took, and fails on poison."""

    taken: list[bytes] = field(default_factory=list[bytes])
    calls: int = 0
    poison: set[bytes] = field(default_factory=set[bytes])
    away_for_calls: int = 0

    async def handle(self, records: Sequence[Record]) -> None:
        self.calls += 1
        if self.away_for_calls > 0:
            self.away_for_calls -= 1
            raise errors.Unavailable("the cache is away")
        for record in records:
            if record.payload in self.poison:
                raise ValueError(f"cannot read {record.payload!r}")
        self.taken += [record.payload for record in records]


@pytest_asyncio.fixture
async def log(settings: Settings) -> AsyncGenerator[ValkeyStreams]:
    async with valkey_streams.open_log(settings) as event_log:
        yield event_log


@pytest_asyncio.fixture
async def letters(settings: Settings) -> AsyncGenerator[DeadLetters]:
    async with deadletters.open_letters(settings, GROUP) as opened:
        yield opened


async def until(done: Callable[[], Awaitable[bool]], step: Callable[[], Awaitable[int]]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not await done():
        assert time.monotonic() < deadline
        await step()
        await asyncio.sleep(0.01)


def outgoing(*payloads: bytes, key: int = 1) -> list[Outgoing]:
    return [Outgoing(key, payload) for payload in payloads]


async def test_a_batch_is_handled_and_committed(settings: Settings, log: ValkeyStreams) -> None:
    handler = Recorder()
    await log.append(outgoing(b"1", b"2", b"3"), fence=1)

    async with runner.open_runner(settings, GROUP, handler) as worker:
        assert await worker.step() == 3
        assert await worker.step() == 0
        assert sum((await worker.lag()).values()) == 0

    assert handler.taken == [b"1", b"2", b"3"]


async def test_a_batch_of_all_partitions_is_committed_in_one_round_trip(
    settings: Settings, log: ValkeyStreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    await log.append([Outgoing(key, b"") for key in range(500)], fence=1)
    round_trips: list[int] = []

    async with runner.open_runner(settings, GROUP, Recorder()) as worker:
        run_all = client.run_all

        async def counted(valkey: client.Valkey, calls: Sequence[client.Call]) -> list[Any]:
            round_trips.append(sum(script == scripts.COMMIT for script, _, _ in calls))
            return await run_all(valkey, calls)

        monkeypatch.setattr(client, "run_all", counted)
        await worker.step()

    assert [trip for trip in round_trips if trip] == [settings.eventlog_partitions]


async def test_an_outage_is_waited_out_with_the_same_records(
    settings: Settings, log: ValkeyStreams, letters: DeadLetters
) -> None:
    handler = Recorder(away_for_calls=3)
    await log.append(outgoing(b"1", b"2"), fence=1)

    async with runner.open_runner(settings, GROUP, handler) as worker:
        await worker.step()

    assert handler.calls == 4
    assert handler.taken == [b"1", b"2"]
    assert await letters.count() == 0


async def test_a_batch_that_takes_too_long_comes_again_in_parts(
    settings: Settings, log: ValkeyStreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(Recorder):
        async def handle(self, records: Sequence[Record]) -> None:
            if len(records) > 2:
                await asyncio.Event().wait()
            await super().handle(records)

    handler = Slow()
    monkeypatch.setattr(runner, "HANDLE_TIMEOUT_S", 0.2)
    payloads = [b"%d" % number for number in range(10)]
    await log.append(outgoing(*payloads), fence=1)

    async with runner.open_runner(settings, GROUP, handler) as worker:
        await asyncio.wait_for(worker.step(), DEADLINE_S)

    assert handler.taken == payloads
    assert sum((await log.lag(GROUP)).values()) == 0


async def test_a_poison_record_becomes_a_dead_letter_and_the_rest_goes_on(
    settings: Settings, log: ValkeyStreams, letters: DeadLetters
) -> None:
    handler = Recorder(poison={b"2"})
    await log.append(outgoing(b"1", b"2", b"3"), fence=1)

    async with runner.open_runner(settings, GROUP, handler) as worker:
        await worker.step()

    (letter,) = await letters.fetch_all()
    assert handler.taken == [b"1", b"3"]
    assert (letter.key, letter.payload, letter.attempts) == (1, b"2", 3)
    assert letter.error == "ValueError: cannot read b'2'"
    assert sum((await log.lag(GROUP)).values()) == 0


async def test_full_dead_letters_stop_the_partition_before_the_record_and_no_other(
    settings: Settings, log: ValkeyStreams, letters: DeadLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "FULL_PAUSE_MS", 50)
    one = settings.model_copy(update={"deadletters_max": 1})
    handler = Recorder(poison={b"bad 1", b"bad 2"})
    await log.append(outgoing(b"1", b"bad 1", b"2", b"bad 2", b"3", key=1), fence=1)
    await log.append(outgoing(b"other", key=2), fence=1)

    async with runner.open_runner(one, GROUP, handler) as worker:

        async def stopped() -> bool:
            return await letters.count() == 1 and set(handler.taken) == {b"1", b"2", b"other"}

        await until(stopped, worker.step)
        for _ in range(20):
            await worker.step(10)
        assert sum((await worker.lag()).values()) == 2  # bad 2 and what comes after it
        assert await letters.count() == 1

        handler.poison = {b"bad 1"}

        async def drained() -> bool:
            return sum((await worker.lag()).values()) == 0

        await until(drained, worker.step)

    assert handler.taken.count(b"3") == 1
    assert handler.taken[-2:] == [b"bad 2", b"3"]


async def test_a_letter_is_handled_again_when_asked_for_and_goes_when_that_succeeds(
    settings: Settings, log: ValkeyStreams, letters: DeadLetters
) -> None:
    handler = Recorder(poison={b"1", b"2"})
    await log.append(outgoing(b"1", b"2"), fence=1)

    async with runner.open_runner(settings, GROUP, handler) as worker:
        await worker.step()
        assert await letters.count() == 2
        handler.poison = {b"2"}
        assert await letters.request_redrive() == 2

        async def redriven() -> bool:
            return [letter.attempts for letter in await letters.fetch_all()] == [4]

        await until(redriven, worker.step)

    (left,) = await letters.fetch_all()
    assert handler.taken == [b"1"]
    assert left.payload == b"2"
    assert await letters.discard([left.id]) == 1
    assert await letters.count() == 0


async def test_a_redrive_waits_for_the_owner_of_the_partition(
    settings: Settings, log: ValkeyStreams, letters: DeadLetters
) -> None:
    record = Record(3, "1-1", 7, b"late", fence=0)
    await letters.bury(record, ValueError("once"), 3)
    await letters.request_redrive([f"{record.partition}:{record.position}", "9:9-9"])
    fences: list[int] = []

    class Fences(Recorder):
        async def handle(self, records: Sequence[Record]) -> None:
            fences.extend(record.fence for record in records)

    async with runner.open_runner(settings, GROUP, Fences()) as worker:

        async def gone() -> bool:
            return await letters.count() == 0

        await until(gone, worker.step)

    assert fences[0] > 0


async def test_a_worker_that_dies_in_a_batch_leaves_it_to_the_next(
    settings: Settings, log: ValkeyStreams
) -> None:
    class Dying(Recorder):
        async def handle(self, records: Sequence[Record]) -> None:
            self.taken += [record.payload for record in records[:2]]
            raise asyncio.CancelledError

    dying, successor = Dying(), Recorder()
    await log.append(outgoing(b"1", b"2", b"3"), fence=1)

    async with runner.open_runner(settings, GROUP, dying) as worker:
        with pytest.raises(asyncio.CancelledError):
            await worker.step()
    async with runner.open_runner(settings, GROUP, successor) as worker:
        await worker.step()

    assert dying.taken == [b"1", b"2"]
    assert successor.taken == [b"1", b"2", b"3"]


async def test_a_rewound_group_replays_through_its_runner(
    settings: Settings, log: ValkeyStreams
) -> None:
    handler = Recorder()
    await log.append(outgoing(b"1", b"2", b"3"), fence=1)

    async with runner.open_runner(settings, GROUP, handler) as worker:
        await worker.step()
        await log.rewind(GROUP)

        async def replayed() -> bool:
            return len(handler.taken) == 6

        await until(replayed, worker.step)

    assert handler.taken == [b"1", b"2", b"3"] * 2


async def test_a_worker_stops_also_where_a_cancellation_was_swallowed(
    settings: Settings, log: ValkeyStreams
) -> None:
    entered = asyncio.Event()

    class Swallowing(Recorder):
        async def handle(self, records: Sequence[Record]) -> None:
            entered.set()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()

    await log.append(outgoing(b"1"), fence=1)
    async with runner.open_runner(settings, GROUP, Swallowing()) as worker:
        running = asyncio.create_task(worker.run())
        await asyncio.wait_for(entered.wait(), DEADLINE_S)
        running.cancel()
        await asyncio.wait([running], timeout=DEADLINE_S)

        assert running.cancelled()


async def test_a_log_that_is_away_is_waited_for(settings: Settings) -> None:
    away = settings.model_copy(update={"eventlog_url": "redis://127.0.0.1:1/0"})

    async with runner.open_runner(away, GROUP, Recorder()) as worker:
        running = asyncio.create_task(worker.run())
        await asyncio.wait([running], timeout=0.3)
        assert not running.done()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

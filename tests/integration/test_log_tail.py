"""How a server follows the event log: as events come while somebody attends, in rests otherwise."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence

import pytest
import pytest_asyncio
from chirp.v1 import events_pb2

from eventlog import valkey_streams
from eventlog.contract import EventLog, Outgoing, Reader, Record
from mesh.settings import Settings
from servers import log_tail
from servers.log_tail import LogTail, Seen

DEADLINE_S = 10.0
LONGER_THAN_A_TEST_S = 60.0


class Watched:
    """A reader that counts the reads that brought something, and can be cut off."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.brought = 0
        self.away = False
        self.refused = 0

    async def newest(self, count: int) -> list[str]:
        return await self._reader.newest(count)

    async def read(self, after: Sequence[str], max_records: int, wait_ms: int) -> list[Record]:
        if self.away:
            self.refused += 1
            raise ConnectionError("the log is away")
        records = await self._reader.read(after, max_records, wait_ms)
        self.brought += bool(records)
        return records


class Following:
    """A tail that runs, and the sequences that it told of, in the order of telling."""

    def __init__(self, log: EventLog) -> None:
        self.log = log
        self.reader = Watched(log.reader())
        self.tail = LogTail(self.reader, log.partitions, keep=0)
        self.told: list[int] = []
        self.tail.listen(self._on_seen, lambda: None)

    def _on_seen(self, batch: list[Seen]) -> None:
        self.told += [seen.event.sequence for seen in batch]

    async def append(self, sequence: int) -> None:
        event = events_pb2.Event(sequence=sequence)
        await self.log.append([Outgoing(sequence, event.SerializeToString())], fence=1)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                await asyncio.sleep(0.002)


@pytest_asyncio.fixture
async def following(settings: Settings) -> AsyncGenerator[Following]:
    async with valkey_streams.open_log(settings) as log:
        followed = Following(log)
        running = asyncio.create_task(followed.tail.run())
        async with asyncio.timeout(DEADLINE_S):
            await followed.tail.ready()
        yield followed
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


async def test_while_nobody_attends_one_read_brings_what_came_in_a_rest(
    following: Following,
) -> None:
    began = time.monotonic()
    for sequence in range(1, 201):
        await following.append(sequence)
        await asyncio.sleep(0.001)
    await following.until(lambda: len(following.told) == 200)

    rests = (time.monotonic() - began) / log_tail.REST_S
    assert sorted(following.told) == list(range(1, 201))
    # Where a partition had more than a read takes, a second read follows at once.
    assert following.reader.brought <= 2 * (rests + 2)


async def test_who_attends_is_told_at_once(
    following: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_tail, "REST_S", LONGER_THAN_A_TEST_S)
    with following.tail.attended():
        for sequence in range(1, 21):
            await following.append(sequence)
            await following.until(lambda: len(following.told) == sequence)  # noqa: B023

    assert following.told == list(range(1, 21))
    assert following.reader.brought == 20


async def test_who_begins_to_attend_finds_everything_read_that_was_there(
    following: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_tail, "REST_S", LONGER_THAN_A_TEST_S)
    for first in range(1, 30, 3):
        await following.append(first)
        await following.until(lambda: first in following.told)  # noqa: B023
        for sequence in (first + 1, first + 2):
            await following.append(sequence)
        assert len(following.told) == first, "it rests"

        async with asyncio.timeout(DEADLINE_S):
            with following.tail.attended():
                await following.tail.ready()
                assert sorted(following.told) == list(range(1, first + 3))


async def test_a_log_that_is_away_keeps_nobody_waiting(
    following: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_tail, "REST_S", LONGER_THAN_A_TEST_S)
    await following.append(1)
    await following.until(lambda: following.told == [1])
    await following.append(2)
    following.reader.away = True

    with following.tail.attended():
        async with asyncio.timeout(DEADLINE_S):
            await following.tail.ready()
        assert following.reader.refused > 0
        assert following.told == [1]

        following.reader.away = False
        await following.until(lambda: following.told == [1, 2])

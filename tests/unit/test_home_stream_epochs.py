"""A home stream while the event log is lost and filled again, step by step."""

import asyncio
from collections.abc import Sequence

import pytest
from chirp.v1 import events_pb2

from domain.ids import UserId
from domain.stream_token import Token
from eventlog import positions
from eventlog.contract import Record
from servers import home_log
from servers.home_log import sighting_of
from servers.home_source import Source
from servers.home_stream import HomeStream
from servers.home_watches import Watch
from servers.log_tail import LogTail, Seen

ME = UserId(7)
FIRST_LOG, SECOND_LOG = 1, 2


class Log:
    """One partition, as readers see it: what is in it now, one record at a time."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def add(self, epoch: int, sequence: int, settled: int, again: int = 0) -> None:
        event = events_pb2.Event(sequence=sequence, settled=settled, sent_again_to=again)
        event.tweet_created.entry.tweet_id = sequence
        event.tweet_created.entry.author_id = ME
        count = 1 + sum(record.position.startswith(f"{epoch}-") for record in self.records)
        self.records.append(Record(0, f"{epoch}-{count}", ME, event.SerializeToString(), 0))

    async def newest(self, count: int) -> list[str]:
        return [""]

    async def read(self, after: Sequence[str], max_records: int, wait_ms: int) -> list[Record]:
        at = positions.order(after[0])
        newer = [record for record in self.records if positions.order(record.position) > at]
        if not newer:
            await asyncio.sleep(0.001)
        return newer[:1]


async def test_a_stream_that_left_a_lost_log_before_its_end_takes_the_rest_from_the_next(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(home_log, "KEPT_MAX", 1)
    monkeypatch.setattr("servers.home_stream.READ_MAX", 1)
    log, own_log = Log(), Log()  # the server is behind the stream: each has a log to see
    tail = LogTail(log, 1, keep=0)
    source = Source(tail, own_log, queue_max=10, resume_s=1e12)
    streams: list[HomeStream] = []

    def on_seen(batch: list[Seen]) -> None:
        for seen in batch:
            sighting = sighting_of(seen)
            assert sighting is not None
            source.log.add(sighting)
            for stream in streams:
                stream.offer(sighting)

    tail.listen(on_seen, lambda: None)
    for sequence in range(1, 5):
        log.add(FIRST_LOG, sequence, settled=sequence - 1)
    following = asyncio.create_task(tail.run())
    try:
        with tail.attended():
            await tail.ready()
            async with asyncio.timeout(5):
                while tail.settled < 3:
                    await asyncio.sleep(0.001)
            # It has got behind 1 and 2 when the log is lost, and is filled again with all four.
            stream = HomeStream(source, Token(0, ("1-2",), (2,), 0, ()))
            streams.append(stream)
            stream.begin()
            own_log.add(SECOND_LOG, 1, settled=0, again=4)
            watch = Watch(ME)

            (repeated,) = await stream.take(watch)
            assert stream.is_repeated(repeated)
            stream.get_behind(repeated, delivered=False)
            taking = asyncio.create_task(stream.take(watch))
            await asyncio.sleep(0)  # it finds nothing behind itself, and rests
            for sequence in range(1, 5):
                log.add(SECOND_LOG, sequence, settled=0, again=4)
            got: list[int] = []
            async with asyncio.timeout(5):
                while len(got) < 2:
                    for sighting in await taking:
                        if not stream.is_repeated(sighting):
                            got.append(sighting.sequence)
                        stream.get_behind(sighting, delivered=True)
                    taking = asyncio.create_task(stream.take(watch))
            assert got == [3, 4]
            taking.cancel()
    finally:
        following.cancel()

"""What fan-out costs, for authors with so many followers (see bench/shape.py)."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from chirp.v1 import events_pb2

from bench.stack import BenchStack
from bench.tools import LoadFailed
from domain.ids import SnowflakeGenerator, UserId
from eventlog import runner
from eventlog.contract import Outgoing
from eventlog.valkey_streams import open_log
from workers import fanout_worker

WORKER = 1_022  # ids of events that nobody else mints
POLL_MS = 500
PER_APPEND = 1_000


@dataclass(frozen=True, slots=True)
class FanoutCost:
    """Of tweets that are in the log already."""

    cold_s: float
    """One tweet of each author, whose follower lists are still to be fetched."""
    warm_s: float
    """All tweets, when the lists are in Valkey."""
    deliveries: int
    """By the warm ones: the worker's own count of what was inserted."""


async def fanout_cost(
    stack: BenchStack, authors: Sequence[UserId], tweets_each: int, *, aside: UserId
) -> FanoutCost:
    """Runs the worker's handler and its consumer loop here. All followers must have windows. A
    tweet of `aside`, another author, comes first: taking the log's partitions is not fan-out."""
    settings = stack.settings
    async with (
        fanout_worker.open_worker(settings) as worker,
        runner.open_runner(
            settings, fanout_worker.GROUP, worker, batch=settings.fanout_batch
        ) as group,
    ):

        async def drain(authors: Sequence[UserId]) -> float:
            await _fill(stack, authors)
            started = time.perf_counter()
            handled = 0
            while handled < len(authors):
                handled += await group.step(POLL_MS)
            return time.perf_counter() - started

        await drain([aside])
        cold_s = await drain(authors)
        before = worker.deliveries
        warm_s = await drain(list(authors) * tweets_each)
        if sum((await group.lag()).values()):
            raise LoadFailed("events were not committed")
        return FanoutCost(cold_s, warm_s, worker.deliveries - before)


async def _fill(stack: BenchStack, authors: Sequence[UserId]) -> None:
    ids = SnowflakeGenerator(WORKER)
    records: list[Outgoing] = []
    for author in authors:
        event = events_pb2.Event()
        event.occurred_at.GetCurrentTime()
        created = event.tweet_created
        created.entry.tweet_id = ids.mint(time.time_ns() // 1_000_000)
        created.entry.author_id = author
        created.delivery = events_pb2.DELIVERY_PUSH
        records.append(Outgoing(author, event.SerializeToString()))
    fence = time.time_ns() // 1_000_000 + 1
    async with open_log(stack.settings) as event_log:
        for start in range(0, len(records), PER_APPEND):
            await event_log.append(records[start : start + PER_APPEND], fence=fence)

"""Home reads at a fixed rate while fan-out runs at full speed, beside the echo at the same rate.

The log is filled with tweets that exist, by authors drawn by followers; the worker, in a process of
its own, has more of them than it can deliver before both were measured.
"""

import asyncio
import random
import time
from collections.abc import Sequence

from bench import deliveries, home, http2, tools
from bench.rows import Row
from bench.stack import BenchStack
from bench.world import World
from domain.fanout import Delivery
from domain.ids import TweetId, UserId
from eventlog.valkey_streams import ValkeyStreams, open_log
from storage import bulk, valkey
from storage.timelines import Keys, WindowKind
from workers import fanout_worker

RATE, SECONDS, TURNS, CONNECTIONS = 500.0, 1.0, 4, 8
TWEETS = 40_000
WITHIN_S = 120.0
LOOK_S = 0.05
RATIO_GOAL = 3.0


async def measure(stack: BenchStack, world: World, echo_port: int) -> list[Row]:
    """The p99 of both. The relay and the worker must have been stopped; timeline_server,
    tweet_server and the echo run."""
    draw = random.Random(5)  # noqa: S311 -- not a secret
    # Their follower lists are in Valkey: fan-out runs at full speed.
    authors = draw.choices(deliveries.drawn_by_followers(world), k=TWEETS)
    async with open_log(stack.settings) as event_log:
        await _insert_tweets(stack, authors, await deliveries.fill(event_log, authors))
        await _drop_viewers(stack, world)
        await home.materialise(stack, world)
        alone = http2.Result()
        await _at_rate(alone, world, echo_port, draw)
        reads, echo = http2.Result(), http2.Result()
        await stack.start("fanout_worker")
        waiting = await _lag_below(event_log, TWEETS)
        started = time.perf_counter()
        # In turn, so that both have the same beside them.
        for _ in range(TURNS):
            await _at_rate(reads, world, stack.port("timeline_server"), draw)
            await _at_rate(echo, world, echo_port, draw)
        left = sum((await event_log.lag(fanout_worker.GROUP)).values())
        if not left:
            raise tools.LoadFailed("fan-out was done before the reads were")
        # A batch counts when it is committed, and may take seconds.
        left = await _lag_below(event_log, left)
        seconds = time.perf_counter() - started
        await _lag_below(event_log, 1)  # the next measurement begins with an empty log
        await stack.stop("fanout_worker")
    echo_ms, ratio = echo.percentile_ms(0.99), reads.percentile_ms(0.99) / echo.percentile_ms(0.99)
    return [
        Row(
            name="fanout_home_p99", value=round(reads.percentile_ms(0.99), 2), unit="ms",
            ratio=round(ratio, 3),
            against=f"echo at the same rate, beside fan-out too, {echo_ms:.2f}",
            goal=f"ratio <= {RATIO_GOAL:g}", met=ratio <= RATIO_GOAL,
            how=f"open loop at {RATE:.0f} reads/s, {TURNS} times {SECONDS:.0f} s in turn with the"
            " echo, from when a read was due,"
            f" our own client (bench/http2.py), {CONNECTIONS} connections, another random viewer"
            f" of {len(world.viewers):,} for each; p50 {reads.percentile_ms(0.5):.2f} ms, the"
            f" echo's {echo.percentile_ms(0.5):.2f}; beside both a worker in a process of its own,"
            f" that took {(waiting - left) / seconds:,.0f} tweets/s, drawn by followers, from the"
            " log, until it had committed what it had in hand; the echo's p99 with no fan-out"
            f" beside it {alone.percentile_ms(0.99):.2f}; all on the same cores",
        )
    ]  # fmt: skip


async def _at_rate(into: http2.Result, world: World, port: int, draw: random.Random) -> None:
    requests = home.forever(home.encoded(world, port), draw)
    result = await http2.run_at_rate(
        port, requests, connections=CONNECTIONS, rate=RATE, seconds=SECONDS
    )
    if result.failed:
        raise tools.LoadFailed(f"{result.failed} reads failed")
    into.latencies.extend(result.latencies)


async def _lag_below(event_log: ValkeyStreams, goal: int) -> int:
    """Waits until so few events are left; returns how many."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            left = sum((await event_log.lag(fanout_worker.GROUP)).values())
            if left < goal:
                return left
            await asyncio.sleep(LOOK_S)


async def _insert_tweets(
    stack: BenchStack, authors: Sequence[UserId], ids: Sequence[TweetId]
) -> None:
    async with bulk.connect(stack.settings) as connection:
        await connection.execute(
            "INSERT INTO tweets (id, author_id, content, conversation_id, delivery, created_at)"
            " SELECT id, author, 'a tweet of its time, number ' || id, id, %s, now()"
            " FROM unnest(%s::bigint[], %s::bigint[]) AS made (id, author)",
            (int(Delivery.PUSH), list(ids), list(authors)),
        )


async def _drop_viewers(stack: BenchStack, world: World) -> None:
    """Makes the readers' timelines those of their followees again."""
    keys = Keys(stack.settings.timeline_shards)
    async with valkey.connect(stack.settings.valkey_url, stack.settings) as cache:
        pipeline = cache.pipeline(transaction=False)
        for viewer in world.viewers:
            pipeline.delete(keys.window(WindowKind.TIMELINE, viewer))
        await pipeline.execute()

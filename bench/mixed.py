"""Mixed load: 60 % home timelines, 30 % user timelines, 10 % posts.

The mix is that of DeathStarBench's social network (delimitrou/DeathStarBench,
socialNetwork/wrk2/scripts/social-network/mixed-workload.lua), and so is the way of asking: an open
loop with random gaps, in which a late answer slows no arrival.

1. The highest sustainable rate: from a low one upwards, until calls fail, come late, or fan-out
   falls behind.
2. Five runs of two minutes at half of it.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from chirp.v1 import timeline_pb2, tweet_pb2

from bench import frames, http2, verification
from bench.frames import Request
from bench.home import encoded, forever
from bench.http2 import Result
from bench.posts import METHOD as POST_METHOD
from bench.rows import Row, at_least, at_most
from bench.stack import BenchStack
from bench.tools import LoadFailed
from bench.world import WORDS, World

USER_METHOD = "/chirp.v1.TimelineService/GetUserTimeline"
PARTS = {"home": 0.6, "user": 0.3, "post": 0.1}
CONNECTIONS = 4  # for each kind
SECONDS = 120.0
RUNS = 5
HOME_GOAL_MS, POST_GOAL_MS = 20.0, 30.0

FIRST_RATE = 400.0
STEP = 1.35
RATE_MAX = 20_000.0  # the client's own limit is below it
STEP_S = 2.5
ATTEMPTS = 2
WARM_UP_S = 6.0  # the mix reads 40,000 tweets, which are not in the caches yet
LATE_MS = 100.0  # a rate whose p99 is above it is not sustained
BEHIND_MAX_S = 1.0  # nor one after which fan-out needs longer
PAGE_TWEETS = 20
REASONS_MAX = 5  # of failures, in the row
ENCODED = 20_000  # requests of each kind, encoded before the clock starts


@dataclass(slots=True)
class Mix:
    """What one run gave, by kind."""

    results: dict[str, Result]
    behind_s: float
    """How long fan-out needed afterwards."""

    @property
    def failed(self) -> int:
        """Calls that failed."""
        return sum(result.failed for result in self.results.values())

    @property
    def sustained(self) -> bool:
        """Whether all calls were answered in time, and fan-out kept up."""
        late = any(result.percentile_ms(0.99) > LATE_MS for result in self.results.values())
        return not self.failed and not late and self.behind_s <= BEHIND_MAX_S


async def measure(stack: BenchStack, world: World) -> list[Row]:
    """The rows. Every account must have a window. Raises LoadFailed where no rate is sustained."""
    requests = encoded_mix(stack, world)
    draw = random.Random(7)  # noqa: S311 -- not a secret
    async with verification.opened(stack) as verifier:

        async def run(rate: float, seconds: float) -> Mix:
            names = list(PARTS)
            results = await asyncio.gather(
                *(
                    http2.run_at_rate(
                        stack.port("tweet_server" if name == "post" else "timeline_server"),
                        requests[name], connections=CONNECTIONS, rate=rate * PARTS[name],
                        seconds=seconds, draw=draw,
                    )
                    for name in names
                )
            )  # fmt: skip
            ended = time.perf_counter()
            await verifier.drain()
            return Mix(dict(zip(names, results, strict=True)), time.perf_counter() - ended)

        await run(FIRST_RATE, WARM_UP_S)
        highest, rate, failures = 0.0, FIRST_RATE, 0
        # Twice: in so short a step, one stall of the disk would look like the end.
        while rate < RATE_MAX and failures < ATTEMPTS:
            if (await run(rate, STEP_S)).sustained:
                highest, rate, failures = rate, rate * STEP, 0
            else:
                failures += 1
        if not highest:
            raise LoadFailed(f"even {FIRST_RATE:.0f} calls a second are not sustained")
        mixes = [await run(highest / 2, SECONDS) for _ in range(RUNS)]
    results = [result for mix in mixes for result in mix.results.values()]
    answered = sum(len(result.latencies) for result in results)
    why = sum((result.reasons for result in results), Counter[str]())
    failed = why.total()
    reasons = "".join(f" ({calls:,}: {reason})" for reason, calls in why.most_common(REASONS_MAX))

    def percentile(name: str, part: float) -> float:
        return median(mix.results[name].percentile_ms(part) for mix in mixes)

    how = (
        f"open loop, random gaps (Poisson), {highest / 2:,.0f} calls a second for {SECONDS:.0f} s,"
        f" median of {RUNS} runs, half of {highest:,.0f}, the highest that was sustained"
        f" (steps of {STEP - 1:.0%}, {STEP_S:g} s each: nothing failed, every p99"
        f" under {LATE_MS:.0f} ms, fan-out done"
        f" within {BEHIND_MAX_S:.0f} s); 60 % home reads, 30 % user timelines, 10 % posts, by and"
        f" of {len(world.viewers):,} random accounts, in each the same, as in that mix;"
        f" {failed} of {answered + failed:,} calls failed{reasons}; p50 of home"
        f" {percentile('home', 0.5):.1f}, user {percentile('user', 0.5):.1f}, post"
        f" {percentile('post', 0.5):.1f} ms, p99 of user {percentile('user', 0.99):.1f} ms;"
        " by gRPC from bench/http2.py, counted from when a call was due; every account's window"
        " full; one process of each server and worker, PostgreSQL with fsync, two Valkeys and the"
        " client on the same cores"
    )
    return [
        at_most("mixed_home_p99", percentile("home", 0.99), "ms",
                value_goal=HOME_GOAL_MS, errors=failed, how=how),
        at_most("mixed_post_p99", percentile("post", 0.99), "ms",
                value_goal=POST_GOAL_MS, errors=failed, how=how),
        at_least("mixed_rate", highest / 2, "calls/s", how=how),
    ]  # fmt: skip


def encoded_mix(stack: BenchStack, world: World) -> dict[str, Iterator[Request]]:
    """Random calls of each kind, without end: by the viewers, user timelines of the viewers."""
    draw = random.Random(8)  # noqa: S311 -- not a secret
    timelines = f"127.0.0.1:{stack.port('timeline_server')}"
    tweets = f"127.0.0.1:{stack.port('tweet_server')}"
    homes = encoded(world, stack.port("timeline_server"))
    users = [
        frames.request(
            USER_METHOD,
            timelines,
            draw.choice(world.tokens),
            timeline_pb2.GetUserTimelineRequest(id=account, limit=PAGE_TWEETS).SerializeToString(),
        )
        for account in world.viewers
    ]
    posts = [
        frames.request(
            POST_METHOD,
            tweets,
            draw.choice(world.tokens),
            tweet_pb2.CreateTweetRequest(
                content=" ".join(draw.choices(WORDS, k=draw.randint(10, 30)))
            ).SerializeToString(),
        )
        for _ in range(ENCODED)
    ]
    kinds = zip(PARTS, (homes, users, posts), strict=True)
    return {name: forever(encoded_all, draw) for name, encoded_all in kinds}

"""Three times as many home reads as a stack can answer, through the gateway: what is answered, how
soon the rest is refused, and when all is as before. Writes bench/overload.json.

    python -m bench.overload

Each run of several:
 1. the best rate, by callers who wait for their answers;
 2. half of it, open loop: what is normal;
 3. three times the best, open loop, by callers who do not care;
 4. half of it again, second by second, and as long as before.
"""

import itertools
import os
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from chirp.v1 import tweet_pb2

from bench import alone, frames, http2, slow_clients
from bench.home import MESSAGE, METHOD
from bench.rows import Row, at_least, at_most
from bench.stack import BenchStack
from bench.world import mint_tokens
from domain.ids import UserId

VIEWERS = 500
ENTRIES = 60  # of each timeline; a page has 20
RUNS = 5
# As many calls as the gateway lets through at once.
CONNECTIONS, STREAMS = 8, 32
# So many that none of them reaches the gateway's limit of streams.
FLOOD_CONNECTIONS = 64
BEST_S, NORMAL_S, FLOOD_S, SLICES = 4.0, 5.0, 8.0, 5
TIMES = 3
GOODPUT_GOAL = 0.8
NORMAL_AGAIN = 2.0
LATEST = Path(__file__).with_name("overload.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    best: float
    """Answers a second to callers who wait."""
    before: http2.Result
    flood: http2.Result
    after: Sequence[http2.Result]
    """Of each second behind the flood."""
    settled: http2.Result

    @property
    def good(self) -> float:
        """Answers a second in the flood."""
        return len(self.flood.latencies) / FLOOD_S

    @property
    def lost(self) -> int:
        """Calls with no answer at all, and those that were refused behind the flood."""
        behind = sum(each.failed for each in (*self.after, self.settled))
        return self.flood.failed - len(self.flood.refusals) + behind

    @property
    def seconds_over(self) -> int:
        """How many seconds passed before the first whose p99 was as before."""
        limit_ms = NORMAL_AGAIN * self.before.percentile_ms(0.99)
        late = itertools.takewhile(lambda each: each.percentile_ms(0.99) > limit_ms, self.after)
        return sum(1 for _ in late)

    def refused_ms(self, part: float) -> float:
        """Milliseconds until a call was refused, at a percentile."""
        return 1_000 * http2.percentile(sorted(self.flood.refusals), part)


def main() -> int:
    """Runs it; returns the exit status."""
    return alone.main(LATEST, VIEWERS, slow_clients.ALL, _flood)


def _part_cores(running: BenchStack) -> None:
    """Gives the gateway and the callers one core, and all others the other: elsewhere they are
    different machines, and a flood of callers does not take the server's own core."""
    cores = sorted(os.sched_getaffinity(0))
    outside, inside = {cores[0]}, set(cores[1:]) or {cores[0]}
    gateway = running.process_id("gateway")
    for process in running.process_ids():
        for thread in os.listdir(f"/proc/{process}/task"):
            os.sched_setaffinity(int(thread), outside if process == gateway else inside)
    os.sched_setaffinity(0, outside)


async def _flood(running: BenchStack, author: UserId) -> list[Row]:
    async with alone.posting(running, author) as post:
        for number in range(ENTRIES):
            text = f"{number} " + "as long as most are " * 5
            await post(tweet_pb2.CreateTweetRequest(content=text))
    _part_cores(running)
    viewers = [UserId(author + number) for number in range(1, VIEWERS + 1)]
    port = running.settings.port
    authority = f"127.0.0.1:{port}"
    requests = [
        frames.request(METHOD, authority, token, MESSAGE)
        for token in mint_tokens(running.settings, viewers)
    ]
    reads, draw = itertools.cycle(requests), random.Random(1)  # noqa: S311 -- not a secret
    await http2.run(port, reads, connections=2, streams=4, count=2 * len(requests))

    async def at_rate(rate: float, seconds: float) -> http2.Result:
        return await http2.run_at_rate(
            port, reads, connections=FLOOD_CONNECTIONS, rate=rate, seconds=seconds, draw=draw
        )

    found: list[_Run] = []
    for _ in range(RUNS):
        most = await http2.run(
            port, reads, connections=CONNECTIONS, streams=STREAMS, seconds=BEST_S
        )
        found.append(
            _Run(
                best=most.rate,
                before=await at_rate(most.rate / 2, NORMAL_S),
                flood=await at_rate(TIMES * most.rate, FLOOD_S),
                after=[await at_rate(most.rate / 2, 1.0) for _ in range(SLICES)],
                settled=await at_rate(most.rate / 2, NORMAL_S),
            )
        )
    return _rows(found)


def _rows(found: Sequence[_Run]) -> list[Row]:
    def middle(value: Callable[[_Run], float]) -> float:
        return median(map(value, found))

    best, lost = middle(lambda run: run.best), sum(run.lost for run in found)
    over, over_most = middle(lambda run: run.seconds_over), max(run.seconds_over for run in found)
    before_ms = middle(lambda run: run.before.percentile_ms(0.99))
    how = (
        f"home reads by gRPC through the gateway, one timeline server, {VIEWERS} viewers with"
        f" {ENTRIES} entries each; in each"
        f" of {len(found)} runs the best rate with {CONNECTIONS * STREAMS} callers who wait (median"
        f" {best:,.0f} a second), then {TIMES} times that, open loop (Poisson), for"
        f" {FLOOD_S:g} s; the gateway and the callers on one core, all servers and stores on the"
        " other"
    )
    return [
        at_least(
            "overload_goodput", middle(lambda run: run.good), "answers/s",
            ratio=middle(lambda run: run.good / run.best), ratio_goal=GOODPUT_GOAL,
            against=f"best {best:,.0f}", how=how,
        ),
        at_most(
            "overload_refused_p99", middle(lambda run: run.refused_ms(0.99)), "ms", errors=lost,
            how=f"until a call that is too many is refused"
            f" (p50 {middle(lambda run: run.refused_ms(0.5)):.0f} ms; calls that are answered wait"
            f" {middle(lambda run: run.flood.percentile_ms(0.5)):.0f} ms, p50); calls with no"
            f" answer at all, and refused ones after the flood, {lost}; as overload_goodput",
        ),
        at_most(
            "overload_after_p99", middle(lambda run: run.settled.percentile_ms(0.99)), "ms",
            value_goal=NORMAL_AGAIN * before_ms, against=f"before {before_ms:.1f} ms",
            how=f"at half the best rate for {NORMAL_S:g} s, from {SLICES} s after the flood on, and"
            f" before it; seconds until the first whose p99 was within {NORMAL_AGAIN:g} times that"
            f" of before: {over:g}, in the worst run {over_most:g}; as overload_goodput",
        ),
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())

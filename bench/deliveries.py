"""Fan-out: events that lie in the log to entries in timelines that exist, beside bare LPUSHX.

1. Every account's timeline is made: a full window of older entries, copied inside Valkey.
2. The relay and the worker have been stopped. For each draw of authors, the log is filled.
3. The worker's handler and its consumer loop run here until all is committed. Its own counter says
   how many entries were inserted: what was there already, or has no list, does not count.
"""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, cast

from chirp.v1 import events_pb2

from bench import baseline, memory_walk, tools
from bench.rows import Row, at_least, at_most
from bench.stack import BenchStack
from bench.world import World
from domain.ids import SnowflakeGenerator, TweetId, UserId
from eventlog import runner
from eventlog.contract import Outgoing
from eventlog.valkey_streams import ValkeyStreams, open_log
from mesh import server
from storage import valkey
from storage.timelines import Keys, WindowKind
from storage.valkey import Valkey
from storage.windows import encode
from workers import fanout_worker

GOALS = {"fanout": 400_000, "fanout_even": 250_000}
WORKER = 1_023  # ids of events that nobody else mints
POLL_MS = 500
PER_APPEND = 1_000
WINDOW_LENGTHS = 40
TOUCHED_BYTES, TOUCHED_AT_ONCE = 512 << 20, 8 << 20

BY_FOLLOWERS_TWEETS = 16_000  # several batches
EVEN_AUTHORS, EVEN_TWEETS_EACH = 4_000, 6

RUNS = 5
CALL_GOAL_MS = 2.0
# Calls that take longer are noted, one by one; few, because when Valkey has forgotten some
# thousands its next call waits for malloc to tidy up (`perf`), 5 to 25 ms.
WATCHED_US, WATCHED_MAX = 1_000, 20_000


async def materialise_all(stack: BenchStack, world: World) -> None:
    """Gives every account a full window of entries that are older than any event, as windows are
    after a while: trimmed when they run over by a tenth, so of every length between. Were all of
    one length, they would grow together, and Valkey with them. It is left memory to grow in."""
    settings = stack.settings
    keys = Keys(settings.timeline_shards)
    templates = [f"bench:window:{number}" for number in range(WINDOW_LENGTHS)]
    async with valkey.connect(settings.valkey_url, settings) as cache:
        for number, template in enumerate(templates):
            length = settings.timeline_length
            length += length * number // (10 * WINDOW_LENGTHS)
            # Below any tweet of the world; a list that is not complete has a floor, its last entry.
            await cache.rpush(
                template,
                *[
                    encode((TweetId(entry), UserId(1), TweetId(0), UserId(0)))
                    for entry in range(length, 0, -1)
                ],
            )
        for start in range(0, len(world.accounts), PER_APPEND):
            pipeline = cache.pipeline(transaction=False)
            for number, account in enumerate(world.accounts[start : start + PER_APPEND]):
                template = templates[number % WINDOW_LENGTHS]
                pipeline.copy(template, keys.window(WindowKind.TIMELINE, account), replace=True)
            await pipeline.execute()
        await cache.delete(*templates)
        await _touch_memory(cache)


async def _touch_memory(cache: Valkey) -> None:
    """Has Valkey take memory and free it, which it keeps: a cache that has been full once has as
    much of its own as it may use, and no call waits for a page that nobody has touched."""
    keys = [f"bench:memory:{number}" for number in range(TOUCHED_BYTES // TOUCHED_AT_ONCE)]
    for key in keys:
        await cache.setrange(key, TOUCHED_AT_ONCE - 1, "x")
    await cache.delete(*keys)


async def measure(stack: BenchStack, world: World) -> list[Row]:
    """Both draws, and LPUSHX. The relay and the worker must have been stopped."""
    draw = random.Random(2)  # noqa: S311 -- not a secret
    even = draw.sample(world.accounts, EVEN_AUTHORS) * EVEN_TWEETS_EACH
    draw.shuffle(even)
    draws = {
        "fanout": drawn_by_followers(world),
        "fanout_even": even,
    }
    followers = dict(zip(world.accounts, world.follower_counts, strict=True))
    walk = await memory_walk.measure(CALL_GOAL_MS)
    bare = await baseline.measure(stack, world)
    server.calm_collector()  # as the worker's own process does
    rows: list[Row] = []
    for name, authors in draws.items():
        cold = await _deliver(stack, list(dict.fromkeys(authors)))
        runs = [await _deliver(stack, authors) for _ in range(RUNS)]
        warm = sorted(runs, key=lambda run: run.rate)[RUNS // 2]
        # One entry for each follower, and one for the author.
        due = sum(followers[author] + 1 for author in authors)
        how = (
            f"{len(authors):,} events in the log,"
            f" {'authors drawn by followers' if name == 'fanout' else 'authors drawn evenly'},"
            f" {warm.inserted / len(authors):.0f} deliveries each, as with the default threshold"
            " (all pushed); one worker's handler and consumer loop in the bench's process, from"
            " the first poll to the last commit; all timelines full (800 to 880 entries, as"
            " trimming leaves them), sorted and idempotent;"
            " follower lists in Valkey, looked up by the function; only insertions counted;"
            f" the median of {RUNS} runs ({min(run.rate for run in runs):,.0f} to"
            f" {max(run.rate for run in runs):,.0f});"
            f" CPU of Valkey {warm.valkey_part:.0%} of a core, under LPUSHX {bare.valkey_part:.0%};"
            f" with follower lists still to be fetched {cold.rate:,.0f}"
        )
        if warm.inserted < due:
            # What a try inserted before it timed out is not counted when the batch is repeated.
            how += f"; {1 - warm.inserted / due:.0%} uncounted, as a batch timed out and came again"
        rows.append(
            at_least(
                name, warm.rate, "deliveries/s",
                ratio=warm.rate / bare.rate,
                value_goal=GOALS[name],
                against=bare.what, how=how,
            )
        )  # fmt: skip
        rows.append(_longest_call(name, runs, walk))
    return rows


def _longest_call(name: str, runs: Sequence["_Delivered"], walk: str) -> Row:
    longest = sorted(run.longest_ms for run in runs)
    rare = sorted(run.rare_ms for run in runs)
    return at_most(
        f"{name}_longest_call", longest[RUNS // 2], "ms",
        value_goal=CALL_GOAL_MS,
        how=f"the longest call of a run, median of {RUNS} runs ({longest[0]:.2f} to"
        f" {longest[-1]:.2f}), by Valkey's slow log: time on the clock, in which others may have"
        f" had the core; of {sum(run.calls for run in runs):,} calls of a function in all,"
        f" {sum(run.too_long for run in runs)} took longer than {CALL_GOAL_MS:g} ms, one in 1,000"
        f" of a run longer than {rare[0]:.2f} to {rare[-1]:.2f}; Valkey was busy for"
        f" {sum(run.valkey_s for run in runs):.1f} s, and waited for a core for"
        f" {sum(run.waited_s for run in runs):.2f}; pages of memory that it got (large ones, where"
        f" Linux has them): {sum(run.faults for run in runs)}; it had taken"
        f" {TOUCHED_BYTES >> 20} MB more before, and freed them; {walk}",
    )  # fmt: skip


def drawn_by_followers(world: World) -> list[UserId]:
    """The authors of the first draw: each as likely as it has followers. Always the same."""
    draw = random.Random(4)  # noqa: S311 -- not a secret
    counts = list(accumulate(world.follower_counts))
    return draw.choices(world.accounts, cum_weights=counts, k=BY_FOLLOWERS_TWEETS)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Delivered:
    """What one drain of the log did."""

    inserted: int
    seconds: float
    valkey_s: float
    waited_s: float
    """How long Valkey could have run and had no core."""
    faults: int
    """How many pages of memory Valkey got."""
    calls: int
    durations: list[int]
    """In us, of the calls that took longer than WATCHED_US."""

    @property
    def rate(self) -> float:
        """Deliveries a second."""
        return self.inserted / self.seconds

    @property
    def valkey_part(self) -> float:
        """How much of a core Valkey used."""
        return self.valkey_s / self.seconds

    @property
    def longest_ms(self) -> float:
        """The longest call."""
        return max(self.durations, default=0) / 1_000

    @property
    def rare_ms(self) -> float:
        """One call in 1,000 took longer."""
        every = sorted([0] * (self.calls - len(self.durations)) + self.durations)
        return every[-1 - self.calls // 1_000] / 1_000

    @property
    def too_long(self) -> int:
        """How many calls took longer than the goal."""
        return sum(duration > 1_000 * CALL_GOAL_MS for duration in self.durations)


async def _deliver(stack: BenchStack, authors: Sequence[UserId]) -> _Delivered:
    settings = stack.settings
    async with (
        open_log(settings) as event_log,
        valkey.connect(settings.valkey_url, settings) as cache,
        fanout_worker.open_worker(settings) as worker,
        runner.open_runner(
            settings, fanout_worker.GROUP, worker, batch=settings.fanout_batch
        ) as group,
    ):
        await fill(event_log, authors)
        # The partitions are ours before the clock starts: a take-over is not fan-out.
        await _watch_calls(cache)
        before = tools.cpu_seconds(stack.cache_process_id)
        waited = tools.waited_seconds(stack.cache_process_id)
        faults = tools.page_faults(stack.cache_process_id)
        started = time.perf_counter()
        handled = 0
        while handled < len(authors):
            handled += await group.step(POLL_MS)
        seconds = time.perf_counter() - started
        valkey_s = tools.cpu_seconds(stack.cache_process_id) - before
        waited_s = tools.waited_seconds(stack.cache_process_id) - waited
        faults = tools.page_faults(stack.cache_process_id) - faults
        lag = sum((await group.lag()).values())
        if lag:
            raise tools.LoadFailed(f"{lag} events were not committed")
        calls, durations = await _seen_calls(cache)
        return _Delivered(
            inserted=worker.deliveries,
            seconds=seconds,
            valkey_s=valkey_s,
            waited_s=waited_s,
            faults=faults,
            calls=calls,
            durations=durations,
        )


async def _watch_calls(cache: Valkey) -> None:
    await cache.config_resetstat()
    await cache.config_set("slowlog-log-slower-than", WATCHED_US)
    await cache.config_set("slowlog-max-len", WATCHED_MAX)
    await cache.slowlog_reset()


async def _seen_calls(cache: Valkey) -> tuple[int, list[int]]:
    """Returns how many calls of functions there were, and how long the longer ones took, in us."""
    calls = (await cast(Any, cache).info("commandstats"))["cmdstat_fcall"]["calls"]
    slow = await cast(Any, cache).slowlog_get(WATCHED_MAX)
    return int(calls), [each["duration"] for each in slow if b"FCALL" in each["command"].upper()]


async def fill(event_log: ValkeyStreams, authors: Sequence[UserId]) -> list[TweetId]:
    """Appends the creation of a tweet by each of these authors, in order; returns their ids."""
    ids = SnowflakeGenerator(WORKER)
    minted: list[TweetId] = []
    records: list[Outgoing] = []
    for author in authors:
        event = events_pb2.Event()
        event.occurred_at.GetCurrentTime()
        created = event.tweet_created
        minted.append(TweetId(ids.mint(time.time_ns() // 1_000_000)))
        created.entry.tweet_id = minted[-1]
        created.entry.author_id = author
        created.delivery = events_pb2.DELIVERY_PUSH
        records.append(Outgoing(author, event.SerializeToString()))
    # Higher than the stopped relay's, which counts in milliseconds too.
    fence = time.time_ns() // 1_000_000 + 1
    for start in range(0, len(records), PER_APPEND):
        await event_log.append(records[start : start + PER_APPEND], fence=fence)
    return minted

"""Freshness: from a post's answer until every follower's home read shows it.

1. An author with about 3,000 followers; all of them have read, so all have a window and a lease.
   All other accounts have a full window too: the other posts cost what they cost.
2. Posts leave at a fixed rate, however late the answers are: one in ten by that author, the others
   by random accounts.
3. From each answer on, some followers read their home timelines, again and again, until all of them
   saw the post: those whom fan-out reaches last in each shard, since it goes through a list in the
   order of ids, and a few at random. The first of them reads until it saw it, then all the others.
4. At the end, every follower reads once and must see the last of these posts.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from statistics import median

import grpc
from chirp.v1 import timeline_pb2, timeline_pb2_grpc, tweet_pb2, tweet_pb2_grpc

from bench import deliveries, http2, world
from bench.rows import Row, at_most
from bench.stack import BenchStack
from bench.tools import LoadFailed
from bench.world import World
from domain.fanout import shard_of
from domain.ids import UserId
from storage import bulk

GOAL_MS = 50.0
FOLLOWERS_WANTED = 3_000
RATE = 100
SECONDS = 12
RUNS = 5
POSTS_PER_PROBE = 10
READERS_AT_RANDOM = 2
PAUSE_S = 0.002  # between two reads of a reader: without it they would take the cores themselves
SEEN_WITHIN_S = 5.0
READS_AT_ONCE = 16

Metadata = tuple[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Audience:
    """The author who is watched, and those who follow."""

    author: UserId
    followers: Sequence[UserId]
    tokens: Sequence[str]
    """Of the followers, in their order."""


async def gather_audience(stack: BenchStack, made: World) -> Audience:
    """Finds the author, and has every follower read once; then gives all accounts that have read
    nothing a window that no read will ever ask for."""
    numbered = zip(made.follower_counts, made.accounts, strict=True)
    enough = [pair for pair in numbered if pair[0] >= FOLLOWERS_WANTED]
    pairs = zip(made.follower_counts, made.accounts, strict=True)
    _, author = min(enough) if enough else max(pairs)
    async with bulk.connect(stack.settings) as connection:
        cursor = await connection.execute(
            "SELECT follower_id FROM follows WHERE followee_id = %s ORDER BY follower_id",
            (author,),
        )
        followers = [UserId(row[0]) for row in await cursor.fetchall()]
    audience = Audience(author, followers, world.mint_tokens(stack.settings, followers))
    async with AsyncExitStack() as opened:
        timelines, _ = await _stubs(opened, stack)
        await _each_reads(timelines, audience, since=0)
    readers = {*followers, *made.viewers}
    others = [account for account in made.accounts if account not in readers]
    await deliveries.materialise_all(stack, replace(made, accounts=others))
    return audience


async def measure(stack: BenchStack, made: World, audience: Audience) -> Row:
    """The row. Raises LoadFailed where a follower does not see a post, or a post fails."""
    draw = random.Random(5)  # noqa: S311 -- not a secret
    (author_token,) = world.mint_tokens(stack.settings, [audience.author])
    readers = _readers(stack.settings.timeline_shards, audience, draw)
    runs: list[list[float]] = []
    async with AsyncExitStack() as opened:
        timelines, tweets = await _stubs(opened, stack)

        async def post(token: str) -> int:
            text = " ".join(draw.choices(world.WORDS, k=draw.randint(10, 30)))
            answer = await tweets.CreateTweet(
                tweet_pb2.CreateTweetRequest(content=text), metadata=_bearer(token)
            )
            return answer.id

        async def probe(seconds: list[float]) -> None:
            tweet = await post(author_token)
            answered = time.perf_counter()
            async with asyncio.timeout(SEEN_WITHIN_S):
                # One at a time reads again and again: six at once slow down what they watch.
                await _until_seen(timelines, readers[0], tweet)
                await asyncio.gather(*(_until_seen(timelines, who, tweet) for who in readers[1:]))
            seconds.append(time.perf_counter() - answered)

        async def run(seconds: list[float]) -> None:
            async with asyncio.TaskGroup() as group:
                started = time.perf_counter()
                for number in range(RATE * SECONDS):
                    await asyncio.sleep(started + number / RATE - time.perf_counter())
                    is_probe = number % POSTS_PER_PROBE == 0
                    call = probe(seconds) if is_probe else post(draw.choice(made.tokens))
                    group.create_task(call)

        await probe([])  # brings the follower list into Valkey
        try:
            for _ in range(RUNS):
                runs.append([])
                await run(runs[-1])
        except ExceptionGroup as failed:
            raise LoadFailed(f"freshness: {failed.exceptions[0]!r}") from None
        tweet = await post(author_token)
        await asyncio.gather(*(_until_seen(timelines, who, tweet) for who in readers))
        await _each_reads(timelines, audience, since=tweet - 1)
    p50, p99 = (
        median(1000 * http2.percentile(sorted(seconds), part) for seconds in runs)
        for part in (0.5, 0.99)
    )
    return at_most(
        "freshness", p99, "ms, p99", value_goal=GOAL_MS,
        how=f"from the answer to CreateTweet until home reads by gRPC show it: {RATE} posts a"
        f" second (open loop) for {SECONDS} s, median of {RUNS} runs, one in {POSTS_PER_PROBE}"
        f" by an author with {len(audience.followers):,} followers, all with a window and a lease,"
        " pushed as an"
        f" influencer's; of these {len(runs[0])} posts a run p50 {p50:.1f} ms; {len(readers)}"
        f" followers read again and again, with pauses of {1000 * PAUSE_S:g} ms, until all saw it"
        " (the others from when the first had), those whom"
        " fan-out reaches last in each shard among them; at the end all followers saw the last one;"
        " the others by random accounts, every account's window full; one process of each server"
        " and worker, PostgreSQL with"
        " fsync, two Valkeys and the client (grpc.aio) on the same cores, nothing else",
    )  # fmt: skip


def _readers(shards: int, audience: Audience, draw: random.Random) -> list[Metadata]:
    last = {
        shard_of(follower, shards): token
        for follower, token in zip(audience.followers, audience.tokens, strict=True)
    }
    some = draw.sample(audience.tokens, READERS_AT_RANDOM)
    return [_bearer(token) for token in (*last.values(), *some)]


async def _until_seen(
    timelines: "timeline_pb2_grpc.TimelineServiceAsyncStub", reader: Metadata, tweet: int
) -> None:
    while True:
        page = await timelines.GetHomeTimeline(
            timeline_pb2.GetHomeTimelineRequest(since_id=tweet - 1), metadata=reader
        )
        if any(found.id == tweet for found in page.tweets):
            return
        await asyncio.sleep(PAUSE_S)


async def _each_reads(
    timelines: "timeline_pb2_grpc.TimelineServiceAsyncStub", audience: Audience, *, since: int
) -> None:
    """Every follower reads once; with `since`, what comes after it must be there."""
    left = iter(audience.tokens)

    async def some() -> None:
        for token in left:
            page = await timelines.GetHomeTimeline(
                timeline_pb2.GetHomeTimelineRequest(since_id=since, limit=20),
                metadata=_bearer(token),
            )
            if since and all(found.id != since + 1 for found in page.tweets):
                raise LoadFailed("a follower's home timeline lacks a post that others saw")

    await asyncio.gather(*(some() for _ in range(READS_AT_ONCE)))


async def _stubs(
    opened: AsyncExitStack, stack: BenchStack
) -> tuple["timeline_pb2_grpc.TimelineServiceAsyncStub", "tweet_pb2_grpc.TweetServiceAsyncStub"]:
    channels = [
        await opened.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{stack.port(name)}"))
        for name in ("timeline_server", "tweet_server")
    ]
    return (
        timeline_pb2_grpc.TimelineServiceStub(channels[0]),
        tweet_pb2_grpc.TweetServiceStub(channels[1]),
    )


def _bearer(token: str) -> Metadata:
    return (("authorization", f"Bearer {token}"),)

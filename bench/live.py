"""Freshness of open streams: from the answer of a POST to the tweet on the followers' home streams,
for a normal author (pushed) and a celebrity (pulled), with a thousand viewers connected."""

import asyncio
import random
import time
from collections.abc import Sequence

import grpc
from chirp.v1 import timeline_pb2, tweet_pb2, tweet_pb2_grpc

from bench import frames, http2
from bench.frames import Request
from bench.rows import Row, at_most
from bench.stack import BenchStack
from bench.stream_client import Streams
from bench.world import WORDS, World, mint_tokens
from domain.ids import UserId
from domain.tier import Tier
from storage import bulk

METHOD = "/chirp.v1.TimelineService/StreamHomeTimeline"
VIEWERS = 1_000
FOLLOWERS = 3_000
CONNECTIONS = 4
POSTS = 40
EVERY_S = 0.25
GOAL_MS = 100
BEGIN_S, ARRIVE_S = 60.0, 20.0


async def measure(stack: BenchStack, world: World) -> list[Row]:
    """Makes the most followed account a celebrity and the one with the number of followers nearest
    to `FOLLOWERS` a normal author, and has each post while followers of it have streams open."""
    counted = list(zip(world.follower_counts, world.accounts, strict=True))
    famous = max(counted)
    usual = min((pair for pair in counted if pair != famous), key=lambda p: abs(p[0] - FOLLOWERS))
    before = await _set_tiers(stack, {famous[1]: Tier.CELEBRITY, usual[1]: Tier.NORMAL})
    try:
        rows: list[Row] = []
        for name, (followers, author) in (("normal", usual), ("celebrity", famous)):
            viewers = await _followers(stack, author, VIEWERS)
            latencies = await _post(stack, author, viewers)
            how = (
                f"{POSTS} posts by an account with {followers:,} followers ({name}), one every"
                f" {EVERY_S:g} s; {len(viewers):,} home streams by gRPC at one timeline_server,"
                " all of its followers; from the POST's answer to the item at each of these;"
                " relay and fan-out running, our own client on the same machine"
            )
            for part in (50, 99):
                rows.append(
                    at_most(
                        f"stream_{name}_p{part}",
                        http2.percentile(latencies, part / 100) * 1000,
                        "ms",
                        value_goal=GOAL_MS if part == 99 else None,
                        how=how,
                    )
                )
        return rows
    finally:
        await _set_tiers(stack, before)


def stream_requests(stack: BenchStack, viewers: Sequence[UserId]) -> list[Request]:
    """Returns requests for the home streams of accounts."""
    message = timeline_pb2.StreamHomeTimelineRequest().SerializeToString()
    authority = f"127.0.0.1:{stack.port('timeline_server')}"
    return [
        frames.request(METHOD, authority, token, message)
        for token in mint_tokens(stack.settings, viewers)
    ]


async def _post(stack: BenchStack, author: UserId, viewers: Sequence[UserId]) -> list[float]:
    """Returns the latencies of all items, sorted."""
    streams = Streams()
    draw = random.Random(author)  # noqa: S311 -- not a secret
    (token,) = mint_tokens(stack.settings, [author])
    latencies: list[float] = []
    port = stack.port("timeline_server")
    await streams.open(port, stream_requests(stack, viewers), connections=CONNECTIONS)
    try:
        await streams.until(len(viewers), within_s=BEGIN_S, begun=True)
        target = f"127.0.0.1:{stack.port('tweet_server')}"
        async with grpc.aio.insecure_channel(target) as channel:
            stub = tweet_pb2_grpc.TweetServiceStub(channel)
            for number in range(-1, POSTS):
                streams.arrivals.clear()
                await stub.CreateTweet(
                    tweet_pb2.CreateTweetRequest(content=" ".join(draw.choices(WORDS, k=20))),
                    metadata=(("authorization", f"Bearer {token}"),),
                )
                answered = time.perf_counter()
                await streams.until(len(viewers), within_s=ARRIVE_S)
                if number >= 0:  # the first warms up
                    latencies += [max(0.0, at - answered) for at in streams.arrivals]
                await asyncio.sleep(EVERY_S)
    finally:
        streams.close()
    return sorted(latencies)


async def _followers(stack: BenchStack, author: UserId, count: int) -> list[UserId]:
    async with bulk.connect(stack.settings) as connection:
        cursor = await connection.execute(
            "SELECT follower_id FROM follows WHERE followee_id = %s ORDER BY id LIMIT %s",
            (author, count),
        )
        return [UserId(row[0]) for row in await cursor.fetchall()]


async def _set_tiers(stack: BenchStack, tiers: dict[UserId, Tier]) -> dict[UserId, Tier]:
    """Sets tiers; returns what they were."""
    before: dict[UserId, Tier] = {}
    async with bulk.connect(stack.settings) as connection:
        for user, tier in tiers.items():
            cursor = await connection.execute(
                "UPDATE users SET tier = %s WHERE id = %s RETURNING old.tier", (int(tier), user)
            )
            row = await cursor.fetchone()
            assert row is not None
            before[user] = Tier(row[0])
    return before

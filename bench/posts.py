"""Posting: CreateTweet by gRPC, each commit synced to disk, relay and fan-out at work."""

import random
from collections.abc import Iterator

import grpc
from chirp.v1 import tweet_pb2, tweet_pb2_grpc

from bench import http2, tools
from bench.http2 import Request
from bench.rows import Row, at_least
from bench.stack import BenchStack
from bench.tools import LoadFailed
from bench.world import WORDS, World

METHOD = "/chirp.v1.TweetService/CreateTweet"
CONNECTIONS, STREAMS = 8, 4
WARM_UP_S = 1.0
TURNS = 2
TURN_S = 4.0
RATE_S = 6.0
QUIET_PART = 1 / 3  # of the highest rate: where the latency is measured
TEXTS = 5_000


async def one_tweet(stack: BenchStack, world: World) -> bytes:
    """Posts a tweet; returns the answer's bytes, for the echo."""
    target = f"127.0.0.1:{stack.port('tweet_server')}"
    async with grpc.aio.insecure_channel(target) as channel:
        tweet = await tweet_pb2_grpc.TweetServiceStub(channel).CreateTweet(
            tweet_pb2.CreateTweetRequest(content=_text(random.Random(1))),  # noqa: S311
            metadata=(("authorization", f"Bearer {world.tokens[0]}"),),
        )
    return tweet.SerializeToString()


async def measure(stack: BenchStack, world: World, echo_port: int) -> list[Row]:
    """Highest throughput with many clients beside the echo, then latency at a third of it."""
    port = stack.port("tweet_server")
    posts, echoes = _requests(world, port), _requests(world, echo_port)
    rates: dict[str, list[float]] = {"posts": [], "echoes": []}
    await _closed_loop(port, posts, WARM_UP_S)
    cpu_s, posted = 0.0, 0.0
    for _ in range(TURNS):
        before = tools.cpu_seconds(stack.process_id("tweet_server"))
        rates["posts"].append(await _closed_loop(port, posts, TURN_S))
        cpu_s += tools.cpu_seconds(stack.process_id("tweet_server")) - before
        posted += rates["posts"][-1] * TURN_S
        rates["echoes"].append(await _closed_loop(echo_port, echoes, TURN_S / 2))
    rate, echo_rate = sum(rates["posts"]) / TURNS, sum(rates["echoes"]) / TURNS
    quiet = rate * QUIET_PART
    result = await http2.run_at_rate(
        port, posts, connections=CONNECTIONS, rate=quiet, seconds=RATE_S
    )
    if result.failed:
        raise LoadFailed(f"{result.failed} posts failed")
    at_rest = (
        f"open loop at {quiet:,.0f} posts/s, a third of the highest rate, for {RATE_S:.0f} s, from"
        " when a post was due; fsync on, relay and fan-out running"
    )
    return [
        at_least(
            "post", rate, "posts/s",
            ratio=rate / echo_rate, against=f"bare echo {echo_rate:,.0f}",
            how=f"CreateTweet by gRPC, fsync on, relay and fan-out running, every timeline"
            f" materialised; our own client (bench/http2.py), closed loop of {CONNECTIONS}"
            f" connections with {STREAMS} calls each, another random author of"
            f" {len(world.viewers):,} for each; {posted / cpu_s:,.0f} posts / CPU-s of the server",
        ),
        at_least("post_p50", result.percentile_ms(0.50), "ms", how=at_rest),
        at_least("post_p99", result.percentile_ms(0.99), "ms", how=at_rest),
    ]  # fmt: skip


async def _closed_loop(port: int, requests: Iterator[Request], seconds: float) -> float:
    result = await http2.run(
        port, requests, connections=CONNECTIONS, streams=STREAMS, seconds=seconds
    )
    if result.failed:
        raise LoadFailed(f"{result.failed} posts failed")
    return result.rate


def _requests(world: World, port: int) -> Iterator[Request]:
    draw = random.Random(port)  # noqa: S311 -- not a secret
    requests = [
        http2.request(
            METHOD,
            f"127.0.0.1:{port}",
            draw.choice(world.tokens),
            tweet_pb2.CreateTweetRequest(content=_text(draw)).SerializeToString(),
        )
        for _ in range(TEXTS)
    ]
    while True:
        yield from requests


def _text(draw: random.Random) -> str:
    return " ".join(draw.choices(WORDS, k=draw.randint(10, 30)))

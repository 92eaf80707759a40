"""Posting: CreateTweet by gRPC, each commit synced to disk, relay and fan-out at work."""

import random
import time
from collections.abc import Iterator, Sequence
from statistics import median

import grpc
from chirp.v1 import tweet_pb2, tweet_pb2_grpc

from bench import frames, http2, verification
from bench.frames import Request
from bench.http2 import Result
from bench.rows import Row, at_least, at_most
from bench.stack import BenchStack
from bench.tools import LoadFailed
from bench.turns import TURNS, Side, in_turns
from bench.world import WORDS, World
from ops.verifier import Verifier

METHOD = "/chirp.v1.TweetService/CreateTweet"
CONNECTIONS, STREAMS = 8, 16
TURN_S = 4.0
RATE_S = 6.0
P99_GOAL_MS = 20.0
QUIET_PART = 1 / 3  # of the highest rate: where the latency is measured
TEXTS = 5_000
# A disk that stalls for seconds makes Chirp refuse what waits for it; the row says how many.
FAILED_PART_MAX = 0.01


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
    posts, echoes = random_posts(world, port), random_posts(world, echo_port)
    async with verification.opened(stack) as verifier:

        async def load(at: int) -> tuple[int, float]:
            result, seconds = await until_fanned_out(at, posts if at == port else echoes, verifier)
            runs.append(result)
            return len(result.latencies), seconds

        runs: list[Result] = []
        await load(port)
        runs.clear()
        sides = await in_turns(stack, Side("tweet_server", port), Side("echo", echo_port), load)
        rate, cpu = sides.rate, sides.per_cpu_second
        quiet = rate.chirp * QUIET_PART
        at_rest: list[Result] = []
        for _ in range(TURNS):
            at_rest.append(await open_loop(port, posts, quiet))
    failed = sum(run.failed for run in (*runs, *at_rest))

    def how_at_rest(found: Sequence[float]) -> str:
        return (
            f"open loop at {quiet:,.0f} posts/s, a third of the highest rate, for {RATE_S:.0f} s,"
            f" median of {TURNS} runs ({min(found):.1f} to {max(found):.1f}), from when a post was"
            f" due; fsync on, relay and fan-out running; {failed} posts failed"
        )

    p50, p99 = ([run.percentile_ms(part) for run in at_rest] for part in (0.50, 0.99))
    return [
        at_least(
            "post", rate.chirp, "posts/s",
            ratio=rate.ratio, ratio_goal=0.4, against=f"bare echo {rate.other:,.0f}",
            how=f"CreateTweet by gRPC, fsync on, relay and fan-out running, every timeline"
            f" materialised; our own client (bench/http2.py), closed loop of {CONNECTIONS}"
            f" connections with {STREAMS} calls each, another random author of"
            f" {len(world.viewers):,} for each; median of {TURNS} turns of {TURN_S:g} s, each"
            f" until fan-out was done; {cpu.chirp:,.0f} posts / CPU-s of the server; {failed} posts"
            " failed",
        ),
        at_least("post_p50", median(p50), "ms", how=how_at_rest(p50)),
        at_most("post_p99", median(p99), "ms", value_goal=P99_GOAL_MS, how=how_at_rest(p99)),
    ]  # fmt: skip


async def until_fanned_out(
    port: int, requests: Iterator[Request], verifier: Verifier
) -> tuple[Result, float]:
    """Posts for one turn; returns what came of it, and the seconds until all was fanned out: a rate
    that fan-out does not keep up with is not one."""
    result = await closed_loop(port, requests, TURN_S)
    ended = time.perf_counter()
    await verifier.drain()
    return result, result.seconds + time.perf_counter() - ended


async def open_loop(port: int, requests: Iterator[Request], rate: float) -> Result:
    """Posts at a rate, whatever is answered. Raises LoadFailed where many fail."""
    result = await http2.run_at_rate(
        port, requests, connections=CONNECTIONS, rate=rate, seconds=RATE_S
    )
    _check(result)
    return result


async def closed_loop(port: int, requests: Iterator[Request], seconds: float) -> Result:
    """Posts with as many clients as the row says. Raises LoadFailed where many fail."""
    result = await http2.run(
        port, requests, connections=CONNECTIONS, streams=STREAMS, seconds=seconds
    )
    _check(result)
    return result


def _check(result: Result) -> None:
    if result.failed > FAILED_PART_MAX * len(result.latencies):
        raise LoadFailed(f"{result.failed} posts failed")


def random_posts(world: World, port: int) -> Iterator[Request]:
    """Yields posts by random authors, for ever."""
    draw = random.Random(port)  # noqa: S311 -- not a secret
    requests = [
        frames.request(
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

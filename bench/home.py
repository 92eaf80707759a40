"""Home reads: by gRPC at the timeline server, and by REST through Envoy, each beside an echo."""

import itertools
import random
from collections.abc import Iterator
from statistics import fmean, median

import grpc
from chirp.v1 import timeline_pb2, timeline_pb2_grpc

from bench import frames, http2, tools
from bench.frames import Request
from bench.rows import Row, at_least
from bench.stack import BenchStack
from bench.tools import LoadFailed
from bench.turns import TURNS, Side, in_turns
from bench.world import World
from storage import valkey
from storage.timelines import Keys, WindowKind

METHOD = "/chirp.v1.TimelineService/GetHomeTimeline"
PAGE_TWEETS = 20
MESSAGE = timeline_pb2.GetHomeTimelineRequest(limit=PAGE_TWEETS).SerializeToString()
ENTRIES_WANTED = 60
PART_WANTED = 0.95
PAGES_SAMPLED = 200

# 8 calls at a time on each of 8 connections, as in the figures that the goals come from.
CONNECTIONS, STREAMS = 8, 8
WAVES_PER_TURN = 2
# Many for one connection, whose making costs a server as much CPU as 40 echoes.
REQUESTS_PER_VIEWER = 1_000
TURN_S = 3.0
REST_CONNECTIONS = 32
REST_TURN_S = 3


async def materialise(stack: BenchStack, world: World) -> tuple[float, str]:
    """Reads every viewer's timeline once, caches cold, and again, caches warm. Returns the rate of
    the cold reads, and a sentence on what the viewers hold; raises LoadFailed where it is too
    little."""
    port = stack.port("timeline_server")
    requests = encoded(world, port)
    cold = await http2.run(port, iter(requests), connections=2, streams=4, count=len(requests))
    warm = await http2.run(port, iter(requests), connections=2, streams=4, count=len(requests))
    if cold.failed or warm.failed:
        raise LoadFailed(f"{cold.failed + warm.failed} home reads failed")
    keys = Keys(stack.settings.timeline_shards)
    async with valkey.connect(stack.settings.valkey_url, stack.settings) as cache:
        pipeline = cache.pipeline(transaction=False)
        for viewer in world.viewers:
            pipeline.exists(keys.window(WindowKind.TIMELINE, viewer))
        materialised = sum(await pipeline.execute())
    if materialised < len(world.viewers):
        raise LoadFailed(f"only {materialised} timelines are materialised")
    full = sum(count >= ENTRIES_WANTED for count in world.entries) / len(world.entries)
    if full < PART_WANTED:
        raise LoadFailed(f"only {full:.1%} of the viewers have {ENTRIES_WANTED} or more entries")
    return cold.rate, (
        f"{materialised:,} random viewers among those who follow anybody; {full:.1%} have"
        f" {ENTRIES_WANTED} or more entries, {median(world.entries):,.0f} in the middle"
    )


async def average_page(stack: BenchStack, world: World) -> bytes:
    """Returns the page whose size is nearest to the mean of a sample."""
    target = f"127.0.0.1:{stack.port('timeline_server')}"
    async with grpc.aio.insecure_channel(target) as channel:
        stub = timeline_pb2_grpc.TimelineServiceStub(channel)
        pages: list[bytes] = []
        for token in world.tokens[:PAGES_SAMPLED]:
            page = await stub.GetHomeTimeline(
                timeline_pb2.GetHomeTimelineRequest(limit=PAGE_TWEETS),
                metadata=(("authorization", f"Bearer {token}"),),
            )
            pages.append(page.SerializeToString())
    mean = fmean(map(len, pages))
    return min(pages, key=lambda page: abs(len(page) - mean))


async def by_h2load(stack: BenchStack, world: World, echo: Side, page: int) -> list[Row]:
    """The rows that h2load measures."""
    body = stack.folder / "home-request.bin"
    body.write_bytes(b"\x00" + len(MESSAGE).to_bytes(4) + MESSAGE)
    viewers = _waves(world)

    async def load(port: int) -> tuple[int, float]:
        waves = [
            await tools.h2load(
                port, METHOD, body, next(viewers), requests=REQUESTS_PER_VIEWER, streams=STREAMS
            )
            for _ in range(WAVES_PER_TURN)
        ]
        return sum(wave.requests for wave in waves), sum(wave.seconds for wave in waves)

    sides = await in_turns(stack, _chirp(stack), echo, load)
    cpu, rate = sides.per_cpu_second, sides.rate
    how = (
        f"h2load in waves of {CONNECTIONS} processes at a time, each one connection, {STREAMS}"
        f" streams and one viewer, {REQUESTS_PER_VIEWER} reads each, since h2load has one set of"
        f" headers in a run; {TURNS * WAVES_PER_TURN * CONNECTIONS} viewers; the same against an"
        f" echo that verifies the same tokens, median of {TURNS} turns each; page of"
        f" {page:,} bytes; load generator on the same cores"
    )
    return [
        at_least(
            "home_read_h2load", cpu.chirp, "requests / CPU-s of the server",
            ratio=cpu.ratio, against=f"echo {cpu.other:,.0f}", how=how,
        ),
        at_least(
            "home_read_h2load_rps", rate.chirp, "requests/s",
            ratio=rate.ratio, against=f"echo {rate.other:,.0f}",
            how=f"{how}; time with the starts of h2load; Valkey beside it",
        ),
    ]  # fmt: skip


async def by_random_viewers(stack: BenchStack, world: World, echo: Side, page: int) -> list[Row]:
    """Another random viewer for each request."""
    draw = random.Random(1)  # noqa: S311 -- not a secret

    async def load(port: int) -> tuple[int, float]:
        requests = encoded(world, port)
        result = await http2.run(
            port, forever(requests, draw), connections=CONNECTIONS, streams=STREAMS, seconds=TURN_S
        )
        if result.failed:
            raise LoadFailed(f"{result.failed} home reads failed")
        return len(result.latencies), result.seconds

    sides = await in_turns(stack, _chirp(stack), echo, load)
    cpu, rate = sides.per_cpu_second, sides.rate
    how = (
        f"our own client (bench/http2.py), {CONNECTIONS} connections of {STREAMS} streams, another"
        f" random viewer for each request, of {len(world.viewers):,} drawn from all accounts; the"
        f" same against an echo of {page:,} bytes that verifies the same tokens, median of {TURNS}"
        f" turns of {TURN_S:g} s each; Valkey and the client on the same two cores"
    )
    return [
        at_least(
            "home_read_grpc", cpu.chirp, "requests / CPU-s of the server",
            ratio=cpu.ratio, ratio_goal=0.65, against=f"echo {cpu.other:,.0f}", how=how,
        ),
        at_least(
            "home_read_grpc_rps", rate.chirp, "requests/s",
            ratio=rate.ratio, ratio_goal=0.60, against=f"echo {rate.other:,.0f}", how=how,
        ),
    ]  # fmt: skip


async def by_rest(stack: BenchStack, world: World, echo_gateway_port: int) -> list[Row]:
    """Through Envoy, with JSON."""
    tokens = stack.folder / "tokens.txt"
    tokens.write_text("".join(f"{token}\n" for token in world.tokens))
    latencies: dict[int, list[tools.Load]] = {}

    async def load(port: int) -> tuple[int, float]:
        done = await tools.wrk(
            port, "/api/timeline/home", tokens, connections=REST_CONNECTIONS, seconds=REST_TURN_S
        )
        latencies.setdefault(port, []).append(done)
        return done.requests, done.seconds

    chirp = Side("timeline_server", stack.settings.port)
    echo = Side("echo", echo_gateway_port)
    for port in (chirp.port, echo.port):  # Envoy verifies each token once
        await load(port)
    latencies.clear()
    rate = (await in_turns(stack, chirp, echo, load)).rate
    p50 = fmean(done.p50_ms for done in latencies[chirp.port])
    p99 = fmean(done.p99_ms for done in latencies[chirp.port])
    return [
        at_least(
            "home_read_rest", rate.chirp, "requests/s",
            ratio=rate.ratio, ratio_goal=0.75,
            against=f"bare echo behind the same Envoy {rate.other:,.0f}",
            how=f"wrk, {REST_CONNECTIONS} connections, another random viewer for each request;"
            f" p50 {p50:.1f} ms, p99 {p99:.1f} ms; median of {TURNS} turns each; all on the same"
            " cores",
        )
    ]  # fmt: skip


def encoded(world: World, port: int) -> list[Request]:
    """A home read for each viewer."""
    return [frames.request(METHOD, f"127.0.0.1:{port}", token, MESSAGE) for token in world.tokens]


def forever(requests: list[Request], draw: random.Random) -> Iterator[Request]:
    """Yields random requests."""
    while True:
        yield from draw.choices(requests, k=1_000)


def _waves(world: World) -> Iterator[list[str]]:
    return (
        [world.tokens[(start + step) % len(world.tokens)] for step in range(CONNECTIONS)]
        for start in itertools.count(0, CONNECTIONS)
    )


def _chirp(stack: BenchStack) -> Side:
    return Side("timeline_server", stack.port("timeline_server"))

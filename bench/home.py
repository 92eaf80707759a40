"""Home reads: by gRPC at the timeline server, and by REST through Envoy, each beside the echo.

Chirp and the echo take turns, so that a change of the machine's mood hits both. CPU time is that of
the server process, of all its threads.
"""

import itertools
import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from statistics import fmean, median

import grpc
from chirp.v1 import timeline_pb2, timeline_pb2_grpc

from bench import http2, tools
from bench.http2 import Request
from bench.rows import Row, at_least
from bench.stack import BenchStack
from bench.tools import Load, LoadFailed
from bench.world import World
from storage import valkey
from storage.timelines import Keys, WindowKind

METHOD = "/chirp.v1.TimelineService/GetHomeTimeline"
PAGE_TWEETS = 20
MESSAGE = timeline_pb2.GetHomeTimelineRequest(limit=PAGE_TWEETS).SerializeToString()
ENTRIES_WANTED = 60
PART_WANTED = 0.95
PAGES_SAMPLED = 200

TURNS = 4
# 8 calls at a time on each of 8 connections, as in the figures that the goals come from.
CONNECTIONS, STREAMS = 8, 8
WAVES_PER_TURN = 2
# Many for one connection, whose making costs a server as much CPU as 40 echoes.
REQUESTS_PER_VIEWER = 1_000
TURN_S = 3.0
REST_CONNECTIONS = 32
REST_TURN_S = 3


@dataclass(slots=True)
class Totals:
    """What one side did in all its turns."""

    requests: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0

    @property
    def per_cpu_second(self) -> float:
        """Requests per CPU-second of the server."""
        return self.requests / self.cpu_s

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds


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


async def by_h2load(stack: BenchStack, world: World, echo_port: int, page: int) -> list[Row]:
    """The rows that h2load measures."""
    body = stack.folder / "home-request.bin"
    body.write_bytes(b"\x00" + len(MESSAGE).to_bytes(4) + MESSAGE)
    viewers = _waves(world)

    async def turn(port: int) -> list[Load]:
        return [
            await tools.h2load(
                port, METHOD, body, next(viewers), requests=REQUESTS_PER_VIEWER, streams=STREAMS
            )
            for _ in range(WAVES_PER_TURN)
        ]

    chirp, echo = await _in_turns(stack, echo_port, turn)
    how = (
        f"h2load in waves of {CONNECTIONS} processes at a time, each one connection, {STREAMS}"
        f" streams and one viewer, {REQUESTS_PER_VIEWER} reads each, since h2load has one set of"
        f" headers in a run; {TURNS * WAVES_PER_TURN * CONNECTIONS} viewers; the same against the"
        f" echo, in turns; page of {page:,} bytes; load generator on the same cores"
    )
    return [
        at_least(
            "home_read_grpc", chirp.per_cpu_second, "requests / CPU-s of the server",
            ratio=chirp.per_cpu_second / echo.per_cpu_second, ratio_goal=0.5,
            against=f"bare echo {echo.per_cpu_second:,.0f}", how=how,
        ),
        at_least(
            "home_read_grpc_rps", chirp.rate, "requests/s",
            ratio=chirp.rate / echo.rate,
            against=f"bare echo {echo.rate:,.0f}",
            how=f"{how}; time with the starts of h2load; Valkey beside it",
        ),
    ]  # fmt: skip


async def by_random_viewers(stack: BenchStack, world: World, echo_port: int) -> list[Row]:
    """The same with another random viewer for each request."""
    draw = random.Random(1)  # noqa: S311 -- not a secret

    async def turn(port: int) -> list[Load]:
        requests = encoded(world, port)
        result = await http2.run(
            port, forever(requests, draw), connections=CONNECTIONS, streams=STREAMS, seconds=TURN_S
        )
        if result.failed:
            raise LoadFailed(f"{result.failed} home reads failed")
        return [Load(len(result.latencies), result.seconds)]

    chirp, echo = await _in_turns(stack, echo_port, turn)
    return [
        at_least(
            "home_read_grpc_random", chirp.per_cpu_second, "requests / CPU-s of the server",
            ratio=chirp.per_cpu_second / echo.per_cpu_second,
            against=f"bare echo {echo.per_cpu_second:,.0f}",
            how=f"as home_read_grpc, but with our own client (bench/http2.py), {CONNECTIONS}"
            f" connections of {STREAMS} streams, another random viewer of {len(world.viewers):,}"
            f" for each request; {chirp.rate:,.0f} requests/s, the echo {echo.rate:,.0f}",
        )
    ]  # fmt: skip


async def by_rest(stack: BenchStack, world: World, echo_gateway_port: int) -> list[Row]:
    """Through Envoy, with JSON."""
    tokens = stack.folder / "tokens.txt"
    tokens.write_text("".join(f"{token}\n" for token in world.tokens))
    latencies: dict[int, list[Load]] = {}

    async def turn(port: int) -> list[Load]:
        load = await tools.wrk(
            port, "/api/timeline/home", tokens, connections=REST_CONNECTIONS, seconds=REST_TURN_S
        )
        latencies.setdefault(port, []).append(load)
        return [load]

    gateway_port = stack.settings.port
    for port in (gateway_port, echo_gateway_port):  # Envoy verifies each token once
        await turn(port)
    latencies.clear()
    chirp, echo = await _in_turns(stack, echo_gateway_port, turn, chirp_port=gateway_port)
    p50 = fmean(load.p50_ms for load in latencies[gateway_port])
    p99 = fmean(load.p99_ms for load in latencies[gateway_port])
    return [
        at_least(
            "home_read_rest", chirp.rate, "requests/s",
            ratio=chirp.rate / echo.rate,
            against=f"bare echo behind the same Envoy {echo.rate:,.0f}",
            how=f"wrk, {REST_CONNECTIONS} connections, another random viewer for each request;"
            f" p50 {p50:.1f} ms, p99 {p99:.1f} ms; all on the same cores",
        )
    ]  # fmt: skip


def encoded(world: World, port: int) -> list[Request]:
    """A home read for each viewer."""
    return [http2.request(METHOD, f"127.0.0.1:{port}", token, MESSAGE) for token in world.tokens]


def forever(requests: list[Request], draw: random.Random) -> Iterator[Request]:
    """Yields random requests."""
    while True:
        yield from draw.choices(requests, k=1_000)


def _waves(world: World) -> Iterator[list[str]]:
    return (
        [world.tokens[(start + step) % len(world.tokens)] for step in range(CONNECTIONS)]
        for start in itertools.count(0, CONNECTIONS)
    )


async def _in_turns(
    stack: BenchStack,
    echo_port: int,
    turn: Callable[[int], Awaitable[list[Load]]],
    *,
    chirp_port: int | None = None,
) -> tuple[Totals, Totals]:
    """Measures Chirp and the echo in turns; returns the totals of both."""
    sides = {
        "timeline_server": (chirp_port or stack.port("timeline_server"), Totals()),
        "echo": (echo_port, Totals()),
    }
    for _ in range(TURNS):
        for name, (port, totals) in sides.items():
            before = tools.cpu_seconds(stack.process_id(name))
            loads = await turn(port)
            totals.cpu_s += tools.cpu_seconds(stack.process_id(name)) - before
            totals.requests += sum(load.requests for load in loads)
            totals.seconds += sum(load.seconds for load in loads)
    return sides["timeline_server"][1], sides["echo"][1]

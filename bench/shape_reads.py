"""What a home read and a rebuild cost, for some viewers of a world (see bench/shape.py)."""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import grpc
from chirp.v1 import timeline_pb2, timeline_pb2_grpc

from bench import frames, http2, resp, tools
from bench.frames import Request
from bench.home import MESSAGE, METHOD, PAGE_TWEETS, forever
from bench.resp import Batch
from bench.stack import BenchStack
from bench.tools import LoadFailed
from bench.world import mint_tokens
from domain.ids import UserId
from storage import valkey
from storage.timelines import Keys, TimelineStore, WindowKind

CONNECTIONS, STREAMS = 8, 4
SECONDS, ALONE_S = 3.0, 1.0
COPIES_PER_BATCH, COPIES_UNDER_WAY = 500, 2_000


@dataclass(frozen=True, slots=True)
class ReadCost:
    """Of one home read."""

    cpu_us: float
    """CPU time of the timeline server."""
    cache_us: float
    """CPU time of the cache Valkey."""
    p50_ms: float
    """As one reader sees it who reads alone."""


async def read_cost(stack: BenchStack, viewers: Sequence[UserId]) -> ReadCost:
    """Reads the first page of random ones of these viewers, whose windows exist."""
    port = stack.port("timeline_server")
    requests = _requests(stack, viewers)
    draw = random.Random(9)  # noqa: S311 -- not a secret
    server, cache = stack.process_id("timeline_server"), stack.cache_process_id
    before = tools.cpu_seconds(server), tools.cpu_seconds(cache)
    many = await http2.run(
        port, forever(requests, draw), connections=CONNECTIONS, streams=STREAMS, seconds=SECONDS
    )
    after = tools.cpu_seconds(server), tools.cpu_seconds(cache)
    alone = await http2.run(
        port, forever(requests, draw), connections=1, streams=1, seconds=ALONE_S
    )
    if many.failed or alone.failed:
        raise LoadFailed(f"{many.failed + alone.failed} home reads failed")
    reads = len(many.latencies)
    return ReadCost(
        cpu_us=1e6 * (after[0] - before[0]) / reads,
        cache_us=1e6 * (after[1] - before[1]) / reads,
        p50_ms=alone.percentile_ms(0.5),
    )


async def materialise(stack: BenchStack, viewers: Sequence[UserId]) -> None:
    """Has every viewer read twice: the first read makes the window."""
    requests = _requests(stack, viewers) * 2
    result = await http2.run(
        stack.port("timeline_server"), iter(requests), connections=2, streams=4,
        count=len(requests),
    )  # fmt: skip
    if result.failed:
        raise LoadFailed(f"{result.failed} home reads failed")


async def fill_windows(stack: BenchStack, template: UserId, numbers: Sequence[UserId]) -> None:
    """Gives accounts that do not read a copy of the window of one that did."""
    keys = Keys(stack.settings.timeline_shards)
    source = keys.window(WindowKind.TIMELINE, template).encode()
    batches: list[Batch] = []
    for start in range(0, len(numbers), COPIES_PER_BATCH):
        batch = Batch()
        for account in numbers[start : start + COPIES_PER_BATCH]:
            batch.add(b"COPY", source, keys.window(WindowKind.TIMELINE, account).encode())
        batches.append(batch)
    await resp.pump(stack.settings.valkey_url, batches, COPIES_UNDER_WAY)


async def rebuild_ms(stack: BenchStack, viewers: Sequence[UserId]) -> float:
    """Returns how long a home read takes, in the middle, that finds no window and nothing known
    of its viewer: one after the other, so none waits for another."""
    settings = stack.settings
    took: list[float] = []
    async with (
        valkey.connect(settings.valkey_url, settings) as cache,
        grpc.aio.insecure_channel(f"127.0.0.1:{stack.port('timeline_server')}") as channel,
    ):
        store = TimelineStore(cache, settings)
        stub = timeline_pb2_grpc.TimelineServiceStub(channel)
        for viewer, token in zip(viewers, mint_tokens(settings, viewers), strict=True):
            await store.drop(viewer)
            started = time.perf_counter()
            await stub.GetHomeTimeline(
                timeline_pb2.GetHomeTimelineRequest(limit=PAGE_TWEETS),
                metadata=(("authorization", f"Bearer {token}"),),
            )
            took.append(time.perf_counter() - started)
    return 1_000 * median(took)


def _requests(stack: BenchStack, viewers: Sequence[UserId]) -> list[Request]:
    authority = f"127.0.0.1:{stack.port('timeline_server')}"
    return [
        frames.request(METHOD, authority, token, MESSAGE)
        for token in mint_tokens(stack.settings, viewers)
    ]

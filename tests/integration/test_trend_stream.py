"""Streams of trends by real servers, before a worker stepped by hand."""

import asyncio
import time

import grpc
import pytest
from chirp.v1 import trend_pb2, trend_pb2_grpc

from servers import trend_server
from tests.integration.conftest import serving_process
from tests.integration.trends import burst, names, shared, world
from tests.trend_world import DEADLINE_S, TrendWorld

__all__ = ["shared", "world"]

Update = trend_pb2.StreamTrendsResponse
Stream = grpc.aio.UnaryStreamCall[trend_pb2.StreamTrendsRequest, Update]


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def read(stream: Stream) -> trend_pb2.TrendUpdate:
    """Reads up to the next item."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            message = await stream.read()
            assert isinstance(message, Update), "the stream ended"
            assert message.WhichOneof("message") != "end", message.end
            if message.WhichOneof("message") == "item":
                return message.item


def told(update: trend_pb2.TrendUpdate) -> list[tuple[str, int, int]]:
    return [(change.trend.name, change.old_rank, change.new_rank) for change in update.changes]


async def test_a_stream_begins_with_the_list_and_tells_what_changes(world: TrendWorld) -> None:
    await burst(world, "old", 5)
    await burst(world, "older", 4)
    await world.drain()

    started = time.monotonic()
    stream: Stream = world.trends.StreamTrends(trend_pb2.StreamTrendsRequest(limit=2))
    first = await read(stream)
    first_s = time.monotonic() - started
    await burst(world, "new", 6)
    await world.drain()
    second = await read(stream)
    second_s = time.monotonic() - started
    await burst(world, "old", 1)
    await world.drain()
    await burst(world, "old", 1)
    await world.drain()
    third = await read(stream)
    third_s = time.monotonic() - started
    again = await read(world.trends.StreamTrends(trend_pb2.StreamTrendsRequest(limit=2)))

    assert [trend.name for trend in first.trends] == ["old", "older"]
    assert first_s < 2  # 100 ms on a machine that has nothing else to do: see bench/trends.py
    assert told(second) == [("older", 2, 0), ("new", 0, 1), ("old", 1, 2)]
    assert [change.kind for change in second.changes] == [
        trend_pb2.TREND_CHANGE_KIND_LEFT,
        trend_pb2.TREND_CHANGE_KIND_ENTERED,
        trend_pb2.TREND_CHANGE_KIND_MOVED,
    ]
    assert second.changes[1].trend.count == 6
    # Whatever happened meanwhile is one message, a second after the last.
    assert told(third) == [("old", 2, 1), ("new", 1, 2)]
    assert third_s - second_s >= 0.99
    assert [trend.name for trend in again.trends] == ["old", "new"]
    stream.cancel()


async def test_a_stream_of_a_place_follows_it_when_it_stops_being_sparse(
    world: TrendWorld,
) -> None:
    await burst(world, "here", 3, location="fr")
    await burst(world, "there", 4, location="de")
    await world.drain()

    stream: Stream = world.trends.StreamTrends(trend_pb2.StreamTrendsRequest(location="fr"))
    first = await read(stream)
    await burst(world, "also", 3, location="fr")
    await world.drain()
    second = await read(stream)

    assert (first.location, first.fallback_from) == ("world", "fr")
    assert (second.location, second.fallback_from) == ("fr", "")
    assert told(second) == [("there", 1, 0), ("also", 0, 1)]
    stream.cancel()


async def test_a_silent_stream_beats(world: TrendWorld) -> None:
    await burst(world, "still", 3)
    await world.drain()

    stream: Stream = world.trends.StreamTrends(trend_pb2.StreamTrendsRequest())
    kinds: list[str | None] = []
    async with asyncio.timeout(DEADLINE_S):
        for _ in range(3):
            message = await stream.read()
            assert isinstance(message, Update)
            kinds.append(message.WhichOneof("message"))

    assert kinds == ["item", "heartbeat", "heartbeat"]
    stream.cancel()


async def test_several_servers_answer_and_stream_the_same(world: TrendWorld) -> None:
    await burst(world, "old", 4)
    await world.drain()
    async with (
        serving_process(world.settings, trend_server.open_process) as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        # It has the lists from the first moment: they were published before it began.
        other = trend_pb2_grpc.TrendServiceStub(channel)
        lists = [
            await each.ListTrends(trend_pb2.ListTrendsRequest()) for each in (world.trends, other)
        ]
        streams: list[Stream] = [
            each.StreamTrends(trend_pb2.StreamTrendsRequest()) for each in (world.trends, other)
        ]
        whole = [await read(stream) for stream in streams]
        await burst(world, "new", 5)
        await world.drain()
        changed = [await read(stream) for stream in streams]
        for stream in streams:
            stream.cancel()

    assert lists[0] == lists[1]
    assert names(lists[0]) == ["old"]
    assert whole[0] == whole[1]
    assert changed[0] == changed[1]
    assert told(changed[0]) == [("new", 0, 1), ("old", 1, 2)]


async def test_open_streams_outlive_the_worker_and_the_cache(world: TrendWorld) -> None:
    await burst(world, "one", 4)
    await world.drain()
    stream: Stream = world.trends.StreamTrends(trend_pb2.StreamTrendsRequest())
    await read(stream)

    await world.kill_worker()
    await world.cache.flushall()
    still = await world.list()
    await burst(world, "two", 3)
    await world.drain()

    assert names(still) == ["one"]
    assert told(await read(stream)) == [("two", 0, 2)]
    stream.cancel()

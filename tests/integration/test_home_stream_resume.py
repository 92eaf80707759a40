"""Home streams that break and are resumed: each item once, and never a gap that is not told."""

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
import pytest_asyncio
from chirp.v1 import timeline_pb2_grpc

from domain import stream_token
from eventlog.scripts import stream_key
from mesh.settings import Settings
from mesh.streams import RESYNC_REQUIRED
from servers import timeline_server
from tests.home_reader import reading
from tests.integration.conftest import serving_process
from tests.refused import failure
from tests.world import World, open_world


@pytest_asyncio.fixture
async def world(settings: Settings) -> AsyncGenerator[World]:
    small = settings.model_copy(
        update={"influencer_followers": 2, "celebrity_followers": 3, "purge_poll_ms": 20}
    )
    async with open_world(small) as opened:
        yield opened


async def test_a_resumed_stream_brings_everything_once(world: World) -> None:
    reader, *authors = await world.accounts.insert(9)  # in several partitions
    for author in authors:
        await world.follow(reader, author)
    posted: list[int] = []
    author_of: dict[int, int] = {}

    async def post(count: int) -> None:
        for number in range(count):
            author = authors[number % 8]
            posted.append((await world.post(author)).id)
            author_of[posted[-1]] = author.id
        await world.relay_all()

    async with reading(world.timelines, reader) as stream:
        await post(5)
        got = await stream.ids(3)
    await post(10)
    async with reading(world.timelines, reader, stream.token) as stream:
        await post(4)
        got += await stream.ids(11)
        middle = stream.token
        tail = await stream.ids(5)
        await post(1)
        tail += await stream.ids(1)
    async with reading(world.timelines, reader, middle) as stream:
        again = await stream.ids(6)
    got += tail

    assert sorted(got) == sorted(posted)
    assert sorted(again) == sorted(tail)
    for author in authors:
        of_author = [tweet for tweet in got if author_of[tweet] == author.id]
        assert of_author == sorted(of_author)


async def test_a_heartbeat_moves_the_token_of_a_silent_stream(settings: Settings) -> None:
    async with open_world(settings.model_copy(update={"heartbeat_s": 1})) as world:
        reader, author, other = await world.accounts.insert(3)
        await world.follow(reader, author)
        await world.relay_all()
        async with reading(world.timelines, reader) as stream:
            first = stream.token
            for _ in range(3):
                await world.post(other)
            await world.relay_all()
            assert (await stream.read()).HasField("heartbeat")
            later = stream.token
        shown = await world.post(author)
        await world.relay_all()

        assert later != first
        async with reading(world.timelines, reader, later) as stream:
            assert await stream.ids(1) == [shown.id]


async def test_events_that_the_relay_sends_again_are_not_delivered_again(world: World) -> None:
    reader, author = await world.accounts.insert(2)
    await world.follow(reader, author)
    await world.relay_all()
    async with reading(world.timelines, reader) as stream:
        posted = [(await world.post(author)).id for _ in range(3)]
        await world.relay_all()
        assert await stream.ids(3) == posted
        async with world.pool.connection() as connection:
            # As a relay that died between sending and marking.
            await connection.execute("UPDATE outbox SET sent_at = NULL")
        await world.relay_all()
        token = stream.token
        new = (await world.post(author)).id
        await world.relay_all()
        assert await stream.ids(1) == [new]
    async with reading(world.timelines, reader, token) as stream:
        assert await stream.ids(1) == [new]


async def test_what_is_no_longer_in_the_log_is_not_passed_over(world: World) -> None:
    reader, author = await world.accounts.insert(2)
    await world.follow(reader, author)
    await world.relay_all()
    async with reading(world.timelines, reader) as stream:
        token = stream.token
    async with reading(world.timelines, author) as stream:
        for _ in range(5):
            await world.post(author)
            await world.relay_all()
        await stream.ids(5)  # so this server has read all of it
    for partition in range(world.event_log.partitions):
        await world.eventlog.xtrim(stream_key(partition), maxlen=1, approximate=False)

    # One that has read all of it serves from its memory; another one cannot.
    async with reading(world.timelines, reader, token) as stream:
        assert len(await stream.ids(5)) == 5
    async with another_server(world) as timelines, reading(timelines, reader, token) as stream:
        assert await stream.end() == RESYNC_REQUIRED


@pytest.mark.parametrize(("hours", "resumes"), [(11.9, True), (12.1, False)])
async def test_a_token_outlives_the_loss_of_the_log_by_half_a_day(
    world: World, hours: float, resumes: bool
) -> None:
    reader, author = await world.accounts.insert(2)
    await world.follow(reader, author)
    await world.relay_all()
    async with reading(world.timelines, reader) as stream:
        token = stream_token.decode(stream.token, partitions=world.event_log.partitions)
    at = int(time.time() - hours * 3_600)
    old = stream_token.encode_reach(at=at, positions=token.positions, floors=token.floors)
    old += stream_token.encode_own(since=token.since, delivered=())
    missed = await world.post(author)

    await world.eventlog.flushall()
    await world.relay.check(world.relay_connection)
    await world.relay_all()

    async with another_server(world) as timelines, reading(timelines, reader, old) as stream:
        if resumes:
            assert await stream.ids(1) == [missed.id]
        else:
            assert await stream.end() == RESYNC_REQUIRED


@asynccontextmanager
async def another_server(world: World) -> AsyncGenerator[Any]:
    """One that has only now begun, and reads none of what was in the log before."""
    chosen = world.settings.model_copy(update={"stream_memory": 0})
    async with (
        serving_process(chosen, timeline_server.open_process) as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        yield timeline_pb2_grpc.TimelineServiceStub(channel)


async def test_a_wrong_token_is_named(world: World) -> None:
    (ada,) = await world.accounts.insert(1)
    async with reading(world.timelines, ada) as stream:
        right = stream.token
    for token in ("x", "AQAAAAAAAAAB", right[:-9], right[:12], "A" * 20_000, "////"):
        async with reading(world.timelines, ada, token, begin=False) as stream:
            refused = await failure(stream.call.read())

        assert refused.code == grpc.StatusCode.INVALID_ARGUMENT, token
        assert refused.fields == ["resumeToken"]

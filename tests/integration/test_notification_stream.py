"""The stream of notifications: each once, in order, also after a break."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import pytest_asyncio
from chirp.v1 import notification_pb2, notification_pb2_grpc

from domain import notification
from mesh.settings import Settings
from servers import notification_server
from tests.integration.accounts import Account
from tests.integration.conftest import serving_process
from tests.notified import KIND, Notified, open_notified
from tests.refused import failure
from tests.world import open_world

Message = notification_pb2.StreamNotificationsResponse
DEADLINE_S = 10.0


@pytest_asyncio.fixture
async def notified(settings: Settings) -> AsyncGenerator[Notified]:
    async with open_world(settings) as world, open_notified(world) as opened:
        yield opened


@asynccontextmanager
async def streaming(notified: Notified, user: Account, token: str = "") -> AsyncGenerator["Stream"]:
    call = notified.stub.StreamNotifications(
        notification_pb2.StreamNotificationsRequest(resume_token=token), metadata=user.metadata
    )
    try:
        yield Stream(call)
    finally:
        call.cancel()


class Stream:
    """One call, read message by message."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.token = ""

    async def read(self) -> Message:
        async with asyncio.timeout(DEADLINE_S):
            message = await self.call.read()
        assert isinstance(message, Message)
        if message.resume_token:
            self.token = message.resume_token
        return message

    async def begin(self) -> None:
        assert (await self.read()).WhichOneof("message") == "heartbeat"

    async def items(self, count: int) -> list[notification_pb2.Notification]:
        found: list[notification_pb2.Notification] = []
        while len(found) < count:
            message = await self.read()
            assert not message.HasField("end"), message
            if message.HasField("item"):
                found.append(message.item)
        return found


async def test_what_is_new_comes_at_once_and_what_was_there_does_not(notified: Notified) -> None:
    world = notified.world
    ada, grace = await world.accounts.insert(2)
    old, new = await world.post(ada), await world.post(ada)
    await world.like(grace, old.id)
    await notified.drain()

    async with streaming(notified, ada) as stream:
        await stream.begin()
        await world.like(grace, new.id)
        await notified.drain()
        (item,) = await stream.items(1)

    assert (item.kind, item.tweet_id, item.actor_count, item.read) == (KIND.LIKE, new.id, 1, False)
    assert [actor.username for actor in item.actors] == [grace.username]
    (listed, _) = await notified.all(ada)
    assert listed == item


async def test_a_resumed_stream_brings_everything_once_and_in_order(notified: Notified) -> None:
    world = notified.world
    ada, *fans = await world.accounts.insert(4)
    tweets = [await world.post(ada) for _ in range(5)]
    async with streaming(notified, ada) as stream:
        await stream.begin()
        await world.like(fans[0], tweets[0].id)
        await notified.drain()
        (first,) = await stream.items(1)
        token = stream.token

    for tweet in tweets:
        for fan in fans:
            await world.like(fan, tweet.id)
            await notified.drain()
    await world.like(fans[0], tweets[1].id, undo=True)
    await notified.drain()
    async with streaming(notified, ada, token) as stream:
        await stream.begin()
        items = await stream.items(5)
        middle = notification.encode_token(items[2].id)
        await world.follow(fans[0], ada)
        await notified.drain()
        items += await stream.items(1)
    async with streaming(notified, ada, middle) as stream:
        await stream.begin()
        again = await stream.items(3)

    ids = [item.id for item in items]
    assert ids == sorted(ids)
    assert first.id < ids[0]
    assert {(item.tweet_id, item.actor_count) for item in items} == {
        (tweets[0].id, 3), (tweets[1].id, 2), (tweets[2].id, 3), (tweets[3].id, 3),
        (tweets[4].id, 3), (0, 1),
    }  # fmt: skip
    assert again == items[3:]


async def test_a_draining_server_ends_a_stream_that_goes_on_at_another(notified: Notified) -> None:
    world = notified.world
    ada, grace = await world.accounts.insert(2)
    tweets = [await world.post(ada) for _ in range(3)]
    stub = notified.stub
    async with AsyncExitStack() as stack:
        serving = await stack.enter_async_context(AsyncExitStack())
        port = await serving.enter_async_context(
            serving_process(world.settings, notification_server.open_process)
        )
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))
        notified.stub = notification_pb2_grpc.NotificationServiceStub(channel)
        stream = await stack.enter_async_context(streaming(notified, ada))
        await stream.begin()
        await world.like(grace, tweets[0].id)
        await notified.drain()
        got = [item.tweet_id for item in await stream.items(1)]
        stopping = asyncio.create_task(serving.aclose())
        message = await stream.read()
        await stopping
    notified.stub = stub
    for tweet in tweets[1:]:
        await world.like(grace, tweet.id)
        await notified.drain()
    async with streaming(notified, ada, message.end.resume_token) as stream:
        got += [item.tweet_id for item in await stream.items(2)]

    assert message.end.reason == "DRAINING"
    assert got == [tweet.id for tweet in tweets]


async def test_somebody_muted_just_now_is_not_told_though_the_worker_does_not_know(
    notified: Notified,
) -> None:
    world = notified.world
    ada, grace, alan = await world.accounts.insert(3)
    tweet, other = await world.post(ada), await world.post(ada)
    async with streaming(notified, ada) as stream:
        await stream.begin()
        await world.like(grace, tweet.id)
        await world.like(grace, other.id)
        await world.like(alan, other.id)
        await world.relay_all()
        await world.mute(ada, grace)  # not relayed yet
        while await notified.group.step(50):
            pass
        await world.relay_all()
        (item,) = await stream.items(1)

    assert (item.tweet_id, item.actor_count) == (other.id, 1)
    assert [actor.id for actor in item.actors] == [alan.id]


async def test_a_token_that_reaches_further_back_than_what_is_kept_says_so(
    notified: Notified,
) -> None:
    world = notified.world
    ada, grace = await world.accounts.insert(2)
    tweets = [await world.post(ada) for _ in range(2)]
    for tweet in tweets:
        await world.like(grace, tweet.id)
        await notified.drain()
    oldest, newest = sorted(each.id for each in await notified.all(ada))
    async with world.pool.connection() as connection:
        await connection.execute(
            "UPDATE notifications SET touched_at = now() - interval '1 year' WHERE head_id = %s",
            (oldest,),
        )
    assert await notified.worker.prune() == 1

    for place in (oldest - 1, newest + 1):
        async with streaming(notified, ada, notification.encode_token(place)) as stream:
            message = await stream.read()
            assert message.end.reason == "RESYNC_REQUIRED"
    async with streaming(notified, ada, notification.encode_token(oldest)) as stream:
        await stream.begin()
        assert [item.id for item in await stream.items(1)] == [newest]


async def test_a_wrong_token_is_named(notified: Notified) -> None:
    (ada,) = await notified.world.accounts.insert(1)
    for token in ("x", "AQAAAAAAAAA", "A" * 13, "//////////8"):
        async with streaming(notified, ada, token) as stream:
            refused = await failure(stream.call.read())

        assert refused.code == grpc.StatusCode.INVALID_ARGUMENT
        assert refused.fields == ["resumeToken"]

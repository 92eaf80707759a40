"""What callers see of rate limits at the servers, by gRPC."""

import time
from collections.abc import AsyncGenerator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
from chirp.v1 import graph_pb2, timeline_pb2, timeline_pb2_grpc, tweet_pb2, user_pb2

from mesh.settings import Settings
from servers import timeline_server
from storage import valkey
from tests.integration.accounts import Account, bearer
from tests.integration.conftest import serving_process
from tests.refused import Failure, failure
from tests.world import World, open_world

QUOTA, UNSETTLED = 30, 10
LIMITS = {
    "rate_limits": True,
    "rate_post": "3/864000",
    "rate_like": "2/864000",
    "rate_follow": "2/864000",
    "rate_account": "1/864000",
    "rate_read": f"{QUOTA}/864000",
    "rate_unsettled_max": UNSETTLED,
    "valkey_timeout_s": 10.0,
}


@asynccontextmanager
async def limited_world(settings: Settings, **changed: Any) -> AsyncGenerator[World]:
    async with open_world(settings.model_copy(update={**LIMITS, **changed})) as world:
        yield world


async def refusal(call: Awaitable[object]) -> Failure:
    refused = await failure(call)
    assert (refused.reason, refused.fields) == ("RATE_LIMITED", [])
    assert refused.retry_after_s is not None
    return refused


async def test_a_refusal_says_when_to_come_back(settings: Settings):
    async with limited_world(settings) as world:
        (author,) = await world.accounts.insert(1)
        for _ in range(3):
            await world.post(author)

        refused = await refusal(world.post(author))
        posted = await world.accounts.rows("SELECT count(*) FROM tweets")

    assert refused.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refused.retry_after_s is not None
    assert 287_000 < refused.retry_after_s <= 288_000
    assert refused.headers["retry-after"] == str(refused.retry_after_s)
    assert refused.headers["ratelimit"] == f'"post";r=0;t={refused.retry_after_s}'
    assert refused.headers["ratelimit-policy"] == '"post";q=3;w=864000'
    assert posted == [(3,)]


async def test_each_kind_has_a_quota_of_its_own_that_undoing_takes_from(settings: Settings):
    async with limited_world(settings) as world:
        author, user = await world.accounts.insert(2)
        tweet = await world.post(author)
        update = user_pb2.UpdateMeRequest(bio="x")

        await world.like(user, tweet.id)
        await world.like(user, tweet.id, undo=True)
        likes = await refusal(world.like(user, tweet.id))
        await world.follow(user, author)
        await world.block(user, author)
        follows = await refusal(world.unfollow(user, author))
        await world.block(author, user)
        await world.accounts.users.UpdateMe(update, metadata=user.metadata)
        account = await refusal(world.accounts.users.UpdateMe(update, metadata=user.metadata))
        await world.post(user)

    kinds = [each.headers["ratelimit-policy"].split(";")[0] for each in (likes, follows, account)]
    assert kinds == ['"like"', '"follow"', '"account"']


async def reads_until_refused(
    stub: "timeline_pb2_grpc.TimelineServiceAsyncStub", reader: Account
) -> int:
    request = timeline_pb2.GetHomeTimelineRequest()
    for passed in range(1_000):
        try:
            await stub.GetHomeTimeline(request, metadata=reader.metadata)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise
            return passed
    raise AssertionError("never refused")


async def test_two_timeline_servers_share_the_quota_of_reads(settings: Settings):
    async with limited_world(settings) as world, AsyncExitStack() as stack:
        (reader, other) = await world.accounts.insert(2)
        port = await stack.enter_async_context(
            serving_process(world.settings, timeline_server.open_process)
        )
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))
        second = timeline_pb2_grpc.TimelineServiceStub(channel)

        passed = await reads_until_refused(world.timelines, reader)
        more = await reads_until_refused(second, reader)
        refused = await refusal(
            second.GetUserTimeline(
                timeline_pb2.GetUserTimelineRequest(id=other.id), metadata=reader.metadata
            )
        )
        stream = second.StreamHomeTimeline(
            timeline_pb2.StreamHomeTimelineRequest(), metadata=reader.metadata
        )
        no_stream = await refusal(anext(aiter(stream)))
        await second.GetHomeTimeline(timeline_pb2.GetHomeTimelineRequest(), metadata=other.metadata)

    assert QUOTA <= passed + more <= QUOTA + 2 * UNSETTLED
    assert refused.headers["ratelimit-policy"] == f'"read";q={QUOTA};w=864000'
    assert no_stream.headers["ratelimit-policy"] == refused.headers["ratelimit-policy"]


async def test_a_home_read_makes_one_round_trip_to_valkey_with_its_limit_on(settings: Settings):
    async with limited_world(settings, rate_unsettled_max=1_000, rate_read="900/900") as world:
        (reader,) = await world.accounts.insert(1)
        for _ in range(2):
            await world.home_page(reader)  # builds the window, and keeps it
        async with valkey.connect(world.settings.valkey_url, world.settings) as cache:

            async def carried_out() -> dict[str, int]:
                statistics = await cache.info("commandstats")
                return {name: value["calls"] for name, value in statistics.items()}

            before = await carried_out()
            for _ in range(50):
                await world.home_page(reader)
            after = await carried_out()

    made = {name: count - before.get(name, 0) for name, count in after.items()}
    assert (made["cmdstat_lrange"], made["cmdstat_mget"]) == (50, 50)
    # Only what is settled once a second.
    assert made.get("cmdstat_fcall", 0) <= 5


async def test_services_and_operators_and_strangers_are_not_counted_by_user(settings: Settings):
    async with limited_world(settings) as world:
        (author,) = await world.accounts.insert(1)
        by_operator = bearer(
            world.accounts.signer.sign_user(author.id, 0, lifetime_s=60, now=time.time())
        )
        tweet = await world.post(author)

        for _ in range(6):
            await world.tweets.CreateTweet(
                tweet_pb2.CreateTweetRequest(content="hello"), metadata=by_operator
            )
        for _ in range(2 * QUOTA):
            await world.tweets.GetTweet(tweet_pb2.GetTweetRequest(id=tweet.id))
            await world.accounts.directory.BatchGetUsers(
                user_pb2.BatchGetUsersRequest(ids=[author.id]),
                metadata=world.accounts.service_metadata,
            )
            await world.graph.ListFollowers(graph_pb2.ListFollowersRequest(id=author.id))

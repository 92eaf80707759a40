"""Every token that is wrong in one way, at servers that are called directly."""

from collections.abc import AsyncGenerator

import grpc
import pytest
import pytest_asyncio
from chirp.v1 import timeline_pb2, tweet_pb2, user_pb2

from mesh.settings import Settings
from tests import hostile_tokens
from tests.hostile_tokens import FORGERIES, SERVERS_ONLY, Forger
from tests.integration.accounts import bearer
from tests.refused import failure
from tests.world import World, open_world

pytestmark = pytest.mark.asyncio(loop_scope="module")

ALL = {**FORGERIES, **SERVERS_ONLY}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(module_settings: Settings) -> AsyncGenerator[World]:
    async with open_world(module_settings) as opened:
        yield opened


async def test_the_token_that_the_others_are_made_of_is_good(world: World) -> None:
    metadata = bearer(hostile_tokens.good(world.settings))

    assert await world.timelines.GetHomeTimeline(
        timeline_pb2.GetHomeTimelineRequest(), metadata=metadata
    ) == (timeline_pb2.GetHomeTimelineResponse())


@pytest.mark.parametrize("forge", ALL.values(), ids=ALL)
async def test_it_is_refused_by_every_server(world: World, forge: Forger) -> None:
    metadata = bearer(forge(world.settings))
    before = await world.accounts.contents()

    for call in (
        world.accounts.users.UpdateMe(user_pb2.UpdateMeRequest(bio="x"), metadata=metadata),
        world.tweets.CreateTweet(tweet_pb2.CreateTweetRequest(content="x"), metadata=metadata),
        world.timelines.GetHomeTimeline(timeline_pb2.GetHomeTimelineRequest(), metadata=metadata),
        # What is open takes no bad token for none.
        world.accounts.users.GetUser(user_pb2.GetUserRequest(id=1), metadata=metadata),
        # Nor does a service's method.
        world.accounts.directory.ResolveUsernames(
            user_pb2.ResolveUsernamesRequest(usernames=["ada"]), metadata=metadata
        ),
    ):
        refused = await failure(call)
        assert (refused.code, refused.reason) == (
            grpc.StatusCode.UNAUTHENTICATED,
            "UNAUTHENTICATED",
        )
    stream = world.timelines.StreamHomeTimeline(
        timeline_pb2.StreamHomeTimelineRequest(), metadata=metadata
    )
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await stream.read()
    assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert await world.accounts.contents() == before

"""A world for tests of engagement, whose counts are right when they are done."""

from collections.abc import AsyncGenerator

import pytest_asyncio
from chirp.v1 import tweet_pb2

from mesh.settings import Settings
from tests.integration.accounts import Account
from tests.integration.recount import assert_counts_are_exact
from tests.world import World, open_world


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(module_settings: Settings) -> AsyncGenerator[World]:
    async with open_world(module_settings) as opened:
        yield opened
        await assert_counts_are_exact(opened.accounts)


async def get(world: World, tweet_id: int, viewer: Account | None = None) -> tweet_pb2.Tweet:
    """Returns a tweet as a viewer sees it."""
    metadata = viewer.metadata if viewer else None
    return await world.tweets.GetTweet(tweet_pb2.GetTweetRequest(id=tweet_id), metadata=metadata)


async def own_retweet(world: World, who: Account, original: int) -> int:
    """Returns the id of somebody's retweet."""
    ((tweet_id,),) = await world.accounts.rows(
        "SELECT id FROM tweets WHERE author_id = %s AND retweet_of = %s AND deleted_at IS NULL",
        who.id,
        original,
    )
    return tweet_id

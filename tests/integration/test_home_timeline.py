"""Home timelines through real servers, workers stepped by hand."""

from collections.abc import AsyncGenerator

import pytest_asyncio

from mesh.settings import Settings
from tests.world import World, open_world


@pytest_asyncio.fixture
async def world(settings: Settings) -> AsyncGenerator[World]:
    async with open_world(settings) as opened:
        yield opened


async def test_own_tweet_stands_in_the_own_timeline_when_the_post_has_answered(world: World):
    (author,) = await world.accounts.insert(1)
    assert await world.home(author) == []

    tweet = await world.post(author)

    assert await world.home(author) == [tweet.id]


async def test_a_post_reaches_followers_through_fan_out(world: World):
    author, follower = await world.accounts.insert(2)
    await world.follow(follower, author)
    await world.drain()
    assert await world.home(follower) == []

    tweet = await world.post(author)
    await world.drain()

    assert await world.home(follower) == [tweet.id]
    assert world.worker.deliveries > 0

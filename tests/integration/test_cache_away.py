"""The cache Valkey goes away and comes back: timelines are slower, and right all the time."""

import asyncio
import time
from collections.abc import AsyncGenerator

import pytest_asyncio

from mesh.settings import Settings
from tests.integration.accounts import Account
from tests.valkeys import OwnValkey, own_valkey
from tests.world import World, open_world

DEADLINE_S = 15.0


@pytest_asyncio.fixture
async def cache() -> AsyncGenerator[OwnValkey]:
    async with own_valkey() as running:
        yield running


@pytest_asyncio.fixture
async def world(settings: Settings, cache: OwnValkey) -> AsyncGenerator[World]:
    changed = {"valkey_url": cache.url, "timeline_length": 6, "influencer_followers": 3}
    async with open_world(settings.model_copy(update=changed)) as opened:
        yield opened


async def assert_right(world: World, *viewers: Account) -> None:
    for viewer in viewers:
        started = time.monotonic()
        page = await world.home_page(viewer, limit=4)
        assert time.monotonic() - started < 2.0, "a page is waited for too long"
        expected = await world.oracle(viewer)
        assert [tweet.id for tweet in page.tweets] == expected[:4]
        assert await world.home(viewer, limit=3) == expected


async def test_timelines_are_right_while_the_cache_is_away_and_after(
    world: World, cache: OwnValkey
):
    author, star, reader, cold, *fans = await world.accounts.insert(7)
    for viewer in (reader, cold, *fans):
        await world.follow(viewer, star)
    await world.follow(reader, author)
    for _ in range(5):
        await world.post(author)
        await world.post(star)
    await world.drain()
    await assert_right(world, reader, author, star)

    cache.stop()
    await assert_right(world, reader, cold, author, star)
    await world.post(author)
    tweet = await world.post(star)
    await world.unfollow(reader, author)
    await world.follow(cold, author)
    await world.delete(star, tweet.id)
    await assert_right(world, reader, cold, author, star)

    await cache.start()
    # Not drained yet: what was pulled from the database is as new as the database.
    await assert_right(world, reader, cold, author, star)
    await world.drain()
    await world.post(author)
    await world.post(star)
    await world.drain()
    await assert_right(world, reader, cold, author, star)


async def test_windows_are_built_again_when_the_cache_is_back(world: World, cache: OwnValkey):
    author, reader = await world.accounts.insert(2)
    await world.follow(reader, author)
    tweet = await world.post(author)
    await world.drain()
    assert await world.home(reader) == [tweet.id]
    cache.stop()
    assert await world.home(reader) == [tweet.id]
    await cache.start()

    deadline = time.monotonic() + DEADLINE_S
    while len(await world.cache.keys("timeline:*")) < 1:
        assert await world.home(reader) == [tweet.id]
        assert time.monotonic() < deadline, "it does not come back by itself"
        await asyncio.sleep(0.02)

    delivered = world.worker.deliveries
    newer = await world.post(author)
    await world.drain()
    assert await world.home(reader) == [newer.id, tweet.id]
    assert world.worker.deliveries > delivered, "nothing is pushed any more"

"""Counts on timelines are two seconds old at most, by the servers' own polling alone."""

import asyncio
import time
from collections.abc import AsyncGenerator

import pytest_asyncio
from chirp.v1 import timeline_pb2

from mesh.settings import Settings
from tests.integration.accounts import Account
from tests.world import World, open_world

PROMISED_S = 2.0


@pytest_asyncio.fixture
async def world(settings: Settings) -> AsyncGenerator[World]:
    async with open_world(settings) as opened:
        yield opened


async def counts(
    world: World, tweet: int, *, readers: list[Account], authors: list[Account]
) -> set[tuple[int, ...]]:
    """All counts that timelines show of a tweet, also inside another one."""
    shown = [t for reader in readers for t in (await world.home_page(reader, limit=100)).tweets]
    for author in authors:
        request = timeline_pb2.GetUserTimelineRequest(id=author.id, limit=100)
        shown += (await world.timelines.GetUserTimeline(request)).tweets
    shown += [t.quoted_tweet for t in shown if t.HasField("quoted_tweet")]
    shown += [t.retweeted_tweet for t in shown if t.HasField("retweeted_tweet")]
    return {
        (t.like_count, t.retweet_count, t.reply_count, t.quote_count)
        for t in shown
        if t.id == tweet
    }


async def test_counts_on_timelines_are_two_seconds_old_at_most(world: World):
    author, quoter, fan, reader = await world.accounts.insert(4)
    for followee in (author, quoter):
        await world.follow(reader, followee)
    tweet = (await world.post(author)).id
    kept = await world.post(quoter, quote_of=tweet)
    quote, reply = await world.post(fan, quote_of=tweet), await world.post(fan, reply_to=tweet)
    await world.drain()

    async def seen() -> set[tuple[int, ...]]:
        return await counts(world, tweet, readers=[reader, fan], authors=[author, quoter])

    assert kept.id in await world.home(reader)
    # Nothing is relayed from here on: no event helps.
    for change, expected in (
        (world.like(fan, tweet), (1, 0, 1, 2)),
        (world.retweet(fan, tweet), (1, 1, 1, 2)),
        (world.like(fan, tweet, undo=True), (0, 1, 1, 2)),
        (world.delete(fan, reply.id), (0, 1, 0, 2)),
        (world.delete(fan, quote.id), (0, 1, 0, 1)),
        (world.retweet(fan, tweet, undo=True), (0, 0, 0, 1)),
    ):
        await seen()
        await change
        deadline = time.monotonic() + PROMISED_S
        while (shown := await seen()) != {expected}:
            assert time.monotonic() < deadline, f"{shown}, not {expected}"
            await asyncio.sleep(0.02)

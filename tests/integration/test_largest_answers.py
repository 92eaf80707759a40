"""The longest tweets that can be posted: whatever is asked for still fits into a message."""

from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio
from chirp.v1 import timeline_pb2, tweet_pb2

from domain.timeline import COUNT_NEWER_MAX
from mesh.server import MESSAGE_BYTES_MAX
from mesh.settings import Settings
from tests.integration.accounts import Account
from tests.world import World, open_world

pytestmark = pytest.mark.asyncio(loop_scope="module")

# Each tag of 8 characters folds into 84 bytes and more.
TAGS = " ".join(f"#{chr(0x4E00 + n)}" + "\ufdfa" * 5 for n in range(35))
URL = "https://example.org/" + "\u00fc" * 1_014


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(module_settings: Settings) -> AsyncGenerator[World]:
    async with open_world(module_settings) as opened:
        yield opened


async def longest(world: World, author: Account, quote_of: int = 0) -> int:
    """Posts the longest tweet."""
    request = tweet_pb2.CreateTweetRequest(content=TAGS, media_urls=[URL] * 4, quote_of=quote_of)
    return (await world.tweets.CreateTweet(request, metadata=author.metadata)).id


async def copies(world: World, template: int, count: int) -> None:
    """Puts so many more of a tweet into the database, with greater ids."""
    async with world.pool.connection() as connection:
        await connection.execute(
            "INSERT INTO tweets (id, author_id, content, media_urls, hashtags, quote_of,"
            " conversation_id, delivery, created_at)"
            " SELECT id + n, author_id, content, media_urls, hashtags, quote_of, id + n, 1, now()"
            " FROM tweets, generate_series(1, %s) AS n WHERE id = %s",
            (count, template),
        )


async def test_pages_of_a_hundred_of_the_longest_quotes(world: World):
    author, reader = await world.accounts.insert(2)
    name = "\U0001f426" * 100
    async with world.pool.connection() as connection:
        await connection.execute(
            "UPDATE users SET display_name = %s WHERE id = %s", (name, author.id)
        )
    await world.follow(reader, author)
    quote = await longest(world, author, await longest(world, author))
    await copies(world, quote, 99)
    ids = list(range(quote + 99, quote - 1, -1))

    home = await world.home_page(reader, limit=100)
    of_author = await world.timelines.GetUserTimeline(
        timeline_pb2.GetUserTimelineRequest(id=author.id, limit=100), metadata=reader.metadata
    )
    batch = await world.tweets.BatchGetTweets(tweet_pb2.BatchGetTweetsRequest(ids=ids))

    for answer in (home, of_author, batch):
        assert [tweet.id for tweet in answer.tweets] == ids
        assert all(tweet.HasField("quoted_tweet") for tweet in answer.tweets)
        assert MESSAGE_BYTES_MAX / 2 < answer.ByteSize() < MESSAGE_BYTES_MAX


async def test_counting_repeats_of_the_longest_tweets(world: World):
    author, repeater, reader = await world.accounts.insert(3)
    await world.follow(reader, repeater)
    original = await longest(world, author)
    await copies(world, original, COUNT_NEWER_MAX + 100)
    async with world.pool.connection() as connection:
        await connection.execute(
            "INSERT INTO tweets (id, author_id, content, conversation_id, delivery, created_at,"
            " retweet_of, original_author_id)"
            " SELECT id + 1000000, %s, '', id + 1000000, 1, now(), id, author_id"
            " FROM tweets WHERE author_id = %s",
            (repeater.id, author.id),
        )

    newer = await world.timelines.CountNewer(
        timeline_pb2.CountNewerRequest(since_id=1), metadata=reader.metadata
    )

    assert newer.count == COUNT_NEWER_MAX

"""Edge cases 14 to 16: cursors live for ever, ids need all their bits, and "newer than"."""

from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio
from chirp.v1 import graph_pb2, timeline_pb2, tweet_pb2, user_pb2
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor

from domain.ids import TweetId, UserId
from domain.timeline import NO_TWEET, NOBODY
from mesh.settings import Settings
from storage.timelines import TimelineStore
from tests.edges import (
    CELEBRITY,
    LENGTH,
    PULL,
    assert_right,
    count_newer,
    crowd,
    held_ids,
    ids_of,
    insert_tweets,
    open_near_edges,
    post_each,
    set_tier,
)
from tests.integration.accounts import Account
from tests.world import World

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(module_settings: Settings) -> AsyncGenerator[World]:
    async with open_near_edges(module_settings) as opened:
        yield opened


async def cursors_of(world: World, viewer: Account) -> dict[int, str]:
    """The cursor behind each entry but the last."""
    cursors: dict[int, str] = {}
    cursor = ""
    while True:
        page = await world.home_page(viewer, limit=1, cursor=cursor)
        if not page.next_cursor:
            return cursors
        cursor = cursors[page.tweets[0].id] = page.next_cursor


async def assert_cursors_work(world: World, viewer: Account, cursors: dict[int, str]) -> None:
    expected = await world.oracle(viewer)
    for stood_at, cursor in cursors.items():
        below = [tweet for tweet in expected if tweet < stood_at]
        for limit in (3, 100):
            assert await ids_of(world, viewer, limit=limit, cursor=cursor) == below[:limit]


async def test_edge_case_14_saved_cursor_works_past_the_cap_and_after_all_that_happens(
    world: World,
):
    author, star, other, reader = await world.accounts.insert(4)
    for followee in (author, star):
        await world.follow(reader, followee)
    base = 1_000_000 * reader.id
    await insert_tweets(world, author, range(base, base + 20))
    tweets = await post_each(world, [author, star], 3)
    await world.drain()
    cursors = await cursors_of(world, reader)
    assert len(cursors) == 25, "more than a window"
    await assert_cursors_work(world, reader, cursors)

    await post_each(world, [author, star], 2 * LENGTH)  # all of them stand past the cap now
    await assert_cursors_work(world, reader, cursors)
    await crowd(world, star, CELEBRITY)
    await post_each(world, [star])
    await world.drain()
    await assert_cursors_work(world, reader, cursors)
    await world.delete(author, tweets[2])  # a cursor stands at it
    await world.unfollow(reader, star)  # and at the star's
    await world.follow(reader, other)
    await post_each(world, [other])
    await assert_cursors_work(world, reader, cursors)
    await world.cache.flushall()
    await assert_cursors_work(world, reader, cursors)
    await world.drain()
    await assert_cursors_work(world, reader, cursors)


async def test_edge_case_14_cursor_of_an_earlier_release_works(world: World):
    """The literal is what the first release wrote behind entry 10,000: it may be saved anywhere."""
    author, reader = await world.accounts.insert(2)
    await world.follow(reader, author)
    await insert_tweets(world, author, range(9_990, 10_011))

    assert (await world.home_page(reader, limit=11)).next_cursor == "AQAAAAAAACcQ"
    assert await ids_of(world, reader, cursor="AQAAAAAAACcQ") == list(range(9_999, 9_989, -1))
    # It says nothing of its timeline or its owner: somebody else's is a place, too.
    assert await ids_of(world, author, limit=2, cursor="AQAAAAAAACcQ") == [9_999, 9_998]


BORDERS = [2**31, 2**32, 2**53, 2**62, 2**63 - 4]


async def test_edge_case_15_neighbouring_ids_above_2_to_53_stay_apart_and_in_order(world: World):
    author, star, reader = await world.accounts.insert(3)
    for followee in (author, star):
        await world.follow(reader, followee)
    for border in BORDERS:
        await insert_tweets(world, author, range(border - 2, border + 3, 2))
        await insert_tweets(world, star, range(border - 1, border + 2, 2), delivery=PULL)
    await world.cache.flushall()
    expected = [border + n for border in reversed(BORDERS) for n in (2, 1, 0, -1, -2)]
    assert await world.oracle(reader) == expected

    for limit in (1, 2, 3, 4, 100):
        assert await world.home(reader, limit=limit) == expected
    for position, tweet in enumerate(expected):
        assert await count_newer(world, reader, tweet) == position
        assert await world.home(reader, since_id=tweet) == expected[:position]
    # What is pushed finds its place among its neighbours.
    store = TimelineStore(world.cache, world.settings)
    window = await held_ids(world, reader)
    assert window is not None
    assert window == [tweet for tweet in expected if (BORDERS[-1] - tweet) % 2 == 0][:LENGTH]
    for tweet in window[1:4]:
        entry = (TweetId(tweet), UserId(author.id), NO_TWEET, NOBODY)
        await store.remove_own(reader.id, entry)
        assert tweet not in (await held_ids(world, reader) or ())
        await store.push_own(reader.id, entry)
        assert await held_ids(world, reader) == window


async def test_edge_case_15_ids_are_strings_in_json(world: World):
    author, reader = await world.accounts.insert(2)
    await world.follow(reader, author)
    tweet = 2**53 + 101
    await insert_tweets(world, author, range(tweet, tweet + 1), reply_to=tweet - 1, **{
        "replied_author_id": author.id
    })  # fmt: skip

    answer = json_format.MessageToDict(await world.home_page(reader))

    assert answer["tweets"][0]["id"] == str(tweet)
    assert answer["tweets"][0]["replyTo"] == str(tweet - 1)
    numbers: list[str] = []
    for file in (tweet_pb2, timeline_pb2, graph_pb2, user_pb2):
        for message in file.DESCRIPTOR.message_types_by_name.values():
            for field in message.fields:
                if field.name == "id" or field.name.endswith(("_id", "ids", "_of", "_to")):
                    numbers.append(f"{message.name}.{field.name}")
                    whole = field.type in (FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_STRING)
                    assert whole, f"{numbers[-1]} loses bits"
    assert {"Tweet.id", "Tweet.reply_to", "BatchGetTweetsRequest.ids"} < set(numbers)


async def test_edge_case_16_newer_than_answers_the_newest_and_pages_down_to_the_id(world: World):
    author, star, reader = await world.accounts.insert(3)
    for followee in (author, star):
        await world.follow(reader, followee)
    await set_tier(world, star, tier=3)
    tweets = await post_each(world, [author, star], LENGTH)
    await world.drain()
    newer = tweets[:3:-1]
    since = tweets[3]

    first = await world.home_page(reader, limit=3, since_id=since)

    # Not the oldest three after the id: those are on the last page.
    assert [tweet.id for tweet in first.tweets] == newer[:3]
    assert first.has_more
    assert await world.home(reader, limit=3, since_id=since) == newer
    assert await count_newer(world, reader, since) == len(newer)
    exactly = await world.home_page(reader, limit=len(newer), since_id=since)
    assert ([tweet.id for tweet in exactly.tweets], exactly.has_more) == (newer, False)
    assert await ids_of(world, reader, since_id=tweets[-1]) == []
    assert await count_newer(world, reader, tweets[-1]) == 0


async def test_edge_case_16_newer_than_counts_what_would_be_shown(world: World):
    author, friend, muted, stranger, reader = await world.accounts.insert(5)
    for followee in (author, friend, muted):
        await world.follow(reader, followee)
    since = (await world.post(author)).id
    others = (await world.post(stranger)).id
    await world.post(muted)
    await world.post(author, reply_to=others)
    await world.retweet(author, others)
    await world.retweet(friend, others)  # left out: the other retweet stands close below
    gone = (await world.post(author)).id
    await world.post(author)
    await world.mute(reader, muted)
    await world.delete(author, gone)
    await world.drain()

    (home,) = await assert_right(world, reader)

    assert home.index(since) == 2
    assert await count_newer(world, reader, since) == 2
    # An id need not be in the timeline, nor be a tweet that lives.
    for other, count in ((gone, 1), (others, 2), (since - 1, 3), (1, 3)):
        assert await count_newer(world, reader, other) == count
        assert await ids_of(world, reader, since_id=other) == home[:count]

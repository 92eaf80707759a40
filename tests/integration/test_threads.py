"""Threads through real servers: ancestors up to the root, pages of replies, gone members."""

from collections.abc import AsyncGenerator
from typing import Any

import grpc
import pytest
import pytest_asyncio
from chirp.v1 import tweet_pb2

from domain import paging
from mesh.server import MESSAGE_BYTES_MAX
from mesh.settings import Settings
from storage import threads
from tests.integration.accounts import Account
from tests.refused import failure
from tests.world import World, open_world

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(module_settings: Settings) -> AsyncGenerator[World]:
    async with open_world(module_settings) as opened:
        yield opened


async def thread(
    world: World, tweet_id: int, viewer: Account | None = None, **fields: Any
) -> tweet_pb2.GetThreadResponse:
    return await world.tweets.GetThread(
        tweet_pb2.GetThreadRequest(id=tweet_id, **fields),
        metadata=viewer.metadata if viewer else None,
    )


async def chain(world: World, author: Account, length: int, *, below: int = 0) -> list[int]:
    """Posts a chain of replies; returns its ids, the first one first."""
    ids: list[int] = []
    for _ in range(length):
        below = (await world.post(author, reply_to=below)).id
        ids.append(below)
    return ids


async def insert_chain(
    world: World, author: Account, root: int, length: int, **columns: Any
) -> int:
    """Puts a chain below a root into the database; returns its last id. Nothing is counted."""
    names = "".join(f", {name}" for name in columns)
    values = ", %s" * len(columns)
    async with world.pool.connection() as connection:
        await connection.execute(
            "INSERT INTO tweets (id, author_id, content, conversation_id, delivery, created_at,"
            f" reply_to, replied_author_id{names})"
            f" SELECT %s + n, %s, 'deep', %s, 1, now(), %s + n - 1, %s{values}"
            " FROM generate_series(1, %s) AS n".encode(),
            (root, author.id, root, root, author.id, *columns.values(), length),
        )
    return root + length


def ids(tweets: Any) -> list[int]:
    return [tweet.id for tweet in tweets]


async def test_thread_has_ancestors_from_the_root_the_tweet_and_its_direct_replies(world: World):
    author, other = await world.accounts.insert(2)
    first, second, third = await chain(world, author, 3)
    replies = [(await world.post(other, reply_to=third)).id for _ in range(3)]
    deeper = (await world.post(author, reply_to=replies[1])).id
    beside = (await world.post(other, reply_to=second)).id

    middle = await thread(world, third)
    assert ids(middle.ancestors) == [first, second]
    assert middle.tweet.id == third
    assert ids(middle.replies) == replies
    assert (middle.next_cursor, middle.has_more) == ("", False)
    for tweet in (*middle.ancestors, middle.tweet, *middle.replies):
        assert tweet == await world.tweets.GetTweet(tweet_pb2.GetTweetRequest(id=tweet.id))
        assert tweet.conversation_id == first
    assert [tweet.reply_count for tweet in middle.replies] == [0, 1, 0]

    root, leaf = await thread(world, first), await thread(world, deeper)
    assert (ids(root.ancestors), ids(root.replies)) == ([], [second])
    assert ids(leaf.ancestors) == [first, second, third, replies[1]]
    assert ids(leaf.replies) == []
    assert ids((await thread(world, second)).replies) == [third, beside]


async def test_thread_of_a_retweet_is_its_originals(world: World):
    author, repeater = await world.accounts.insert(2)
    first, second = await chain(world, author, 2)
    await world.retweet(repeater, second)
    ((retweet,),) = await world.accounts.rows("SELECT id FROM tweets WHERE retweet_of = %s", second)

    assert await thread(world, retweet) == await thread(world, second)
    assert ids((await thread(world, retweet)).ancestors) == [first]


async def test_replies_come_in_pages_the_oldest_first_and_cursors_go_on(world: World):
    author, other = await world.accounts.insert(2)
    (root,) = await chain(world, author, 1)
    replies = [(await world.post(other, reply_to=root)).id for _ in range(7)]

    for limit in (1, 2, 3, 6, 7, 8, 100, 2**31 - 1):
        found: list[int] = []
        cursor = ""
        while True:
            page = await thread(world, root, limit=limit, cursor=cursor)
            assert page.tweet.id == root
            assert page.has_more == bool(page.next_cursor)
            assert len(page.replies) == limit or not page.has_more
            found += ids(page.replies)
            if not page.has_more:
                break
            cursor = page.next_cursor
        assert found == replies

    saved = (await thread(world, root, limit=3)).next_cursor
    await world.delete(other, replies[2])
    await world.delete(other, replies[4])
    newest = (await world.post(author, reply_to=root)).id
    later = await thread(world, root, limit=4, cursor=saved)
    assert ids(later.replies) == [replies[3], replies[5], replies[6], newest]
    highest = paging.encode_cursor(2**63 - 1)
    assert ids((await thread(world, root, cursor=highest)).replies) == []


async def test_page_of_replies_has_twenty_unless_asked_and_never_over_a_hundred(world: World):
    (author,) = await world.accounts.insert(1)
    (root,) = await chain(world, author, 1)
    async with world.pool.connection() as connection:
        await connection.execute(
            "INSERT INTO tweets (id, author_id, content, conversation_id, delivery, created_at,"
            " reply_to, replied_author_id)"
            " SELECT %s + n, %s, 'reply', %s, 1, now(), %s, %s FROM generate_series(1, 105) AS n",
            (root, author.id, root, root, author.id),
        )

    assert len((await thread(world, root)).replies) == 20
    first = await thread(world, root, limit=101)
    rest = await thread(world, root, limit=100, cursor=first.next_cursor)
    assert ids(first.replies) + ids(rest.replies) == [root + n for n in range(1, 106)]
    assert (len(first.replies), rest.has_more) == (100, False)


async def test_conversation_is_the_roots_at_a_depth_of_more_than_a_thousand(world: World):
    author, other = await world.accounts.insert(2)
    (root,) = await chain(world, author, 1)
    last = await insert_chain(world, author, root, 1_100)

    posted = await chain(world, other, 3, below=last)

    found = await thread(world, posted[-1])
    expected = [*range(root, last + 1), *posted[:-1]]
    assert ids(found.ancestors) == expected
    assert {tweet.conversation_id for tweet in (*found.ancestors, found.tweet)} == {root}
    assert [tweet.reply_to for tweet in found.ancestors] == [0, *expected[:-1]]
    quote = await world.post(other, quote_of=posted[-1])
    assert quote.conversation_id == quote.id


async def test_longer_chain_shows_its_nearest_and_says_where_it_goes_on(world: World):
    (author,) = await world.accounts.insert(1)
    (root,) = await chain(world, author, 1)
    last = await insert_chain(world, author, root, 2 * threads.ANCESTORS_MAX)

    found = await thread(world, last)
    assert ids(found.ancestors) == list(range(last - threads.ANCESTORS_MAX, last))
    assert found.tweet.conversation_id == root
    above = await thread(world, found.ancestors[0].id)
    assert ids(above.ancestors) == list(range(root, found.ancestors[0].id))
    assert above.ancestors[0].reply_to == 0


async def test_thread_of_the_longest_tweets_fits_into_a_message(world: World):
    author, other = await world.accounts.insert(2)
    (root,) = await chain(world, author, 1)
    url = "https://example.org/" + "a" * 2_028
    last = await insert_chain(world, author, root, 600, media_urls=[url] * 4, quote_of=root)
    async with world.pool.connection() as connection:
        await connection.execute(
            "INSERT INTO tweets (id, author_id, content, media_urls, conversation_id, delivery,"
            " created_at, reply_to, replied_author_id, quote_of)"
            " SELECT %s + n, %s, 'reply', %s, %s, 1, now(), %s, %s, %s"
            " FROM generate_series(1, 100) AS n",
            (last, other.id, [url] * 4, root, last, author.id, last - 1),
        )

    found = await thread(world, last, other, limit=100)

    assert ids(found.replies) == list(range(last + 1, last + 101))
    shown = ids(found.ancestors)
    # Those that fit, without a gap: the budget is used but for less than one more.
    assert shown == list(range(shown[0], last))
    assert 100 < len(shown) < 600
    assert MESSAGE_BYTES_MAX - 100_000 < found.ByteSize() < MESSAGE_BYTES_MAX
    assert found.ancestors[0].reply_to == shown[0] - 1


async def test_gone_members_stand_as_gone_and_the_chain_holds(world: World):
    author, other = await world.accounts.insert(2)
    members = await chain(world, author, 5)
    childless = (await world.post(other, reply_to=members[1])).id
    beside = (await world.post(other, reply_to=members[1])).id
    for gone in (members[0], members[2], members[3], childless):
        await world.delete(other if gone == childless else author, gone)

    found = await thread(world, members[4])
    assert ids(found.ancestors) == members[:4]
    assert [tweet.gone for tweet in found.ancestors] == [True, False, True, True]
    assert [tweet.HasField("gone") for tweet in found.ancestors] == [True, False, True, True]
    assert [tweet.reply_to for tweet in found.ancestors] == [0, *members[:3]]
    for tweet in (found.ancestors[0], found.ancestors[2]):
        # Its place, and nothing of what it said or who said it.
        assert tweet == tweet_pb2.Tweet(
            id=tweet.id, reply_to=tweet.reply_to, conversation_id=members[0], gone=True
        )
    assert found.tweet.conversation_id == members[0]

    of_second = await thread(world, members[1])
    # A reply that is gone is listed where others hang on it.
    assert [(tweet.id, tweet.gone) for tweet in of_second.replies] == [
        (members[2], True),
        (beside, False),
    ]
    assert of_second.tweet.reply_count == 1
    for gone in (members[0], members[2]):
        refused = await failure(thread(world, gone))
        assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "TWEET_NOT_FOUND")
    # The conversation goes on below.
    below = await world.post(other, reply_to=members[4])
    assert below.conversation_id == members[0]


async def test_marks_and_quotes_in_a_thread_are_as_the_viewer_sees_them(world: World):
    author, viewer, hidden = await world.accounts.insert(3)
    quoted = await world.post(hidden)
    root = await world.post(author, quote_of=quoted.id)
    middle = await world.post(hidden, reply_to=root.id, quote_of=root.id)
    last = await world.post(author, reply_to=middle.id)
    await world.like(viewer, root.id)
    await world.retweet(viewer, last.id)
    await world.block(hidden, viewer)

    found = await thread(world, middle.id, viewer)
    signed_out = await thread(world, middle.id)

    # A thread is public: the blocked read it, and only the quote of the blocked is empty.
    assert ids((*found.ancestors, found.tweet, *found.replies)) == [root.id, middle.id, last.id]
    assert found.tweet.content == "hello"
    marks = [(t.liked, t.retweeted) for t in (*found.ancestors, found.tweet, *found.replies)]
    assert marks == [(True, False), (False, False), (False, True)]
    assert not found.ancestors[0].HasField("quoted_tweet")
    assert found.tweet.quoted_tweet.id == root.id
    assert found.tweet.quoted_tweet.liked
    assert signed_out.ancestors[0].quoted_tweet.id == quoted.id
    assert not any(t.HasField("liked") for t in (*signed_out.ancestors, signed_out.tweet))


async def test_thread_may_quote_more_accounts_than_fit_into_one_question(world: World):
    author, viewer = await world.accounts.insert(2)
    (root,) = await chain(world, author, 1)
    last = await insert_chain(world, author, root, 1_050)
    quoted = await world.accounts.insert(1_050)
    first_account = quoted[0].id
    async with world.pool.connection() as connection:
        await connection.execute(
            "INSERT INTO tweets (id, author_id, content, conversation_id, delivery, created_at)"
            " SELECT n, %s + n - 1, 'quoted', n, 1, now() FROM generate_series(1, 1050) AS n",
            (first_account,),
        )
        await connection.execute(
            "UPDATE tweets SET quote_of = id - %s WHERE id > %s AND id <= %s", (root, root, last)
        )
    await world.block(quoted[3], viewer)
    await world.mute(viewer, quoted[1_040])

    found = await thread(world, last, viewer)

    empty = [t.id - root for t in found.ancestors[1:] if not t.HasField("quoted_tweet")]
    assert empty == [4, 1_041]

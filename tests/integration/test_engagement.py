"""Likes, retweets, replies and quotes through real servers: what the words mean."""

from collections.abc import Awaitable

import grpc
import pytest
from chirp.v1 import events_pb2, tweet_pb2

from tests.integration.engagement import get, own_retweet, world
from tests.refused import failure
from tests.world import World

__all__ = ["world"]

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def new_events(world: World, told: int) -> list[tuple[int, events_pb2.Event]]:
    return (await world.accounts.events())[told:]


async def assert_not_found(call: Awaitable[object]) -> None:
    refused = await failure(call)
    assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "TWEET_NOT_FOUND")


async def test_liking_twice_and_unliking_twice_change_and_tell_once(world: World):
    author, fan = await world.accounts.insert(2)
    tweet = await world.post(author)
    told = len(await world.accounts.events())

    for undo, count in ((False, 1), (True, 0)):
        for _ in range(2):
            answer = await world.like(fan, tweet.id, undo=undo)
            assert (answer.id, answer.like_count, answer.liked) == (tweet.id, count, not undo)
            assert (await get(world, tweet.id)).like_count == count

    (liked_key, liked), (unliked_key, unliked) = await new_events(world, told)
    assert liked_key == unliked_key == fan.id
    expected = {"user_id": fan.id, "tweet_id": tweet.id, "author_id": author.id}
    versions = [events_pb2.TweetVersion(tweet_id=tweet.id, version=n) for n in (2, 3)]
    assert liked.tweet_liked == events_pb2.TweetLiked(**expected, changed=versions[:1])
    assert unliked.tweet_unliked == events_pb2.TweetUnliked(**expected, changed=versions[1:])


async def test_retweeting_twice_makes_one_entry_and_redoing_makes_a_new_one(world: World):
    author, fan = await world.accounts.insert(2)
    tweet = await world.post(author)
    ids: list[int] = []

    for _ in range(2):
        for _ in range(2):
            answer = await world.retweet(fan, tweet.id)
            assert (answer.id, answer.retweet_count, answer.retweeted) == (tweet.id, 1, True)
        ids.append(await own_retweet(world, fan, tweet.id))
        assert (await world.home(fan))[0] == ids[-1]
        for _ in range(2):
            answer = await world.retweet(fan, tweet.id, undo=True)
            assert (answer.id, answer.retweet_count, answer.retweeted) == (tweet.id, 0, False)
        assert await world.home(fan) == []

    assert tweet.id < ids[0] < ids[1]
    for undone in ids:
        await assert_not_found(get(world, undone))


async def test_retweet_shows_its_original_and_nothing_of_its_own(world: World):
    author, fan = await world.accounts.insert(2)
    tweet = await world.post(author, "the original #tag")

    await world.retweet(fan, tweet.id)
    retweet = await get(world, await own_retweet(world, fan, tweet.id))

    assert (retweet.author_id, retweet.author.username) == (fan.id, fan.username)
    assert (retweet.retweet_of, retweet.content, list(retweet.hashtags)) == (tweet.id, "", [])
    assert (retweet.reply_to, retweet.quote_of) == (0, 0)
    assert retweet.retweeted_tweet == await get(world, tweet.id)
    assert retweet.retweeted_tweet.retweet_count == 1


async def test_own_tweet_can_be_retweeted_and_liked(world: World):
    (author,) = await world.accounts.insert(1)
    tweet = await world.post(author)

    answer = await world.retweet(author, tweet.id)
    await world.like(author, tweet.id)

    retweet = await own_retweet(world, author, tweet.id)
    assert (answer.author_id, answer.retweet_count) == (author.id, 1)
    assert (await get(world, tweet.id, author)).liked
    # The own tweet, repeated at once, is shown once: its oldest entry stays.
    await world.drain()
    assert await world.home(author) == [tweet.id] == await world.oracle(author)
    assert (await get(world, retweet)).retweeted_tweet.id == tweet.id


async def test_what_is_done_to_a_retweet_is_done_to_its_original(world: World):
    author, repeater, fan = await world.accounts.insert(3)
    tweet = await world.post(author)
    await world.retweet(repeater, tweet.id)
    retweet = await own_retweet(world, repeater, tweet.id)

    liked = await world.like(fan, retweet)
    retweeted = await world.retweet(fan, retweet)
    reply = await world.post(fan, reply_to=retweet)
    quote = await world.post(fan, quote_of=retweet)
    both = await world.post(fan, reply_to=retweet, quote_of=tweet.id)

    assert (liked.id, liked.like_count, retweeted.id) == (tweet.id, 1, tweet.id)
    assert (reply.reply_to, reply.conversation_id) == (tweet.id, tweet.id)
    assert (quote.quote_of, quote.quoted_tweet.id) == (tweet.id, tweet.id)
    assert (both.reply_to, both.quote_of, both.conversation_id) == (tweet.id,) * 3
    original, of_it = await get(world, tweet.id), await get(world, retweet)
    assert (original.like_count, original.retweet_count) == (1, 2)
    assert (original.reply_count, original.quote_count) == (2, 2)
    assert (of_it.like_count, of_it.retweet_count, of_it.reply_count, of_it.quote_count) == (0,) * 4
    assert (await world.like(fan, retweet, undo=True)).like_count == 0
    assert (await world.retweet(fan, retweet, undo=True)).retweet_count == 1
    # The other's retweet stays.
    assert await own_retweet(world, repeater, tweet.id) == retweet


async def test_retweet_is_undone_by_its_own_id_and_by_deleting_it(world: World):
    author, fan = await world.accounts.insert(2)
    tweet = await world.post(author)

    await world.retweet(fan, tweet.id)
    retweet = await own_retweet(world, fan, tweet.id)
    for _ in range(2):
        assert (await world.retweet(fan, retweet, undo=True)).retweet_count == 0
    await world.retweet(fan, tweet.id)
    redone = await own_retweet(world, fan, tweet.id)
    refused = await failure(world.delete(author, redone))
    await world.delete(fan, redone)

    assert refused.reason == "NOT_YOURS"
    seen = await get(world, tweet.id, fan)
    assert (seen.retweet_count, seen.retweeted) == (0, False)
    await assert_not_found(world.delete(fan, redone))
    await assert_not_found(world.retweet(fan, redone))
    await assert_not_found(world.like(fan, redone))


async def test_retweet_of_a_reply_is_no_reply_and_a_reply_that_quotes_is_one(world: World):
    author, stranger, repeater, reader = await world.accounts.insert(4)
    await world.follow(reader, repeater)
    root = await world.post(stranger)
    reply = await world.post(author, reply_to=root.id)

    await world.retweet(repeater, reply.id)
    hidden = await world.post(repeater, reply_to=root.id, quote_of=reply.id)
    quote = await world.post(repeater, quote_of=reply.id)
    await world.drain()

    retweet = await own_retweet(world, repeater, reply.id)
    assert await world.home(reader) == [quote.id, retweet] == await world.oracle(reader)
    assert (hidden.reply_to, hidden.quote_of) == (root.id, reply.id)


async def test_deleted_tweet_takes_its_likes_and_retweets_along(world: World):
    author, fan = await world.accounts.insert(2)
    tweet, kept = await world.post(author), await world.post(author)
    await world.like(fan, tweet.id)
    await world.retweet(fan, tweet.id)
    retweet = await own_retweet(world, fan, tweet.id)

    await world.delete(author, tweet.id)

    for call in (
        get(world, tweet.id),
        get(world, retweet),
        world.like(fan, tweet.id),
        world.like(fan, tweet.id, undo=True),
        world.like(fan, retweet, undo=True),
        world.retweet(author, tweet.id),
        world.retweet(fan, tweet.id, undo=True),
        world.post(fan, reply_to=retweet),
        world.post(fan, quote_of=tweet.id),
        world.tweets.ListLikers(tweet_pb2.ListLikersRequest(id=tweet.id)),
        world.tweets.ListRetweeters(tweet_pb2.ListRetweetersRequest(id=retweet)),
        world.tweets.GetThread(tweet_pb2.GetThreadRequest(id=retweet)),
    ):
        await assert_not_found(call)
    batch = tweet_pb2.BatchGetTweetsRequest(ids=[retweet, kept.id, tweet.id])
    assert [each.id for each in (await world.tweets.BatchGetTweets(batch)).tweets] == [kept.id]
    assert await world.home(fan) == []
    # The own retweet is still there to be undone, and counted until then.
    assert await world.accounts.rows("SELECT tweet_count FROM users WHERE id = %s", fan.id) == [
        (1,)
    ]
    await world.delete(fan, retweet)
    assert await world.accounts.rows("SELECT tweet_count FROM users WHERE id = %s", fan.id) == [
        (0,)
    ]


async def test_quote_stays_and_is_empty_where_what_it_quotes_is_gone(world: World):
    author, quoter, reader = await world.accounts.insert(3)
    await world.follow(reader, quoter)
    tweet = await world.post(author)
    inner = await world.post(author, quote_of=tweet.id)
    quote = await world.post(quoter, quote_of=inner.id)
    # One level: a quoted tweet shows no quoted tweet of its own.
    assert quote.quoted_tweet.quote_of == tweet.id
    assert not quote.quoted_tweet.HasField("quoted_tweet")

    await world.delete(author, inner.id)
    await world.drain()

    for seen in (await get(world, quote.id), (await world.home_page(reader)).tweets[0]):
        assert (seen.id, seen.quote_of, seen.content) == (quote.id, inner.id, "hello")
        assert not seen.HasField("quoted_tweet")


async def test_account_that_is_gone_engages_with_nothing(world: World):
    author, gone = await world.accounts.insert(2)
    tweet = await world.post(author)
    gone = await world.accounts.remove(gone)

    for call in (
        world.like(gone, tweet.id),
        world.like(gone, tweet.id, undo=True),
        world.retweet(gone, tweet.id),
        world.retweet(gone, tweet.id, undo=True),
        world.post(gone, reply_to=tweet.id),
    ):
        assert (await failure(call)).code == grpc.StatusCode.UNAUTHENTICATED
    assert (await get(world, tweet.id)).like_count == 0


async def test_mentions_are_the_accounts_of_the_moment_of_posting(world: World):
    author, friend, blocker = await world.accounts.insert(3)
    await world.block(blocker, author)
    later = f"named_later_{friend.id}"
    content = f".@{friend.username.upper()} @{blocker.username} @{friend.username} @{later}"

    tweet = await world.post(author, content)
    async with world.pool.connection() as connection:
        await connection.execute("UPDATE users SET username = %s WHERE id = %s", (later, friend.id))

    # A mention is text: a block stops what it would cause, not the mention.
    assert list(tweet.mentions) == [friend.id, blocker.id]
    assert list((await get(world, tweet.id)).mentions) == [friend.id, blocker.id]
    assert list((await world.post(author, content)).mentions) == [blocker.id, friend.id]

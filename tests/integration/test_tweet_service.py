"""TweetService through real servers."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from typing import Any

import grpc
import pytest_asyncio
from chirp.v1 import events_pb2, tweet_pb2

from mesh.settings import Settings
from tests.integration.accounts import Account
from tests.integration.recount import assert_counts_are_exact
from tests.refused import failure
from tests.world import World, open_world


@pytest_asyncio.fixture
async def world(settings: Settings) -> AsyncGenerator[World]:
    async with open_world(settings) as opened:
        yield opened


async def create(world: World, author: Account, **fields: Any) -> tweet_pb2.Tweet:
    request = tweet_pb2.CreateTweetRequest(content="hello")
    request.MergeFrom(tweet_pb2.CreateTweetRequest(**fields))
    return await world.tweets.CreateTweet(request, metadata=author.metadata)


async def get(world: World, tweet_id: int) -> tweet_pb2.Tweet:
    return await world.tweets.GetTweet(tweet_pb2.GetTweetRequest(id=tweet_id))


def unmarked(tweet: tweet_pb2.Tweet) -> tweet_pb2.Tweet:
    """What a caller without a token sees of a tweet that its author just made."""
    assert (tweet.HasField("liked"), tweet.HasField("retweeted")) == (True, True)
    seen = tweet_pb2.Tweet()
    seen.CopyFrom(tweet)
    seen.ClearField("liked")
    seen.ClearField("retweeted")
    return seen


async def outcomes(calls: list[Awaitable[Any]]) -> list[Any]:
    """Awaits calls of which some may be refused; returns answers and status codes."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    found: list[Any] = []
    for result in results:
        if isinstance(result, grpc.aio.AioRpcError):
            found.append(result.code())
        else:
            assert not isinstance(result, BaseException), result
            found.append(result)
    return found


async def test_created_tweet_is_answered_whole_and_read_as_it_was(world: World):
    author, friend = await world.accounts.insert(2)

    created = await create(
        world,
        author,
        content=f"caf\u0065\u0301 #Caf\u00e9 @{friend.username} @nobody_at_all",
        media_urls=["https://example.org/a.png", "https://example.org/b.png"],
        location="us-ny",
    )

    assert created.content == f"caf\u00e9 #Caf\u00e9 @{friend.username} @nobody_at_all"
    assert list(created.hashtags) == ["caf\u00e9"]
    assert list(created.mentions) == [friend.id]
    assert list(created.media_urls) == ["https://example.org/a.png", "https://example.org/b.png"]
    assert (created.author_id, created.author.username) == (author.id, author.username)
    assert (created.conversation_id, created.location) == (created.id, "us-ny")
    assert created.created_at.ToMilliseconds() > 0
    assert await get(world, created.id) == unmarked(created)
    assert await world.tweets.GetTweet(
        tweet_pb2.GetTweetRequest(id=created.id), metadata=friend.metadata
    ) == created  # fmt: skip


async def test_place_is_the_authors_where_none_is_given(world: World):
    (author,) = await world.accounts.insert(1)
    async with world.pool.connection() as connection:
        await connection.execute("UPDATE users SET location = 'fr' WHERE id = %s", (author.id,))

    assert (await create(world, author)).location == "fr"
    assert (await create(world, author, location="us")).location == "us"


async def test_author_of_a_new_tweet_is_named_as_it_is_stored_then(world: World):
    (author,) = await world.accounts.insert(1)
    first = await create(world, author, content="before")
    async with world.pool.connection() as connection:
        # Nothing tells the servers' caches.
        await connection.execute(
            "UPDATE users SET username = 'later', display_name = 'New' WHERE id = %s", (author.id,)
        )

    plain = await create(world, author, content="after")
    reply = await create(world, author, content="after", reply_to=first.id)

    assert first.author.username == author.username
    for tweet in (plain, reply):
        named = tweet.author
        assert (named.id, named.username, named.display_name) == (author.id, "later", "New")


async def test_state_and_event_commit_together(world: World):
    (author,) = await world.accounts.insert(1)

    tweet = await create(world, author, content="one #tag", location="us")

    ((key, event),) = await world.accounts.events()
    created = event.tweet_created
    assert key == author.id
    assert created.entry == events_pb2.TimelineEntry(tweet_id=tweet.id, author_id=author.id)
    assert created.delivery == events_pb2.DELIVERY_PUSH
    assert (created.tagged, created.location) == (True, "us")
    assert b"tag" not in event.SerializeToString(), "a word of the tweet"
    assert await world.accounts.rows(
        "SELECT count(DISTINCT xmin::text) FROM"
        " (SELECT xmin FROM outbox UNION ALL SELECT xmin FROM tweets"
        "  UNION ALL SELECT xmin FROM users WHERE id = %s) AS written",
        author.id,
    ) == [(1,)]


async def test_refused_reply_leaves_nothing_behind(world: World):
    (author,) = await world.accounts.insert(1)
    before = await world.accounts.contents()

    for call in (
        create(world, author, reply_to=7),
        create(world, author, quote_of=7),
        create(world, author, reply_to=2**63 - 1, quote_of=7),
    ):
        refused = await failure(call)
        assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "TWEET_NOT_FOUND")

    assert await world.accounts.contents() == before
    assert await world.accounts.rows("SELECT FROM tweets") == []


async def test_replies_and_quotes_are_counted_and_uncounted(world: World):
    author, other = await world.accounts.insert(2)
    root = await create(world, author)

    reply = await create(world, other, reply_to=root.id)
    quote = await create(world, other, quote_of=root.id)
    both = await create(world, author, reply_to=root.id, quote_of=root.id)

    counted = await get(world, root.id)
    assert (counted.reply_count, counted.quote_count) == (2, 2)
    assert reply.reply_to == both.reply_to == root.id
    assert quote.quote_of == both.quote_of == root.id
    assert (reply.conversation_id, quote.conversation_id) == (root.id, quote.id)

    for tweet, who in ((both, author), (reply, other), (quote, other)):
        await world.delete(who, tweet.id)

    counted = await get(world, root.id)
    assert (counted.reply_count, counted.quote_count) == (0, 0)
    await assert_counts_are_exact(world.accounts)


async def test_reply_to_a_reply_belongs_to_the_conversation_of_its_root(world: World):
    author, other = await world.accounts.insert(2)
    root = await create(world, author)
    reply = await create(world, other, reply_to=root.id)

    nested = await create(world, author, reply_to=reply.id)

    assert (nested.reply_to, nested.conversation_id) == (reply.id, root.id)
    assert (await get(world, root.id)).reply_count == 1
    entries = [event.tweet_created.entry for _, event in await world.accounts.events()]
    assert [entry.replied_author_id for entry in entries] == [0, author.id, other.id]


async def test_reply_to_a_deleted_tweet_is_refused(world: World):
    author, other = await world.accounts.insert(2)
    root = await create(world, author)
    await world.delete(author, root.id)

    for call in (
        create(world, other, reply_to=root.id),
        create(world, other, quote_of=root.id),
    ):
        refused = await failure(call)
        assert refused.reason == "TWEET_NOT_FOUND"


async def test_reply_outlives_the_tweet_it_answers(world: World):
    author, other = await world.accounts.insert(2)
    root = await create(world, author)
    reply = await create(world, other, reply_to=root.id)

    await world.delete(author, root.id)
    assert (await get(world, reply.id)).reply_to == root.id
    await world.delete(other, reply.id)

    await assert_counts_are_exact(world.accounts)


async def test_same_request_id_answers_the_same_tweet(world: World):
    author, other = await world.accounts.insert(2)

    first = await create(world, author, request_id="r")
    again = await create(world, author, content="something else", request_id="r")
    of_another = await create(world, other, request_id="r")

    assert again == first
    assert of_another.id != first.id
    assert len(await world.accounts.events()) == 2
    await assert_counts_are_exact(world.accounts)


async def test_same_request_id_at_once_makes_one_tweet(world: World):
    (author,) = await world.accounts.insert(1)
    root = await create(world, author)

    answers = await asyncio.gather(
        *(create(world, author, reply_to=root.id, request_id="r") for _ in range(20))
    )

    assert len({answer.id for answer in answers}) == 1
    assert (await get(world, root.id)).reply_count == 1
    assert len(await world.accounts.events()) == 2
    await assert_counts_are_exact(world.accounts)


async def test_same_request_id_answers_the_reply_whose_parent_went_since(world: World):
    author, other = await world.accounts.insert(2)
    root = await create(world, author)
    reply = await create(world, other, reply_to=root.id, request_id="r")
    await world.delete(author, root.id)

    again = await create(world, other, reply_to=root.id, request_id="r")

    assert again.id == reply.id


async def test_request_id_of_a_deleted_tweet_makes_no_second_one(world: World):
    (author,) = await world.accounts.insert(1)
    tweet = await create(world, author, request_id="r")
    await world.delete(author, tweet.id)

    refused = await failure(create(world, author, request_id="r"))

    assert refused.reason == "TWEET_NOT_FOUND"
    await assert_counts_are_exact(world.accounts)


async def test_request_sent_again_shows_the_tweet_that_was_not_put_into_the_timeline(
    world: World,
):
    (author,) = await world.accounts.insert(1)
    assert await world.home(author) == []
    tweet = await create(world, author, request_id="r")
    # As if the server had died between its commit and the cache.
    key = next(iter(await world.cache.keys("timeline:*")))
    assert await world.cache.lpop(key) is not None  # pyright: ignore[reportGeneralTypeIssues]
    assert await world.home(author) == []

    await create(world, author, request_id="r")

    assert await world.home(author) == [tweet.id]


async def test_batch_answers_in_the_order_asked_for(world: World):
    author, other = await world.accounts.insert(2)
    tweets = [await create(world, who, content=str(n)) for n, who in enumerate([author, other] * 3)]
    await world.delete(author, tweets[2].id)
    ids = [tweets[5].id, 7, tweets[0].id, tweets[2].id, tweets[0].id, tweets[3].id]

    answer = await world.tweets.BatchGetTweets(tweet_pb2.BatchGetTweetsRequest(ids=ids))

    assert list(answer.tweets) == [unmarked(tweets[n]) for n in (5, 0, 0, 3)]


async def test_deleted_tweet_is_gone_and_stays_gone(world: World):
    author, other = await world.accounts.insert(2)
    tweet = await create(world, author)
    delete = tweet_pb2.DeleteTweetRequest(id=tweet.id)

    refused = await failure(world.tweets.DeleteTweet(delete, metadata=other.metadata))
    assert (refused.code, refused.reason) == (grpc.StatusCode.PERMISSION_DENIED, "NOT_YOURS")
    assert await get(world, tweet.id) == unmarked(tweet)

    await world.delete(author, tweet.id)

    for call in (
        get(world, tweet.id),
        world.tweets.DeleteTweet(delete, metadata=author.metadata),
        world.tweets.DeleteTweet(delete, metadata=other.metadata),
    ):
        refused = await failure(call)
        assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "TWEET_NOT_FOUND")
    assert len(await world.accounts.events()) == 2
    await assert_counts_are_exact(world.accounts)


async def test_deletion_commits_with_its_event(world: World):
    author, other = await world.accounts.insert(2)
    root = await create(world, author)
    reply = await create(world, other, reply_to=root.id)

    await world.delete(other, reply.id)

    key, event = (await world.accounts.events())[-1]
    deleted = event.tweet_deleted
    assert key == other.id
    assert (deleted.entry.tweet_id, deleted.entry.replied_author_id) == (reply.id, author.id)
    assert [(c.tweet_id, c.version) for c in deleted.changed] == [(root.id, 3), (reply.id, 2)]
    purges = "SELECT subject_id, version FROM purges ORDER BY id"
    assert (await world.accounts.rows(purges))[-2:] == [(root.id, 3), (reply.id, 2)]


async def test_one_deletion_of_many_at_once_counts(world: World):
    author, other = await world.accounts.insert(2)
    root = await create(world, author)
    reply = await create(world, other, reply_to=root.id, quote_of=root.id)

    answers = await outcomes([world.delete(other, reply.id) for _ in range(10)])

    assert answers.count(grpc.StatusCode.NOT_FOUND) == 9
    await assert_counts_are_exact(world.accounts)


async def test_deletions_race_replies_without_deadlock_or_wrong_count(world: World):
    people = await world.accounts.insert(3)
    tweets = [(who, (await create(world, who)).id) for who in people]
    for turn in range(24):
        who = people[turn % 3]
        _, parent = tweets[(turn * 7 + 1) % len(tweets)]
        _, quoted = tweets[(turn * 5 + 2) % len(tweets)]
        reply = await create(world, who, reply_to=parent, quote_of=quoted)
        tweets.append((who, reply.id))

    calls: list[Awaitable[Any]] = []
    for turn, (who, tweet_id) in enumerate(tweets):
        # Each tweet is deleted while everybody answers it and another one, in both orders.
        _, next_id = tweets[(turn + 1) % len(tweets)]
        calls.append(world.delete(who, tweet_id))
        calls += [create(world, p, reply_to=tweet_id, quote_of=next_id) for p in people]
        calls += [create(world, p, reply_to=next_id, quote_of=tweet_id) for p in people]
    answers = await outcomes(calls)

    codes = {answer for answer in answers if isinstance(answer, grpc.StatusCode)}
    assert codes <= {grpc.StatusCode.NOT_FOUND}
    await assert_counts_are_exact(world.accounts)


async def test_tweet_count_is_exact_when_one_author_posts_and_deletes_at_once(world: World):
    (author,) = await world.accounts.insert(1)
    first = [await create(world, author) for _ in range(10)]

    await asyncio.gather(
        *(create(world, author, content=str(n)) for n in range(30)),
        *(world.delete(author, tweet.id) for tweet in first),
    )

    assert await world.accounts.rows(
        "SELECT tweet_count FROM users WHERE id = %s", author.id
    ) == [(30,)]  # fmt: skip
    await assert_counts_are_exact(world.accounts)
    keys = [key for key, _ in await world.accounts.events()]
    assert keys == [author.id] * 50


async def test_ids_of_an_authors_tweets_grow_with_their_events(world: World):
    (author,) = await world.accounts.insert(1)

    await asyncio.gather(*(create(world, author, content=str(n)) for n in range(40)))

    ids = [event.tweet_created.entry.tweet_id for _, event in await world.accounts.events()]
    assert ids == sorted(ids)


async def test_author_whose_account_is_gone_cannot_post(world: World):
    (author,) = await world.accounts.insert(1)
    author = await world.accounts.remove(author)

    refused = await failure(create(world, author))

    assert refused.code == grpc.StatusCode.UNAUTHENTICATED
    assert await world.accounts.rows("SELECT FROM tweets") == []


async def test_caller_without_a_token_reads_and_does_not_write(world: World):
    author, _ = await world.accounts.insert(2)
    tweet = await create(world, author)

    assert await get(world, tweet.id) == unmarked(tweet)
    for call in (
        world.tweets.CreateTweet(tweet_pb2.CreateTweetRequest(content="hello")),
        world.tweets.DeleteTweet(tweet_pb2.DeleteTweetRequest(id=tweet.id)),
    ):
        assert (await failure(call)).code == grpc.StatusCode.UNAUTHENTICATED

"""Every field of TweetService and TimelineService, just wrong: the field is named, nothing is half
done."""

from collections.abc import AsyncGenerator, Awaitable
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from chirp.v1 import timeline_pb2, tweet_pb2
from google.protobuf.message import Message

from mesh.settings import Settings
from tests.integration.accounts import Account
from tests.integration.bad_input import (
    LONG_URL,
    UNKNOWN_IDS,
    URL,
    WRONG_IDS,
    WRONG_PAGES,
    assert_no_message_is_refused,
    assert_not_found,
    assert_refused,
)
from tests.world import World, open_world

CREATE: list[tuple[str, dict[str, Any]]] = [
    ("content", {"content": ""}),
    ("content", {"content": " \n\t\u3000"}),
    ("content", {"content": "a" * 281}),
    ("content", {"content": "\U0001f426" * 281}),
    ("content", {"content": "\u0958" * 141}),
    ("content", {"content": "a" * 200_000}),
    ("content", {"content": "a\x00b"}),
    ("content", {"content": "a\x1b[2J"}),
    ("mediaUrls", {"media_urls": [URL] * 5}),
    ("mediaUrls[0]", {"media_urls": [""]}),
    ("mediaUrls[1]", {"media_urls": [URL, "javascript:alert(1)"]}),
    ("mediaUrls[0]", {"media_urls": [LONG_URL]}),
    ("mediaUrls[0]", {"media_urls": ["https://user:secret@example.org/"]}),
    ("mediaUrls[0]", {"media_urls": ["https://example.org/\x00"]}),
    ("replyTo", {"reply_to": -1}),
    ("replyTo", {"reply_to": -(2**63)}),
    ("quoteOf", {"quote_of": -1}),
    ("location", {"location": "US"}),
    ("location", {"location": "usa"}),
    ("location", {"location": "us-"}),
    ("location", {"location": "us\x00"}),
    ("requestId", {"request_id": "a" * 65}),
    ("requestId", {"request_id": "a b"}),
    ("requestId", {"request_id": "a\x00"}),
    ("requestId", {"request_id": "\u00e9"}),
]


@dataclass
class Stage:
    world: World
    author: Account
    tweet: tweet_pb2.Tweet

    async def contents(self) -> list[tuple[Any, ...]]:
        rows = await self.world.accounts.contents()
        return rows + await self.world.accounts.rows("SELECT * FROM tweets ORDER BY id")

    def create(self, **fields: Any) -> Awaitable[object]:
        # Right fields beside the wrong one must not be written either.
        right: dict[str, Any] = {"reply_to": self.tweet.id, "quote_of": self.tweet.id}
        right = {"content": "right #tag", **right, **fields}
        request = tweet_pb2.CreateTweetRequest(**right)
        return self.world.tweets.CreateTweet(request, metadata=self.author.metadata)

    def delete(self, tweet_id: int) -> Awaitable[object]:
        request = tweet_pb2.DeleteTweetRequest(id=tweet_id)
        return self.world.tweets.DeleteTweet(request, metadata=self.author.metadata)

    def get(self, tweet_id: int) -> Awaitable[object]:
        return self.world.tweets.GetTweet(tweet_pb2.GetTweetRequest(id=tweet_id))

    def batch(self, *ids: int) -> Awaitable[tweet_pb2.BatchGetTweetsResponse]:
        return self.world.tweets.BatchGetTweets(tweet_pb2.BatchGetTweetsRequest(ids=ids))

    def home(self, **fields: Any) -> Awaitable[timeline_pb2.GetHomeTimelineResponse]:
        request = timeline_pb2.GetHomeTimelineRequest(**fields)
        return self.world.timelines.GetHomeTimeline(request, metadata=self.author.metadata)

    def user(self, **fields: Any) -> Awaitable[timeline_pb2.GetUserTimelineResponse]:
        all_fields: dict[str, Any] = {"id": self.author.id, **fields}
        request = timeline_pb2.GetUserTimelineRequest(**all_fields)
        return self.world.timelines.GetUserTimeline(request)

    def count(self, since_id: int) -> Awaitable[object]:
        request = timeline_pb2.CountNewerRequest(since_id=since_id)
        return self.world.timelines.CountNewer(request, metadata=self.author.metadata)


@pytest_asyncio.fixture
async def stage(settings: Settings) -> AsyncGenerator[Stage]:
    async with open_world(settings) as world:
        (author,) = await world.accounts.insert(1)
        tweet = await world.post(author)
        stage = Stage(world, author, tweet)
        before = await stage.contents()
        yield stage
        assert await stage.contents() == before, "something was half done"


async def test_every_wrong_field_of_a_tweet_is_named(stage: Stage):
    for field, wrong in CREATE:
        await assert_refused(stage.create(**wrong), field)


async def test_every_wrong_field_of_the_timelines_is_named(stage: Stage):
    for field, wrong in WRONG_PAGES:
        await assert_refused(stage.home(**wrong), field)
        await assert_refused(stage.user(**wrong), field)
    for wrong in (-1, -(2**63)):
        await assert_refused(stage.home(since_id=wrong), "sinceId")
    for wrong in WRONG_IDS:
        await assert_refused(stage.count(wrong), "sinceId")
        await assert_refused(stage.user(id=wrong), "id")


async def test_impossible_tweet_id_is_named(stage: Stage):
    for wrong in WRONG_IDS:
        await assert_refused(stage.get(wrong), "id")
        await assert_refused(stage.delete(wrong), "id")
        await assert_refused(stage.batch(stage.tweet.id, wrong), "ids[1]")
    await assert_refused(stage.batch(), "ids")
    await assert_refused(stage.batch(*range(1, 102)), "ids")


async def test_unknown_tweet_or_account_is_not_found(stage: Stage):
    for unknown in UNKNOWN_IDS:
        await assert_not_found(stage.get(unknown))
        await assert_not_found(stage.delete(unknown))
        await assert_not_found(stage.create(reply_to=unknown))
        await assert_not_found(stage.create(quote_of=unknown))
        await assert_not_found(stage.user(id=unknown), "USER_NOT_FOUND")
    assert list((await stage.batch(*UNKNOWN_IDS)).tweets) == []


async def test_values_at_the_limits_are_taken(stage: Stage):
    for limit in (1, 100, 101, 2**31 - 1):
        assert [tweet.id for tweet in (await stage.home(limit=limit)).tweets] == [stage.tweet.id]
        assert [tweet.id for tweet in (await stage.user(limit=limit)).tweets] == [stage.tweet.id]
    for since_id in (0, 1, stage.tweet.id - 1):
        assert len((await stage.home(since_id=since_id)).tweets) == 1
    for since_id in (stage.tweet.id, 2**63 - 1):
        assert len((await stage.home(since_id=since_id)).tweets) == 0
        assert (await stage.count(since_id)) == timeline_pb2.CountNewerResponse(count=0)
    assert len((await stage.batch(*range(1, 100), stage.tweet.id)).tweets) == 1


@pytest.mark.parametrize(
    "method",
    [
        "/chirp.v1.TweetService/CreateTweet",
        "/chirp.v1.TweetService/GetTweet",
        "/chirp.v1.TweetService/BatchGetTweets",
    ],
)
async def test_bytes_that_are_no_message_do_not_hurt_the_server(stage: Stage, method: str):
    await assert_no_message_is_refused(
        stage.world.settings.tweet_target, method, stage.author.metadata
    )

    answer: Message = await stage.batch(stage.tweet.id)
    assert answer.ByteSize() > 0

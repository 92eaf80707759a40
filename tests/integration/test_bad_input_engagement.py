"""Likes, retweets, their lists, threads and explanations: every field just wrong is named, what is
not there is not found, and nothing is half done."""

from collections.abc import AsyncGenerator, Awaitable
from dataclasses import dataclass
from typing import Any

import pytest_asyncio
from chirp.v1 import timeline_pb2, tweet_pb2

from mesh.settings import Settings
from tests.integration.accounts import Account
from tests.integration.bad_input import (
    UNKNOWN_IDS,
    WRONG_IDS,
    WRONG_PAGES,
    assert_no_message_is_refused,
    assert_not_found,
    assert_refused,
)
from tests.world import World, open_world

CHANGES = ("CreateLike", "DeleteLike", "CreateRetweet", "DeleteRetweet")
LISTS = ("ListLikers", "ListRetweeters", "GetThread")


@dataclass
class Stage:
    world: World
    author: Account
    fan: Account
    tweet: int
    deleted: int
    undone: int
    """A retweet that its author undid."""

    async def contents(self) -> list[tuple[Any, ...]]:
        rows = await self.world.accounts.contents()
        rows += await self.world.accounts.rows("SELECT * FROM likes ORDER BY id")
        return rows + await self.world.accounts.rows("SELECT * FROM tweets ORDER BY id")

    def call(self, method: str, *, who: Account | None = None, **fields: Any) -> Awaitable[Any]:
        """Calls a method of TweetService with these fields, as `who`."""
        request = getattr(tweet_pb2, f"{method}Request")(**fields)
        metadata = who.metadata if who else None
        return getattr(self.world.tweets, method)(request, metadata=metadata)

    def explain(self, tweet_id: int) -> Awaitable[timeline_pb2.ExplainHomeTimelineResponse]:
        request = timeline_pb2.ExplainHomeTimelineRequest(tweet_id=tweet_id)
        return self.world.timelines.ExplainHomeTimeline(request, metadata=self.fan.metadata)


@pytest_asyncio.fixture
async def stage(settings: Settings) -> AsyncGenerator[Stage]:
    async with open_world(settings) as world:
        author, fan = await world.accounts.insert(2)
        tweet, deleted = await world.post(author), await world.post(author)
        await world.like(fan, deleted.id)
        await world.retweet(fan, tweet.id)
        retweets = "SELECT id FROM tweets WHERE retweet_of IS NOT NULL"
        ((undone,),) = await world.accounts.rows(retweets)
        await world.delete(fan, undone)
        await world.delete(author, deleted.id)
        stage = Stage(world, author, fan, tweet.id, deleted.id, undone)
        before = await stage.contents()
        yield stage
        assert await stage.contents() == before, "something was half done"


async def test_every_wrong_field_is_named(stage: Stage):
    for wrong in WRONG_IDS:
        for method in (*CHANGES, *LISTS):
            await assert_refused(stage.call(method, who=stage.fan, id=wrong), "id")
        await assert_refused(stage.explain(wrong), "tweetId")
    for field, wrong in WRONG_PAGES:
        for method in LISTS:
            await assert_refused(stage.call(method, id=stage.tweet, **wrong), field)
            # Also where the tweet is not there.
            await assert_refused(stage.call(method, id=7, **wrong), field)


async def test_what_is_not_there_or_deleted_is_not_found(stage: Stage):
    for missing in (*UNKNOWN_IDS, stage.deleted, stage.undone):
        for method in (*CHANGES, *LISTS):
            if (method, missing) != ("DeleteRetweet", stage.undone):
                await assert_not_found(stage.call(method, who=stage.fan, id=missing))
        for fields in ({"reply_to": missing}, {"quote_of": missing}):
            create = stage.call("CreateTweet", who=stage.fan, content="x", **fields)
            await assert_not_found(create)
        explained = await stage.explain(missing)
        assert not explained.shown
        assert explained.sentence


async def test_taking_back_what_is_not_there_changes_nothing(stage: Stage):
    for method in ("DeleteLike", "DeleteRetweet"):
        for who in (stage.author, stage.fan):
            answer = await stage.call(method, who=who, id=stage.tweet)
            assert (answer.id, answer.like_count, answer.retweet_count) == (stage.tweet, 0, 0)
    assert (await stage.call("DeleteRetweet", who=stage.fan, id=stage.undone)).id == stage.tweet


async def test_values_at_the_limits_are_taken(stage: Stage):
    for limit in (1, 100, 101, 2**31 - 1):
        for method in LISTS:
            page = await stage.call(method, id=stage.tweet, limit=limit)
            assert (page.next_cursor, page.has_more) == ("", False)
    for cursor in ("", "AQAAAAAAAAAB", "AX__________"):
        for method in LISTS:
            assert not (await stage.call(method, id=stage.tweet, cursor=cursor)).has_more


async def test_bytes_that_are_no_message_do_not_hurt_the_server(stage: Stage):
    for method in (*CHANGES, *LISTS):
        await assert_no_message_is_refused(
            stage.world.settings.tweet_target,
            f"/chirp.v1.TweetService/{method}",
            stage.fan.metadata,
        )

    assert (await stage.call("GetTweet", id=stage.tweet)).id == stage.tweet

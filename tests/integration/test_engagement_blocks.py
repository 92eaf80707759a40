"""What a block or a mute does to engagement: a block refuses it in both directions, and what is
public stays readable."""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from chirp.v1 import tweet_pb2

from tests.integration.accounts import Account
from tests.integration.engagement import get, own_retweet, world
from tests.refused import failure
from tests.world import World

__all__ = ["world"]

pytestmark = pytest.mark.asyncio(loop_scope="module")

Call = Callable[[World, Account, int], Awaitable[tweet_pb2.Tweet]]


@pytest.mark.parametrize("relation", ["blocks", "is blocked", "mutes"])
async def test_quote_stays_and_is_empty_where_the_quoted_author_is_hidden(
    world: World, relation: str
):
    author, quoter, repeater, viewer = await world.accounts.insert(4)
    await world.follow(viewer, quoter)
    await world.follow(viewer, repeater)
    tweet = await world.post(author)
    quote = await world.post(quoter, quote_of=tweet.id)
    own = await world.post(viewer, quote_of=tweet.id)
    nested = await world.post(viewer)
    await world.retweet(repeater, quote.id)
    retweet = await own_retweet(world, repeater, quote.id)

    match relation:
        case "blocks":
            await world.block(viewer, author)
        case "is blocked":
            await world.block(author, viewer)
        case _:
            await world.mute(viewer, author)
    await world.drain()

    home = {each.id: each for each in (await world.home_page(viewer)).tweets}
    assert set(home) == {quote.id, own.id, nested.id}
    thread = await world.tweets.GetThread(
        tweet_pb2.GetThreadRequest(id=quote.id), metadata=viewer.metadata
    )
    for seen in (
        home[quote.id],
        home[own.id],
        thread.tweet,
        await get(world, quote.id, viewer),
        await get(world, own.id, viewer),
        (await get(world, retweet, viewer)).retweeted_tweet,
    ):
        assert seen.quote_of == tweet.id
        assert not seen.HasField("quoted_tweet")
    # To others it is as before, and by id it stays readable.
    assert (await get(world, quote.id)).quoted_tweet.id == tweet.id
    assert (await get(world, quote.id, repeater)).quoted_tweet.id == tweet.id
    assert (await get(world, tweet.id, viewer)).id == tweet.id


REFUSED: dict[str, Call] = {
    "like": lambda world, who, tweet: world.like(who, tweet),
    "retweet": lambda world, who, tweet: world.retweet(who, tweet),
    "reply": lambda world, who, tweet: world.post(who, reply_to=tweet),
    "quote": lambda world, who, tweet: world.post(who, quote_of=tweet),
}


@pytest.mark.parametrize("action", REFUSED)
async def test_block_refuses_in_both_directions_until_it_is_taken_back(world: World, action: str):
    blocker, blocked, repeater = await world.accounts.insert(3)
    of = {who: (await world.post(who)).id for who in (blocker, blocked)}
    await world.retweet(repeater, of[blocker])
    by_way_of_another = await own_retweet(world, repeater, of[blocker])
    await world.block(blocker, blocked)

    async def contents() -> list[tuple[Any, ...]]:
        rows = await world.accounts.rows("SELECT * FROM tweets ORDER BY id")
        rows += await world.accounts.rows("SELECT * FROM likes ORDER BY id")
        return rows + await world.accounts.contents()

    before = await contents()
    for who, tweet in (
        (blocker, of[blocked]),
        (blocked, of[blocker]),
        (blocked, by_way_of_another),
    ):
        refused = await failure(REFUSED[action](world, who, tweet))
        assert (refused.code, refused.reason) == (grpc.StatusCode.PERMISSION_DENIED, "BLOCKED")
        assert refused.fields == []
        # What is public stays readable.
        assert (await get(world, tweet, who)).id == tweet
    assert await contents() == before

    await world.block(blocker, blocked, undo=True)
    for who, tweet in ((blocker, of[blocked]), (blocked, of[blocker])):
        await REFUSED[action](world, who, tweet)


async def test_reply_is_refused_where_what_it_quotes_is_of_a_blocked_account(world: World):
    blocker, blocked, other = await world.accounts.insert(3)
    root, quoted = await world.post(other), await world.post(blocker)
    await world.block(blocker, blocked)

    for reply_to, quote_of in ((root.id, quoted.id), (quoted.id, root.id)):
        refused = await failure(world.post(blocked, reply_to=reply_to, quote_of=quote_of))
        assert refused.reason == "BLOCKED"
    assert (await world.post(blocked, reply_to=root.id)).reply_to == root.id


async def test_what_was_done_before_a_block_can_be_undone_and_is_answered_again(world: World):
    blocker, blocked = await world.accounts.insert(2)
    tweet = await world.post(blocker)
    await world.like(blocked, tweet.id)
    await world.retweet(blocked, tweet.id)
    reply = await world.post(blocked, reply_to=tweet.id, request_id="r")
    await world.block(blocker, blocked)

    again = await world.post(blocked, reply_to=tweet.id, request_id="r")
    unliked = await world.like(blocked, tweet.id, undo=True)
    undone = await world.retweet(blocked, tweet.id, undo=True)
    await world.delete(blocked, reply.id)

    assert again.id == reply.id
    assert (unliked.like_count, undone.retweet_count) == (0, 0)
    assert (await get(world, tweet.id)).reply_count == 0


async def test_mute_refuses_nothing(world: World):
    muter, muted = await world.accounts.insert(2)
    of_muter, of_muted = await world.post(muter), await world.post(muted)
    await world.mute(muter, muted)

    for call in REFUSED.values():
        await call(world, muter, of_muted.id)
        await call(world, muted, of_muter.id)

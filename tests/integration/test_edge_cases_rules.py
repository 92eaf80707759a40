"""Edge cases 9, 10 and 13: repeats, relations that hide, and filters behind the limit."""

from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio
from chirp.v1 import timeline_pb2

from mesh.settings import Settings
from tests.edges import (
    DISTANCE,
    LENGTH,
    assert_contiguous,
    assert_right,
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


async def tell(world: World) -> None:
    """The servers hear what changed; log and fan-out stand still."""
    for feed in world.feeds:
        await feed.poll()


async def retweet(world: World, user: Account, tweet: int) -> int:
    """Retweets; returns the retweet's own id."""
    await world.retweet(user, tweet)
    rows = await world.accounts.rows(
        "SELECT id FROM tweets WHERE author_id = %s AND retweet_of = %s AND deleted_at IS NULL",
        user.id,
        tweet,
    )
    return int(rows[0][0])


@pytest.mark.parametrize("tier", [1, 2, 3])
async def test_edge_case_09_tweet_that_two_followees_retweet_is_shown_once_until_undone(
    world: World, tier: int
):
    stranger, first, second, reader = await world.accounts.insert(4)
    for followee in (first, second):
        await world.follow(reader, followee)
    await set_tier(world, first, tier=tier)
    await world.drain()
    await assert_right(world, reader)
    tweet = (await world.post(stranger)).id
    shown = await retweet(world, first, tweet)
    other = await retweet(world, second, tweet)
    await world.drain()
    assert await assert_right(world, reader) == [[shown]]

    await world.retweet(first, tweet, undo=True)

    await tell(world)
    assert await assert_right(world, reader) == [[other]], "before fan-out hears of it"
    await world.drain()
    assert await assert_right(world, reader) == [[other]]
    again = await retweet(world, first, tweet)
    await world.drain()
    assert await assert_right(world, reader) == [[other]], "the redone one is the newer"
    await world.retweet(second, tweet, undo=True)
    await world.drain()
    assert await assert_right(world, reader) == [[again]]


async def test_edge_case_09_retweet_comes_back_when_the_original_leaves_and_goes_when_it_comes(
    world: World,
):
    author, fan, reader = await world.accounts.insert(3)
    for followee in (author, fan):
        await world.follow(reader, followee)
    tweet = (await world.post(author)).id
    repeated = await retweet(world, fan, tweet)
    await world.drain()
    assert await assert_right(world, reader) == [[tweet]]

    await world.unfollow(reader, author)

    assert await assert_right(world, reader) == [[repeated]]
    await world.follow(reader, author)
    assert await assert_right(world, reader) == [[tweet]]
    await world.drain()
    assert await assert_right(world, reader) == [[tweet]]


async def test_edge_case_09_repeat_is_measured_in_what_the_reader_sees(world: World):
    """What is hidden or deleted between two retweets makes no distance."""
    stranger, first, second, filler, muted, reader = await world.accounts.insert(6)
    for followee in (first, second, filler, muted):
        await world.follow(reader, followee)
    tweet = (await world.post(stranger)).id
    shown = await retweet(world, first, tweet)
    fillers = await post_each(world, [filler], DISTANCE)
    hidden = await post_each(world, [muted])
    repeated = await retweet(world, second, tweet)
    await world.drain()
    assert await assert_right(world, reader) == [[repeated, *hidden, *fillers[::-1], shown]]

    await world.mute(reader, muted)
    assert await assert_right(world, reader) == [[repeated, *fillers[::-1], shown]]
    await world.delete(filler, fillers[0])

    await world.drain()
    assert await assert_right(world, reader) == [[*fillers[:0:-1], shown]]
    await world.mute(reader, muted, undo=True)
    assert await assert_right(world, reader) == [[repeated, *hidden, *fillers[:0:-1], shown]]


async def turn(world: World, way: str, reader: Account, target: Account) -> None:
    match way:
        case "unfollow":
            await world.unfollow(reader, target)
        case "mute":
            await world.mute(reader, target)
        case "block":
            await world.block(reader, target)
        case _:
            await world.block(target, reader)


@pytest.mark.parametrize("drained", [False, True], ids=["at once", "drained"])
@pytest.mark.parametrize("way", ["unfollow", "mute", "block", "blocked by"])
async def test_edge_case_10_unfollow_mute_and_block_reach_all_that_comes_from_somebody(
    world: World, way: str, drained: bool
):
    target, friend, reader = await world.accounts.insert(3)
    for followee in (target, friend):
        await world.follow(reader, followee)
    of_target = await post_each(world, [target], 8)
    of_friend = await post_each(world, [friend], 3)
    own = [
        (await world.post(reader, reply_to=of_target[0])).id,
        (await world.post(reader, quote_of=of_target[1])).id,
        await retweet(world, reader, of_target[2]),
    ]
    others_reply = (await world.post(friend, reply_to=of_target[3])).id
    others_quote = (await world.post(friend, quote_of=of_target[4])).id
    await post_each(world, [friend], DISTANCE)
    others_retweet = await retweet(world, friend, of_target[5])
    targets_own = [
        (await world.post(target, reply_to=of_friend[0])).id,
        (await world.post(target, quote_of=of_friend[1])).id,
        await retweet(world, target, of_friend[2]),
    ]
    await world.drain()
    (before,) = await assert_right(world, reader)
    assert {*own, others_reply, others_quote, others_retweet, *targets_own} < set(before)

    await turn(world, way, reader, target)
    if drained:
        await world.drain()

    (home,) = await assert_right(world, reader)
    assert not {*of_target, *targets_own, others_reply} & set(home)
    assert {*own, *of_friend} < set(home)
    # What a friend repeats is there for the friend's sake, unless its author is not to be seen.
    assert (others_retweet in home) == (way == "unfollow")
    page = {tweet.id: tweet for tweet in (await world.home_page(reader, limit=100)).tweets}
    assert page[others_quote].quoted_tweet.id == (of_target[4] if way == "unfollow" else 0)
    if drained:
        await assert_contiguous(world, reader)


async def test_edge_case_10_mute_is_one_sided_and_all_comes_back_with_its_end(world: World):
    target, friend, reader = await world.accounts.insert(3)
    for follower, followee in ((reader, target), (reader, friend), (target, reader)):
        await world.follow(follower, followee)
    tweets = await post_each(world, [target, friend, reader])
    await world.post(friend, reply_to=tweets[0])
    await world.retweet(friend, tweets[0])
    await world.drain()
    before = await assert_right(world, reader, target)

    await world.mute(reader, target)
    await world.drain()

    muted = await assert_right(world, reader, target)
    assert (muted[1], len(muted[0])) == (before[1], len(before[0]) - 3)
    await world.mute(reader, target, undo=True)
    assert await assert_right(world, reader, target) == before
    await world.drain()
    assert await assert_right(world, reader, target) == before


@pytest.mark.parametrize("tier", [1, 2, 3])
async def test_edge_case_10_follow_again_while_the_unfollow_is_still_queued(
    world: World, tier: int
):
    author, reader = await world.accounts.insert(2)
    await world.follow(reader, author)
    await set_tier(world, author, tier=tier)
    await post_each(world, [author], 2)
    await world.drain()
    await assert_right(world, reader)

    await world.unfollow(reader, author)
    await world.post(author)
    assert await assert_right(world, reader) == [[]]
    await world.follow(reader, author)
    await world.post(author)
    (home,) = await assert_right(world, reader)
    assert len(home) == 4

    await world.relay_all()
    while sum((await world.fanout.lag()).values()):
        await world.fanout.step(20)
        assert [tweet.id for tweet in (await world.home_page(reader)).tweets] == home
    await world.post(author)
    await world.drain()
    (home,) = await assert_right(world, reader)
    assert len(home) == 5


@pytest.mark.parametrize("limit", [1, 2, 5, LENGTH, 20])
async def test_edge_case_13_page_is_full_however_much_is_filtered_behind_it(
    world: World, limit: int
):
    author, star, muted, stranger, reader = await world.accounts.insert(5)
    for followee in (author, star, muted):
        await world.follow(reader, followee)
    await world.mute(reader, muted)
    base = 1_000_000 * reader.id
    step = 10
    unseen = {"reply_to": 1, "replied_author_id": stranger.id}
    await insert_tweets(world, author, range(base, base + 3_000, 60 * step))
    await insert_tweets(world, author, range(base + 1, base + 3_000, step), **unseen)
    await insert_tweets(world, star, range(base + 2, base + 3_000, step), delivery=2, **unseen)
    await insert_tweets(world, muted, range(base + 3, base + 3_000, step))
    await insert_tweets(world, star, range(base + 4, base + 3_000, 70 * step), delivery=2)
    expected = await world.oracle(reader)
    assert len(expected) == 10

    for _ in range(2):
        pages: list[list[int]] = []
        cursor = ""
        while not pages or cursor:
            page = await world.home_page(reader, limit=limit, cursor=cursor)
            pages.append([tweet.id for tweet in page.tweets])
            cursor = page.next_cursor
            assert page.has_more == bool(cursor)
        assert pages == [expected[n : n + limit] for n in range(0, len(expected), limit)]


async def test_edge_case_13_page_of_an_account_is_full_though_much_of_it_is_gone(world: World):
    author, doomed = await world.accounts.insert(2)
    kept = [await world.post(author) for _ in range(3)]
    for _ in range(6):
        await world.retweet(author, (await world.post(doomed)).id)
    originals = await world.accounts.rows("SELECT id FROM tweets WHERE author_id = %s", doomed.id)
    for (tweet,) in originals:
        await world.delete(doomed, int(tweet))
    newest = await world.post(author)

    answer = await world.timelines.GetUserTimeline(
        timeline_pb2.GetUserTimelineRequest(id=author.id, limit=2)
    )

    assert [tweet.id for tweet in answer.tweets] == [newest.id, kept[2].id]
    assert answer.has_more

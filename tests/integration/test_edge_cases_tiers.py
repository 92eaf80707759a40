"""Edge cases 1 to 3: authors who cross the lines between tiers, and timelines merged from many."""

from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio

from domain.ids import TweetId
from domain.timeline import NO_TWEET, NOBODY
from mesh.settings import Settings
from storage.timelines import TimelineStore, WindowKind
from tests.edges import (
    CELEBRITY,
    DISTANCE,
    INFLUENCER,
    LENGTH,
    PULL,
    PUSH,
    PUSH_ACTIVE,
    assert_right,
    crowd,
    elements,
    held_ids,
    hold,
    insert_tweets,
    open_near_edges,
    post_each,
    release,
    set_tier,
    step,
    ways_of,
)
from tests.leases import end_lease
from tests.world import World

pytestmark = pytest.mark.asyncio(loop_scope="module")

RECENT = WindowKind.RECENT


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(module_settings: Settings) -> AsyncGenerator[World]:
    async with open_near_edges(module_settings) as opened:
        yield opened


async def test_edge_case_01_tier_crossing_upward_shows_pushed_and_pulled_tweets_once(world: World):
    star, other, reader = await world.accounts.insert(3)
    for followee in (star, other):
        await world.follow(reader, followee)
    await assert_right(world, reader)

    for fans in (0, INFLUENCER - 1, CELEBRITY - INFLUENCER):
        await crowd(world, star, fans)
        await post_each(world, [star, other], 2)
        # Undrained: some are in the window, some in no list at all.
        page = [tweet.id for tweet in (await world.home_page(reader, limit=9)).tweets]
        assert page == sorted(set(page), reverse=True)
        await post_each(world, [star])
        await world.drain()
        await assert_right(world, reader, star)

    assert await ways_of(world, star) == [PUSH] * 3 + [PUSH_ACTIVE] * 3 + [PULL] * 3


async def test_edge_case_01_tier_crossing_downward_keeps_what_was_posted_while_pulled(world: World):
    star, other, reader = await world.accounts.insert(3)
    for followee in (star, other):
        await world.follow(reader, followee)
    fans = await crowd(world, star, CELEBRITY)
    pulled = await post_each(world, [star], 3)
    await world.drain()
    await assert_right(world, reader)
    assert await held_ids(world, reader) == [], "what is pulled stands in no home window"

    for fan in fans:
        await world.unfollow(fan, star)
    pushed = await post_each(world, [star], 2)
    await world.drain()

    assert await ways_of(world, star) == [PULL] * 3 + [PUSH] * 2
    (home,) = await assert_right(world, reader)
    assert home == [*reversed(pushed), *reversed(pulled)]
    await world.cache.flushall()  # whom to pull is asked anew
    await assert_right(world, reader)
    # The star has fallen silent; its tweets leave every window and are still pulled from below.
    await post_each(world, [other], 2 * LENGTH)
    await world.drain()
    await assert_right(world, reader)
    await world.cache.flushall()
    (home,) = await assert_right(world, reader)
    assert set(pulled) < set(home)


async def test_edge_case_01_what_waits_in_the_log_goes_the_way_it_was_stamped(world: World):
    riser, faller, reader = await world.accounts.insert(3)
    for followee in (riser, faller):
        await world.follow(reader, followee)
    fans = await crowd(world, faller, CELEBRITY)
    await world.drain()
    await assert_right(world, reader)
    pushed, pulled = await post_each(world, [riser, faller])
    late = await hold(world, riser, faller)

    await crowd(world, riser, CELEBRITY)
    for fan in fans:
        await world.unfollow(fan, faller)
    await step(world)
    # Follows of others change nothing in the reader's window.
    await release(world, late)
    await world.drain()

    assert await held_ids(world, reader) == [pushed]
    (home,) = await assert_right(world, reader)
    assert home == [pulled, pushed]
    assert await held_ids(world, faller, RECENT) == [pulled]


async def test_edge_case_01_author_at_a_line_does_not_flap(world: World):
    star, hovering, reader = await world.accounts.insert(3)
    fans = await crowd(world, star, INFLUENCER - 2)
    await world.follow(reader, star)

    for _ in range(3):
        await world.follow(hovering, star)
        await world.post(star)
        await world.unfollow(hovering, star)
        await world.post(star)
    for fan in fans:
        await world.unfollow(fan, star)
    await world.post(star)
    await world.drain()

    assert await ways_of(world, star) == [PUSH_ACTIVE] * 6 + [PUSH]
    changes = await world.accounts.rows(
        "SELECT from_tier, to_tier, follower_count FROM tier_changes WHERE user_id = %s"
        " ORDER BY id",
        star.id,
    )
    assert changes == [(1, 2, INFLUENCER), (2, 1, 1)]
    await assert_right(world, reader)


async def test_edge_case_01_deletions_find_what_was_pushed_before_the_line_and_pulled_after(
    world: World,
):
    star, reader = await world.accounts.insert(2)
    await world.follow(reader, star)
    tweets = await post_each(world, [star], 3)
    await world.drain()
    await assert_right(world, reader)
    await crowd(world, star, CELEBRITY)
    tweets += await post_each(world, [star], 3)
    await world.drain()
    await assert_right(world, reader)

    for position in (1, 4):
        await world.delete(star, tweets[position])
    await world.drain()

    (home,) = await assert_right(world, reader)
    assert home == [tweets[n] for n in (5, 3, 2, 0)]
    assert await held_ids(world, reader) == [tweets[n] for n in (2, 0)]
    assert await held_ids(world, star, RECENT) == [tweets[n] for n in (5, 3)]


async def test_edge_case_02_influencers_tweet_reaches_readers_of_any_lease(world: World):
    star, warm, cold, never = await world.accounts.insert(4)
    for reader in (warm, cold, never):
        await world.follow(reader, star)
    await set_tier(world, star, tier=2)
    await world.drain()
    tweets = await post_each(world, [star], 2)
    await world.drain()
    await assert_right(world, warm, cold)
    assert await held_ids(world, cold) == tweets[::-1]

    await end_lease(world.cache, world.settings, cold.id)
    tweets += await post_each(world, [star], 2)
    await world.drain()

    assert await ways_of(world, star) == [PUSH_ACTIVE] * 4
    assert await held_ids(world, warm) == tweets[::-1], "a reader with a lease was not pushed to"
    assert await elements(world, cold) == [], "a window that misses an entry still stands"
    homes = await assert_right(world, warm, cold, never)
    assert homes == [tweets[::-1]] * 3


async def test_edge_case_02_tweet_that_stands_in_two_lists_is_shown_once(world: World):
    star, other, reader = await world.accounts.insert(3)
    for followee in (star, other):
        await world.follow(reader, followee)
    await set_tier(world, star, tier=3)
    tweets = await post_each(world, [star, other], 4)
    await world.drain()
    await assert_right(world, reader)

    # Pushed as well as pulled, as by a worker that knew of another way.
    store = TimelineStore(world.cache, world.settings)
    twice = tweets[4::2]
    for tweet in twice:
        await store.push_own(reader.id, (TweetId(tweet), star.id, NO_TWEET, NOBODY))

    assert set(twice) < set(await held_ids(world, reader) or ())
    assert set(twice) < set(await held_ids(world, star, RECENT) or ())
    await assert_right(world, reader)
    await world.drain()
    await assert_right(world, reader)


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
async def test_edge_case_03_page_never_goes_below_the_newest_end_of_a_truncated_list(
    world: World, warm: bool
):
    """Every source is cut at LENGTH, each at another depth: below the newest of these ends a merge
    of them would leave holes."""
    dense, sparse, old, plain, reader = await world.accounts.insert(5)
    for followee in (dense, sparse, old, plain):
        await world.follow(reader, followee)
    base = 1_000_000 * reader.id
    await insert_tweets(world, dense, range(base + 2_000, base + 2_160, 4), delivery=PULL)
    await insert_tweets(world, sparse, range(base + 401, base + 2_401, 148), delivery=PULL)
    await insert_tweets(world, old, range(base + 2, base + 122, 4), delivery=PULL)
    await insert_tweets(world, plain, range(base + 1_203, base + 2_203, 52))
    expected = await world.oracle(reader)
    assert len(expected) == 40 + 14 + 30 + 20
    await world.cache.flushall()  # nobody told the cache of pulled authors
    if warm:
        await world.home(reader)
        assert len(await held_ids(world, dense, RECENT) or ()) == LENGTH

    for limit in (1, 2, DISTANCE, LENGTH, LENGTH + 1, 50, 100):
        assert await world.home(reader, limit=limit) == expected

"""Edge cases 5 to 8: events that come late, twice, or in an order that nobody expects."""

from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest
import pytest_asyncio

from eventlog.runner import Runner
from mesh.settings import Settings
from storage import tweet_cache
from storage.followers import FollowerStore
from tests.edges import (
    LENGTH,
    assert_contiguous,
    assert_right,
    count_newer,
    elements,
    held_ids,
    hold,
    ids_of,
    keys,
    open_near_edges,
    post_each,
    release,
    set_tier,
    step,
)
from tests.integration.accounts import Account
from tests.world import World

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(module_settings: Settings) -> AsyncGenerator[World]:
    async with open_near_edges(module_settings) as opened:
        yield opened


class Killed(BaseException):
    """The worker died here."""


async def work(world: World) -> None:
    """Fans out until the worker is killed."""
    while True:
        await world.fanout.step(20)


async def test_edge_case_05_late_event_is_put_in_its_place_and_not_at_the_head(world: World):
    prompt, slow, reader = await world.accounts.insert(3)
    for followee in (prompt, slow):
        await world.follow(reader, followee)
    await world.drain()
    await assert_right(world, reader)
    tweets = await post_each(world, [slow, prompt], 3)
    late = await hold(world, slow)
    await step(world)
    assert await ids_of(world, reader) == tweets[1::2][::-1]
    page = await world.home_page(reader, limit=1)

    await release(world, late)
    await step(world)

    assert await held_ids(world, reader) == tweets[::-1]
    assert await ids_of(world, reader) == tweets[::-1]
    # A cursor stands at an id: what came late below it is on the next page, nothing twice.
    assert await ids_of(world, reader, cursor=page.next_cursor) == tweets[-2::-1]
    assert await ids_of(world, reader, since_id=tweets[1]) == tweets[:1:-1]
    assert await count_newer(world, reader, tweets[1]) == 4
    await assert_right(world, reader)
    await assert_contiguous(world, reader)


async def test_edge_case_05_event_that_is_late_by_more_than_a_window_changes_nothing_above(
    world: World,
):
    prompt, slow, star, reader = await world.accounts.insert(4)
    for followee in (prompt, slow, star):
        await world.follow(reader, followee)
    await set_tier(world, star, tier=3)
    await world.drain()
    await assert_right(world, reader)
    await post_each(world, [slow, star])
    late = await hold(world, slow, star)
    await post_each(world, [prompt], 2 * LENGTH)
    await step(world)
    held = await held_ids(world, reader)

    await release(world, late)
    await world.drain()

    assert await held_ids(world, reader) == held
    await assert_right(world, reader)
    await assert_contiguous(world, reader)


async def test_edge_case_06_batch_that_was_pushed_and_not_acknowledged_comes_again_for_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    author, star, reader = await world.accounts.insert(3)
    for followee in (author, star):
        await world.follow(reader, followee)
    await set_tier(world, star, tier=3)
    await world.drain()
    await post_each(world, [author, star])
    await world.drain()
    await assert_right(world, reader)
    tweets = await post_each(world, [author, star], 4)
    await world.delete(author, tweets[2])
    await world.relay_all()

    async def dies(*_: object) -> None:
        raise Killed

    windows: list[list[bytes]] = []
    with monkeypatch.context() as patched:
        patched.setattr(Runner, "_commit", dies)
        for _ in range(3):
            with pytest.raises(Killed):
                await work(world)
            windows = [await elements(world, user) for user in (reader, author, star)]
            assert [len(window) for window in windows] == [len(set(window)) for window in windows]
    assert len(windows[0]) > 1, "nothing was pushed before the worker died"
    await world.drain()

    await assert_right(world, reader, author, star)
    await assert_contiguous(world, reader)


async def test_edge_case_06_worker_that_dies_in_the_middle_of_a_batch_leaves_no_half_truth(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    author, *readers = await world.accounts.insert(9)
    for reader in readers:
        await world.follow(reader, author)
    assert len({keys(world).tag(reader.id) for reader in readers}) == 2, "one shard has them all"
    await set_tier(world, author, tier=1)  # so many followers would make it a celebrity
    await world.drain()
    await assert_right(world, *readers)
    tweets = await post_each(world, [author], 4)
    await world.delete(author, tweets[0])
    apply = FollowerStore.apply
    survivors = [1]

    async def dies_after_some(store: FollowerStore, **change: Any) -> int:
        if not survivors:
            raise Killed
        survivors.pop()
        return await apply(store, **change)

    with monkeypatch.context() as patched:
        patched.setattr(FollowerStore, "apply", dies_after_some)
        await world.relay_all()
        with pytest.raises(Killed):
            await work(world)
    held = [await held_ids(world, reader) for reader in readers]
    assert {tweets[0] in (ids or ()) for ids in held} == {True, False}, "it is not in the middle"

    await world.drain()

    await assert_right(world, *readers)
    for reader in readers:
        await assert_contiguous(world, reader)


@pytest.mark.parametrize("kind", ["reply", "quote", "retweet"])
async def test_edge_case_07_tweet_that_arrives_before_what_it_refers_to(world: World, kind: str):
    original_author, quick, stranger, reader = await world.accounts.insert(4)
    for followee in (original_author, quick):
        await world.follow(reader, followee)
    await world.drain()
    await assert_right(world, reader)
    original = (await world.post(original_author, "the original")).id
    unseen = (await world.post(stranger, "of somebody else")).id
    late = await hold(world, original_author, stranger)
    for target in (original, unseen):
        if kind == "retweet":
            await world.retweet(quick, target)
        elif kind == "reply":
            await world.post(quick, reply_to=target)
        else:
            await world.post(quick, quote_of=target)
    await step(world)

    early = {tweet.id: tweet for tweet in (await world.home_page(reader)).tweets}

    if kind == "retweet":
        shown = {tweet.retweeted_tweet.content for tweet in early.values()}
        assert shown == {"the original", "of somebody else"}
    elif kind == "quote":
        shown = {tweet.quoted_tweet.content for tweet in early.values()}
        assert shown == {"the original", "of somebody else"}
    else:
        assert [tweet.reply_to for tweet in early.values()] == [original], "to one not followed"
    await release(world, late)
    await world.drain()
    (home,) = await assert_right(world, reader)
    # The retweet is left out now: the original stands close below.
    assert (original in home, len(home)) == (True, {"reply": 2, "quote": 3, "retweet": 2}[kind])


async def test_edge_case_08_create_that_is_handled_after_the_deletion_shows_nothing(world: World):
    author, star, reader = await world.accounts.insert(3)
    for followee in (author, star):
        await world.follow(reader, followee)
    await set_tier(world, star, tier=3)
    await world.drain()
    await post_each(world, [author, star])
    await world.drain()
    people = (author, star, reader)
    before = await assert_right(world, *people)
    gone = await post_each(world, [author, star])
    await world.relay_all()  # the creations are in the log, and not handled
    await world.delete(author, gone[0])
    await world.delete(star, gone[1])
    late = await hold(world, author, star)

    await step(world)

    assert await held_ids(world, reader) == [gone[0], before[0][0]]
    for _ in range(2):
        assert [await ids_of(world, person) for person in people] == before
    assert await count_newer(world, reader, before[2][0]) == 0
    await release(world, late)
    await world.drain()
    assert await assert_right(world, *people) == before
    assert await held_ids(world, reader) == [before[0][0]]
    # Once more from the beginning: creations of what was deleted long ago.
    await world.rewind()
    replayed = 0
    while sum((await world.fanout.lag()).values()):
        replayed += await world.fanout.step(20)
        assert await ids_of(world, reader) == before[2]
    assert replayed > 4


async def test_edge_case_08_record_that_is_stored_after_the_deletion_does_not_revive_a_tweet(
    world: World,
):
    author, reader = await world.accounts.insert(2)
    await world.follow(reader, author)
    kept, gone = await post_each(world, [author], 2)
    await world.drain()
    (home,) = await assert_right(world, reader)
    assert home == [gone, kept]
    record: Any = await world.cache.get(tweet_cache.key(gone))

    await world.delete(author, gone)
    # A server that asked for the tweet before it was deleted, and was slow.
    await tweet_cache.put(world.cache, {gone: record})

    assert await world.cache.get(tweet_cache.key(gone)) != record
    for feed in world.feeds:
        await feed.poll()
    assert await ids_of(world, reader) == [kept]
    await world.drain()
    await tweet_cache.put(world.cache, {gone: record})
    await assert_right(world, reader, author)


async def retweeted(world: World, people: Sequence[Account], tweet: int) -> None:
    for person in people:
        await world.retweet(person, tweet)


async def test_edge_case_08_deleted_original_takes_its_retweets_along(world: World):
    original_author, one, other, star, reader = await world.accounts.insert(5)
    for followee in (one, other, star):
        await world.follow(reader, followee)
    await set_tier(world, star, tier=3)
    await world.drain()
    await assert_right(world, reader)
    doomed, kept = await post_each(world, [original_author], 2)
    await retweeted(world, [one, star], doomed)
    between = await post_each(world, [other], 4)
    await retweeted(world, [other, star], kept)
    await retweeted(world, [other], doomed)
    await world.drain()
    (home,) = await assert_right(world, reader)
    assert len(home) == 1 + 4 + 1 + 1

    await world.delete(original_author, doomed)

    for feed in world.feeds:
        await feed.poll()
    (shown,) = await assert_right(world, reader)
    assert shown == [home[1], *between[::-1]]
    await world.drain()
    await assert_right(world, reader, one, other, star)
    await world.cache.flushall()
    await assert_right(world, reader, one, other, star)

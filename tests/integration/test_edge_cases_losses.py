"""Edge case 20: eviction, fail-over and lost messages leave a cache of half-truths."""

from collections.abc import AsyncGenerator, Awaitable
from typing import Any, cast

import pytest
import pytest_asyncio
import redis.asyncio
import redis.exceptions

from mesh.settings import Settings
from storage import candidates
from storage.timelines import WindowKind
from tests.edges import (
    LENGTH,
    assert_contiguous,
    assert_right,
    elements,
    ids_of,
    keys,
    open_near_edges,
    post_each,
    set_tier,
    step,
)
from tests.world import World

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(module_settings: Settings) -> AsyncGenerator[World]:
    async with open_near_edges(module_settings) as opened:
        yield opened


KINDS = [
    "timeline",
    "recent",
    "follower_ids",
    "viewer",
    "pulled",
    "marks",
    "fence",
    "tweet",
]


@pytest.mark.parametrize("kind", KINDS)
async def test_edge_case_20_eviction_of_any_kind_of_key_leaves_no_half_truth(
    world: World, kind: str
):
    people = await world.accounts.insert(5)
    normal, influencer, star, joined, reader = people
    for followee in (normal, influencer, star):
        await world.follow(reader, followee)
    await set_tier(world, influencer, tier=2)
    await set_tier(world, star, tier=3)
    tweets = await post_each(world, people, 2)
    await world.like(reader, tweets[5])
    await world.drain()
    await assert_right(world, *people)
    evicted: list[bytes] = await cast(Any, world.cache.keys(f"{kind}:*"))
    assert evicted

    await world.cache.delete(*evicted)
    # Each kind of change, none of which finds all that it would tell.
    await post_each(world, people)
    await world.delete(normal, tweets[0])
    await world.retweet(normal, tweets[1])
    await world.follow(reader, joined)
    await set_tier(world, influencer, tier=3)
    await post_each(world, people)
    await world.like(reader, tweets[5], undo=True)
    await world.like(reader, tweets[6])
    page = await ids_of(world, reader)
    assert page == sorted(set(page), reverse=True)
    await world.drain()

    await assert_right(world, *people)
    liked = {tweet.id for tweet in (await world.home_page(reader)).tweets if tweet.liked}
    assert liked == {tweets[6]}
    await post_each(world, people)
    await world.drain()
    await assert_right(world, *people)
    await assert_contiguous(world, reader)


async def test_edge_case_20_rebuild_whose_mark_was_lost_stores_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    author, reader = await world.accounts.insert(2)
    await world.follow(reader, author)
    await post_each(world, [author], 2)
    await world.drain()
    fetch_home = candidates.fetch_home

    async def loses_the_cache(*arguments: Any, **rest: Any) -> Any:
        window = await fetch_home(*arguments, **rest)
        await world.cache.flushall()
        await world.post(author)
        await step(world)
        return window

    with monkeypatch.context() as patched:
        patched.setattr(candidates, "fetch_home", loses_the_cache)
        await ids_of(world, reader)

    assert await elements(world, reader) == [], "a window without the newest entry stands"
    await assert_right(world, reader)


async def test_edge_case_20_windows_of_a_replica_that_lagged_are_mended_by_fanning_out_again(
    world: World,
):
    normal, star, reader = people = await world.accounts.insert(3)
    for followee in (normal, star):
        await world.follow(reader, followee)
    await set_tier(world, star, tier=3)
    tweets = await post_each(world, people, 2)
    await world.drain()
    await assert_right(world, *people)
    windows = [keys(world).window(WindowKind.TIMELINE, person.id) for person in people]
    windows.append(keys(world).window(WindowKind.RECENT, star.id))
    old: dict[str, Any] = {key: await world.cache.dump(key) for key in windows}
    await world.delete(normal, tweets[0])
    tweets += await post_each(world, people, LENGTH)
    await world.drain()
    await assert_right(world, *people)

    for key, content in old.items():
        await world.cache.restore(key, 0, content, replace=True)
    assert await ids_of(world, reader, limit=3) != (await world.oracle(reader))[:3]
    await world.rewind()
    await world.drain()

    await assert_right(world, *people)
    await assert_contiguous(world, reader)


@pytest.mark.parametrize("change", ["mute", "block", "unfollow"])
async def test_edge_case_20_change_whose_drop_was_lost_is_purged_within_two_seconds(
    world: World, monkeypatch: pytest.MonkeyPatch, change: str
):
    """The server died between its commit and the drop, or the cache was away just then."""
    target, other, reader = await world.accounts.insert(3)
    for followee in (target, other):
        await world.follow(reader, followee)
    tweets = await post_each(world, [target, other])
    await world.retweet(other, tweets[0])
    await world.drain()
    await assert_right(world, reader)

    async def lost(*_: Any) -> int:
        raise redis.exceptions.ConnectionError("away")

    calls: dict[str, Awaitable[None]] = {
        "mute": world.mute(reader, target),
        "block": world.block(target, reader),
        "unfollow": world.unfollow(reader, target),
    }
    with monkeypatch.context() as patched:
        patched.setattr(redis.asyncio.Redis, "delete", lost)
        await calls.pop(change)
    for unused in calls.values():
        cast(Any, unused).close()
    for feed in world.feeds:
        await feed.poll()

    page = await ids_of(world, reader)

    assert page == (await world.oracle(reader))
    assert tweets[0] not in page
    await world.drain()
    await assert_right(world, reader)

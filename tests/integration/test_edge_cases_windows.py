"""Edge cases 4, 11 and 12: windows are contiguous or absent, and are rebuilt while people read."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio

from domain.ids import UserId
from mesh.settings import Settings
from storage import candidates
from storage.timelines import TimelineStore, WindowKind
from tests.edges import (
    LENGTH,
    PULL,
    PUSH_ACTIVE,
    assert_contiguous,
    assert_right,
    elements,
    held_ids,
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


@dataclass
class Snapshots:
    """Rebuilds of one viewer's window stop behind their snapshot until they may go on."""

    viewer: UserId
    read: int = 0
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)

    async def until_reached(self) -> None:
        await asyncio.wait_for(self.reached.wait(), 10)


def stop_rebuilds(monkeypatch: pytest.MonkeyPatch, viewer: Account) -> Snapshots:
    snapshots = Snapshots(viewer.id)
    fetch_home = candidates.fetch_home

    async def stopping(pool: Any, viewer: Any, **rest: Any) -> Any:
        window = await fetch_home(pool, viewer, **rest)
        if viewer.id == snapshots.viewer and not rest["pulled"]:
            snapshots.read += 1
            snapshots.reached.set()
            await asyncio.wait_for(snapshots.go_on.wait(), 10)
        return window

    monkeypatch.setattr(candidates, "fetch_home", stopping)
    return snapshots


async def test_edge_case_04_push_to_an_absent_window_makes_no_window_of_one(world: World):
    author, reader = await world.accounts.insert(2)
    await world.follow(reader, author)
    await post_each(world, [author], LENGTH + 2)
    await world.drain()
    assert await elements(world, reader) == []

    for _ in range(2):
        await world.post(author)
        await world.drain()
        assert await elements(world, reader) == [], "a push made a window that lacks the rest"
    await assert_right(world, reader)
    await assert_contiguous(world, reader)


@pytest.mark.parametrize("pushed", [1, LENGTH, 3 * LENGTH])
async def test_edge_case_04_rebuild_loses_nothing_that_is_pushed_after_its_snapshot(
    world: World, monkeypatch: pytest.MonkeyPatch, pushed: int
):
    author, reader = await world.accounts.insert(2)
    await world.follow(reader, author)
    before = await post_each(world, [author], 3)
    await world.drain()
    snapshots = stop_rebuilds(monkeypatch, reader)
    reading = asyncio.create_task(world.home(reader))
    await snapshots.until_reached()

    meanwhile = await post_each(world, [author], pushed)
    await world.drain()
    snapshots.go_on.set()

    assert await reading == before[::-1], "what was read stands for the time of its snapshot"
    held = await held_ids(world, reader)
    assert held is not None, "the rebuild stored nothing"
    assert held[: len(meanwhile)] == meanwhile[::-1][: len(held)]
    await assert_contiguous(world, reader)
    await assert_right(world, reader)


async def test_edge_case_04_rebuild_does_not_bring_back_what_was_deleted_after_its_snapshot(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    author, reader = await world.accounts.insert(2)
    await world.follow(reader, author)
    tweets = await post_each(world, [author], 3)
    await world.drain()
    snapshots = stop_rebuilds(monkeypatch, reader)
    reading = asyncio.create_task(world.home(reader))
    await snapshots.until_reached()

    await world.delete(author, tweets[1])
    await world.drain()
    snapshots.go_on.set()

    assert await reading == [tweets[2], tweets[0]], "deleted before the answer, and shown"
    await assert_right(world, reader)
    assert await held_ids(world, reader) == [tweets[2], tweets[0]]


async def test_edge_case_04_rebuild_for_relations_that_changed_is_thrown_away(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    author, other, reader = await world.accounts.insert(3)
    await world.follow(reader, author)
    await post_each(world, [author, other], 3)
    await world.drain()
    snapshots = stop_rebuilds(monkeypatch, reader)
    reading = asyncio.create_task(world.home(reader))
    await snapshots.until_reached()

    await world.follow(reader, other)
    snapshots.go_on.set()
    await reading

    # Not drained: the answer of the follow is enough.
    (home,) = await assert_right(world, reader)
    assert len(home) == 6
    await assert_contiguous(world, reader)


async def test_edge_case_11_follow_fills_the_window_with_the_newest_of_both(world: World):
    author, joined, reader = await world.accounts.insert(3)
    base = 1_000_000 * reader.id
    await world.follow(reader, author)
    await insert_tweets(world, author, range(base + 100, base + 200, 10))
    await world.drain()
    await assert_right(world, reader)
    assert min(await held_ids(world, reader) or ()) == base + 130
    # Older than the window's oldest, between its entries, and newer.
    await insert_tweets(world, joined, range(base + 1, base + 51))
    await insert_tweets(world, joined, range(base + 156, base + 220, 15))

    await world.follow(reader, joined)

    await assert_right(world, reader)
    held = await held_ids(world, reader)
    assert held == [base + n for n in (216, 201, 190, 186, 180, 171, 170)]
    await assert_contiguous(world, reader)
    await world.drain()
    await assert_right(world, reader)


async def test_edge_case_11_follow_of_a_pulled_author_fills_nothing_into_the_window(world: World):
    author, star, reader = await world.accounts.insert(3)
    await world.follow(reader, author)
    await set_tier(world, star, tier=3)
    own = await post_each(world, [author], 3)
    pulled = await post_each(world, [star], 3)
    await set_tier(world, star, tier=2)
    pushed = await post_each(world, [star], 2)
    await world.drain()
    await assert_right(world, reader)

    await world.follow(reader, star)
    await world.drain()

    (home,) = await assert_right(world, reader)
    assert home == [*pushed[::-1], *pulled[::-1], *own[::-1]]
    assert await held_ids(world, reader) == [*pushed[::-1], *own[::-1]]
    deliveries = await world.accounts.rows(
        "SELECT delivery FROM tweets WHERE author_id = %s ORDER BY id", star.id
    )
    assert [way for (way,) in deliveries] == [PULL] * 3 + [PUSH_ACTIVE] * 2


async def test_edge_case_12_cold_timeline_is_rebuilt_once_for_all_who_read(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    author, reader = await world.accounts.insert(2)
    await world.follow(reader, author)
    await post_each(world, [author], 3)
    await world.drain()
    expected = await world.oracle(reader)
    snapshots = stop_rebuilds(monkeypatch, reader)

    readers = [asyncio.create_task(world.home(reader)) for _ in range(30)]
    await snapshots.until_reached()
    # All of them are there: a later one waits for what runs.
    late = asyncio.create_task(world.home(reader))
    for _ in range(20):
        await world.home(author)
    snapshots.go_on.set()

    assert await asyncio.gather(*readers, late) == [expected] * 31
    assert snapshots.read == 1
    assert await world.home(reader) == expected
    assert snapshots.read == 1, "the rebuild was for nothing"


async def test_edge_case_12_the_database_answers_with_the_same_filters_while_another_rebuilds(
    world: World,
):
    """Somebody else's rebuild, in another process, takes its time."""
    author, friend, muted, stranger, star, reader = await world.accounts.insert(6)
    for followee in (author, friend, muted, star):
        await world.follow(reader, followee)
    await set_tier(world, star, tier=3)
    tweets = await post_each(world, [author, friend, muted, stranger, star, reader], 2)
    for parent in tweets[6:]:
        await world.post(author, reply_to=parent)
        await world.post(star, reply_to=parent)
        await world.retweet(friend, parent)
    await world.mute(reader, muted)
    await world.delete(author, tweets[6])
    await world.drain()
    store = TimelineStore(world.cache, world.settings)
    mark = await store.begin_rebuild(WindowKind.TIMELINE, reader.id)
    assert mark is not None

    (home,) = await assert_right(world, reader)
    assert len(home) > LENGTH
    pages = await asyncio.gather(*(world.home_page(reader, limit=5) for _ in range(10)))
    assert [[tweet.id for tweet in page.tweets] for page in pages] == [home[:5]] * 10
    assert (await elements(world, reader))[0] == mark, "who rebuilds was overtaken"


async def test_edge_case_12_return_after_the_cache_was_lost_is_never_empty_or_partial(
    world: World,
):
    people = await world.accounts.insert(4)
    for follower in people:
        for followee in people:
            if follower != followee:
                await world.follow(follower, followee)
    await set_tier(world, people[0], tier=3)
    await set_tier(world, people[1], tier=2)
    await post_each(world, people, LENGTH)
    await world.drain()
    expected = await assert_right(world, *people)
    first_pages = [home[:9] for home in expected]

    for _ in range(5):
        reading = [
            asyncio.create_task(world.home_page(person, limit=9)) for person in people for _ in "ab"
        ]
        await world.cache.flushall()
        pages = [[tweet.id for tweet in page.tweets] for page in await asyncio.gather(*reading)]
        assert pages == [page for page in first_pages for _ in "ab"]

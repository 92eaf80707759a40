"""TimelineService through real servers, workers stepped by hand."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio
from chirp.v1 import timeline_pb2, user_pb2

from domain.ids import UserId
from domain.timeline import Window
from mesh.settings import Settings
from storage import candidates
from storage.timelines import MARK_LIFETIME_S, TimelineStore, WindowKind
from tests.integration.accounts import Account
from tests.world import World, open_world

LENGTH = 6
PROMISED_S = 2.0


@pytest_asyncio.fixture
async def world(settings: Settings) -> AsyncGenerator[World]:
    """Windows so short that most of a timeline lies past them."""
    async with open_world(settings.model_copy(update={"timeline_length": LENGTH})) as opened:
        yield opened


async def until(condition: Callable[[], Awaitable[bool]], within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while not await condition():
        assert time.monotonic() < deadline, f"not so within {within_s} s"
        await asyncio.sleep(0.01)


async def insert_tweets(world: World, author: Account, ids: range, **columns: Any) -> None:
    """Tweets of long ago, as a bulk load would leave them."""
    names = "".join(f", {name}" for name in columns)
    values = ", %s" * len(columns)
    async with world.pool.connection() as connection:
        await connection.execute(
            "INSERT INTO tweets (id, author_id, content, conversation_id, delivery, created_at"
            f"{names}) SELECT n, %s, 'old', n, 1, now(){values}"
            " FROM generate_series(%s::bigint, %s, %s) AS n".encode(),
            (author.id, *columns.values(), ids.start, ids.stop - 1, ids.step),
        )


async def count_newer(world: World, viewer: Account, since_id: int) -> int:
    request = timeline_pb2.CountNewerRequest(since_id=since_id)
    return (await world.timelines.CountNewer(request, metadata=viewer.metadata)).count


async def user_timeline(world: World, user: int, *, limit: int) -> list[int]:
    ids: list[int] = []
    cursor = ""
    while True:
        page = await world.timelines.GetUserTimeline(
            timeline_pb2.GetUserTimelineRequest(id=user, limit=limit, cursor=cursor)
        )
        ids += [tweet.id for tweet in page.tweets]
        assert page.has_more == bool(page.next_cursor)
        assert len(page.tweets) == limit or not page.has_more
        if not page.has_more:
            return ids
        cursor = page.next_cursor


async def test_cursors_go_on_past_the_end_of_the_window(world: World):
    author, reader = await world.accounts.insert(2)
    await world.follow(reader, author)
    await insert_tweets(world, author, range(1, 200))
    expected = await world.oracle(reader)
    assert len(expected) == 199

    for limit in (1, 5, 7, 100):
        # The second time the window is there.
        assert await world.home(reader, limit=limit) == expected
    assert await world.home(author, limit=50) == expected


async def test_saved_cursor_still_works_when_everything_around_it_changed(world: World):
    author, reader = await world.accounts.insert(2)
    await world.follow(reader, author)
    await insert_tweets(world, author, range(1, 40))
    page = await world.home_page(reader, limit=3)
    below = page.tweets[-1].id
    for _ in range(LENGTH * 2):
        await world.post(author)
    await world.drain()

    for _ in range(2):
        later = await world.home_page(reader, limit=3, cursor=page.next_cursor)
        assert [tweet.id for tweet in later.tweets] == [below - 1, below - 2, below - 3]
        await world.cache.flushall()


async def test_since_id_and_cursor_cut_both_ends(world: World):
    author, reader = await world.accounts.insert(2)
    await world.follow(reader, author)
    await insert_tweets(world, author, range(1, 30))
    cursor = (await world.home_page(reader, limit=2)).next_cursor

    assert await world.home(reader, limit=4, since_id=5) == list(range(29, 5, -1))
    page = await world.home_page(reader, limit=100, cursor=cursor, since_id=20)
    assert ([tweet.id for tweet in page.tweets], page.has_more) == (list(range(27, 20, -1)), False)
    page = await world.home_page(reader, limit=7, cursor=cursor, since_id=20)
    assert (len(page.tweets), page.has_more, page.next_cursor) == (7, False, "")
    assert not (await world.home_page(reader, cursor=cursor, since_id=28)).tweets


async def test_count_newer_counts_to_eight_hundred(world: World):
    author, reader = await world.accounts.insert(2)
    await world.follow(reader, author)
    await insert_tweets(world, author, range(1, 811))

    counts = [await count_newer(world, reader, since) for since in (1, 9, 10, 11, 809, 810, 2**62)]

    assert counts == [800, 800, 800, 799, 1, 0, 0]


async def test_entries_that_are_filtered_do_not_end_a_timeline(world: World):
    author, stranger, reader = await world.accounts.insert(3)
    await world.follow(reader, author)
    await insert_tweets(world, author, range(1, 11))
    hidden = {"reply_to": 1, "replied_author_id": stranger.id}
    await insert_tweets(world, author, range(100, 600), **hidden)
    await insert_tweets(world, author, range(1_000, 1_003))

    expected = [1_002, 1_001, 1_000, *range(10, 0, -1)]
    assert await world.oracle(reader) == expected
    for _ in range(2):
        assert await world.home(reader, limit=4) == expected
    assert await count_newer(world, reader, 5) == 8


async def test_reply_shows_where_the_one_replied_to_is_followed(world: World):
    author, friend, stranger, reader = await world.accounts.insert(4)
    for followee in (author, friend):
        await world.follow(reader, followee)
    to_friend = await world.post(author, reply_to=(await world.post(friend)).id)
    await world.post(author, reply_to=(await world.post(stranger)).id)
    to_reader = await world.post(author, reply_to=(await world.post(reader)).id)
    await world.drain()

    home = await world.home(reader)

    assert home == await world.oracle(reader)
    assert {to_friend.id, to_reader.id} < set(home)
    assert len(home) == 4


async def test_user_timeline_holds_everything_that_is_not_deleted(world: World):
    author, other = await world.accounts.insert(2)
    own = [(await world.post(author, str(n))).id for n in range(8)]
    reply = await world.post(author, reply_to=(await world.post(other)).id)
    await world.delete(author, own[2])

    expected = [reply.id, *(i for i in reversed(own) if i != own[2])]
    for limit in (1, 3, 4, 8, 100):
        assert await user_timeline(world, author.id, limit=limit) == expected
    (nobody,) = await world.accounts.insert(1)
    assert await user_timeline(world, nobody.id, limit=5) == []


async def test_follow_and_unfollow_show_at_the_next_read(world: World):
    author, reader = await world.accounts.insert(2)
    tweet = await world.post(author)
    await world.drain()
    assert await world.home(reader) == []

    # Nothing is drained here: the answer of the follow is enough.
    await world.follow(reader, author)
    assert await world.home(reader) == [tweet.id]
    await world.unfollow(reader, author)
    assert await world.home(reader) == []
    await world.follow(reader, author)
    assert await world.home(reader) == [tweet.id]


async def test_lost_cache_is_rebuilt_once_for_all_who_wait(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    author, reader = await world.accounts.insert(2)
    await world.follow(reader, author)
    await insert_tweets(world, author, range(1, LENGTH))
    expected = await world.home(reader)
    asked: list[UserId] = []
    fetch_home = candidates.fetch_home

    async def counted(pool: Any, viewer: Any, **rest: Any) -> Any:
        asked.append(viewer.id)
        return await fetch_home(pool, viewer, **rest)

    monkeypatch.setattr(candidates, "fetch_home", counted)
    await world.cache.flushall()

    assert await asyncio.gather(*(world.home(reader) for _ in range(20))) == [expected] * 20
    assert 1 <= len(asked) < 5
    asked.clear()
    assert await world.home(reader) == expected
    assert asked == []


async def test_read_does_not_lengthen_the_life_of_a_rebuild_that_died(world: World):
    author, reader = await world.accounts.insert(2)
    await world.follow(reader, author)
    tweet = await world.post(author)
    store = TimelineStore(world.cache, world.settings)
    assert await store.begin_rebuild(WindowKind.TIMELINE, reader.id) is not None

    for _ in range(2):
        assert await world.home(reader) == [tweet.id]

    key = store.keys.window(WindowKind.TIMELINE, reader.id)
    assert 0 < await world.cache.ttl(key) <= MARK_LIFETIME_S


async def test_read_keeps_a_timeline_materialised(world: World):
    (reader,) = await world.accounts.insert(1)
    store = TimelineStore(world.cache, world.settings)
    key = store.keys.window(WindowKind.TIMELINE, reader.id)
    mark = await store.begin_rebuild(WindowKind.TIMELINE, reader.id)
    assert mark is not None
    await store.commit_rebuild(
        WindowKind.TIMELINE, reader.id, mark, Window([], 0)
    )  # fmt: skip
    await world.cache.expire(key, 60)

    await world.home(reader)

    assert await world.cache.ttl(key) > 86_400


async def test_deleted_tweet_vanishes_within_two_seconds_from_a_warm_cache(world: World):
    author, reader = await world.accounts.insert(2)
    await world.follow(reader, author)
    kept, gone = await world.post(author, "kept"), await world.post(author, "gone")
    await world.drain()
    for _ in range(3):
        assert await world.home(reader) == [gone.id, kept.id]

    # Fan-out stands still: only the feed tells.
    await world.delete(author, gone.id)

    assert await user_timeline(world, author.id, limit=5) == [kept.id]
    assert await world.home(author) == [kept.id]

    async def vanished() -> bool:
        return await world.home(reader) == [kept.id]

    await until(vanished, PROMISED_S)
    assert await world.home(reader, limit=1) == [kept.id]
    assert await count_newer(world, reader, kept.id) == 0


async def test_counts_are_new_within_two_seconds(world: World):
    author, reader = await world.accounts.insert(2)
    await world.follow(reader, author)
    tweet = await world.post(author)
    assert (await world.home_page(reader)).tweets[0].reply_count == 0

    await world.post(reader, reply_to=tweet.id)

    async def counted() -> bool:
        return (await world.home_page(reader)).tweets[-1].reply_count == 1

    await until(counted, PROMISED_S)


async def test_renamed_author_shows_within_two_seconds(world: World):
    author, reader = await world.accounts.insert(2)
    await world.follow(reader, author)
    tweet = await world.post(author)
    before = (await world.home_page(reader)).tweets[0].author
    assert before.display_name == author.username

    async with world.pool.connection() as connection:
        await connection.execute(
            "INSERT INTO sessions (id, user_id, expires_at)"
            " SELECT id - 1000000, id, now() + interval '1 hour' FROM users"
            " ON CONFLICT DO NOTHING"
        )
    await world.accounts.users.UpdateMe(
        user_pb2.UpdateMeRequest(display_name="Renamed"), metadata=author.metadata
    )

    async def renamed() -> bool:
        names = {
            (await world.home_page(reader)).tweets[0].author.display_name,
            (await world.home_page(author)).tweets[0].author.display_name,
        }
        return names == {"Renamed"}

    await until(renamed, PROMISED_S)
    assert await world.home(reader) == [tweet.id]


@pytest.mark.parametrize(("celebrity", "way"), [(50, 3), (2, 2)])
async def test_author_crosses_the_line_up_and_down_and_nothing_is_lost(
    settings: Settings, celebrity: int, way: int
):
    crossing = settings.model_copy(
        update={
            "timeline_length": LENGTH, "influencer_followers": 2, "celebrity_followers": celebrity
        }
    )  # fmt: skip
    async with open_world(crossing) as world:
        author, reader, fan = await world.accounts.insert(3)
        await world.follow(reader, author)
        await world.drain()
        posted: list[int] = []

        async def post_and_check(deliveries: list[int]) -> None:
            for _ in range(2):
                posted.insert(0, (await world.post(author)).id)
                assert await world.home(author, limit=3) == posted, "own writes"
            await world.drain()
            for viewer in (reader, fan):
                expected = await world.oracle(viewer)
                for _ in range(2):
                    assert await world.home(viewer, limit=3) == expected
            assert await world.home(reader, limit=3) == posted
            ways = await world.accounts.rows("SELECT DISTINCT delivery FROM tweets ORDER BY 1")
            assert [stamped for (stamped,) in ways] == deliveries

        await post_and_check([1])
        await world.follow(fan, author)
        await post_and_check([1, way])
        await world.unfollow(fan, author)
        await post_and_check([1, way])
        await world.follow(fan, author)
        await post_and_check([1, way])
        await world.delete(author, posted.pop(3))
        await world.delete(author, posted.pop(0))
        await post_and_check([1, way])
        await world.cache.flushall()
        await post_and_check([1, way])

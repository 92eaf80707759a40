"""Windows in a real Valkey, one thing at a time; property/test_windows_model.py mixes them."""

from collections.abc import AsyncGenerator, Sequence

import numpy as np
import pytest
import pytest_asyncio

from domain.ids import TweetId, UserId
from domain.timeline import NO_TWEET, NOBODY, Entry, Window
from mesh.settings import Settings
from storage import timelines, valkey, valkey_cluster, windows
from storage.followers import Change, FencedOut, FollowerStore
from storage.gathering import Ids
from storage.timelines import TimelineStore, WindowKind
from storage.valkey import Valkey
from storage.valkey_connection import HotConnection
from storage.windows import COMPLETE, encode

VIEWER = UserId(500)
AUTHOR, OTHER_AUTHOR = UserId(1), UserId(2)
HOME = WindowKind.TIMELINE


def entry(tweet: int, author: UserId = AUTHOR) -> Entry:
    return (TweetId(tweet), author, NO_TWEET, NOBODY)


@pytest.fixture
def settings(backing: Settings) -> Settings:
    """No database of its own: these tests need only the cache."""
    return backing


@pytest_asyncio.fixture
async def cache(settings: Settings) -> AsyncGenerator[Valkey]:
    async with valkey.connect(settings.valkey_url, settings) as opened:
        await opened.flushall()
        yield opened


@pytest_asyncio.fixture
async def hot(settings: Settings) -> AsyncGenerator[HotConnection]:
    async with valkey_cluster.open_hot(settings.valkey_url, settings.valkey_timeout_s) as opened:
        yield opened


@pytest.fixture
def store(cache: Valkey, settings: Settings) -> TimelineStore:
    return TimelineStore(cache, settings)


@pytest.fixture
def short(cache: Valkey, settings: Settings) -> TimelineStore:
    return TimelineStore(cache, settings.model_copy(update={"timeline_length": 3}))


async def elements(cache: Valkey, store: TimelineStore, user: UserId = VIEWER) -> list[bytes]:
    return await cache.lrange(store.keys.window(HOME, user), 0, -1)  # pyright: ignore


async def held(cache: Valkey, store: TimelineStore) -> Window | None:
    return windows.decode(await elements(cache, store))


async def build(store: TimelineStore, snapshot: Window, user: UserId = VIEWER) -> None:
    mark = await store.begin_rebuild(HOME, user)
    assert mark is not None
    assert await store.commit_rebuild(HOME, user, mark, snapshot)


def window(*tweets: int, floor: int = 0) -> Window:
    return Window([entry(tweet) for tweet in tweets], floor)


async def test_push_to_an_absent_window_does_nothing(cache: Valkey, store: TimelineStore):
    await store.push_own(VIEWER, entry(1))

    assert await elements(cache, store) == []


async def test_empty_window_is_not_an_absent_one(cache: Valkey, store: TimelineStore):
    await build(store, Window([], 0))

    assert await elements(cache, store) == [COMPLETE]
    assert await held(cache, store) == Window([], 0)

    await store.push_own(VIEWER, entry(1))

    assert await held(cache, store) == window(1)


async def test_late_and_repeated_pushes_stand_once_in_their_place(
    cache: Valkey, store: TimelineStore
):
    await build(store, window(5, 3))

    for tweet in (9, 4, 9, 4, 5, 1, 3, 1):
        await store.push_own(VIEWER, entry(tweet))

    assert await held(cache, store) == window(9, 5, 4, 3, 1)


async def test_late_push_finds_its_place_deep_in_a_long_window(cache: Valkey, store: TimelineStore):
    await build(store, window(*range(1_400, 0, -2)))

    for tweet in (1_399, 701, 1, 3):
        await store.push_own(VIEWER, entry(tweet))

    expected = sorted({*range(2, 1_401, 2), 1_399, 701, 1, 3}, reverse=True)
    assert await held(cache, store) == window(*expected)


async def test_ids_beyond_32_and_53_bits_are_ordered_as_numbers(
    cache: Valkey, store: TimelineStore
):
    tweets = [2**62, 2**62 + 1, 2**53, 2**53 + 1, 2**32, 2**32 - 1, 2**31, 0x80, 0x7F, 255, 256]
    await build(store, Window([], 0))

    for tweet in tweets:
        await store.push_own(VIEWER, entry(tweet))

    assert await held(cache, store) == window(*sorted(tweets, reverse=True))


async def test_push_below_the_floor_is_ignored(cache: Valkey, store: TimelineStore):
    await build(store, window(9, 8, floor=8))

    await store.push_own(VIEWER, entry(7))

    assert await held(cache, store) == window(9, 8, floor=8)


async def test_window_that_is_too_long_loses_its_end_and_says_so(
    cache: Valkey, short: TimelineStore
):
    await build(short, window(1))

    for tweet in (2, 3, 4):
        await short.push_own(VIEWER, entry(tweet))

    assert await held(cache, short) == window(4, 3, 2, floor=2)


async def test_removing_an_entry_leaves_the_rest(cache: Valkey, store: TimelineStore):
    await build(store, window(3, 2, 1))

    for _ in range(2):
        await store.remove_own(VIEWER, entry(2))

    assert await held(cache, store) == window(3, 1)


async def test_removing_the_last_entry_of_a_cut_window_makes_it_absent(
    cache: Valkey, store: TimelineStore
):
    await build(store, window(3, floor=3))

    await store.remove_own(VIEWER, entry(3))

    assert await held(cache, store) is None


# Rebuilding


async def test_window_being_rebuilt_is_not_read(cache: Valkey, store: TimelineStore):
    await store.begin_rebuild(HOME, VIEWER)
    await store.push_own(VIEWER, entry(1))

    assert await held(cache, store) is None


async def test_only_one_rebuilds_and_a_mark_does_not_last(cache: Valkey, store: TimelineStore):
    assert await store.begin_rebuild(HOME, VIEWER) is not None

    assert await store.begin_rebuild(HOME, VIEWER) is None

    key = store.keys.window(HOME, VIEWER)
    await store.push_own(VIEWER, entry(1))
    assert 0 < await cache.ttl(key) <= timelines.MARK_LIFETIME_S


async def test_built_window_is_not_rebuilt(store: TimelineStore):
    await build(store, Window([], 0))

    assert await store.begin_rebuild(HOME, VIEWER) is None


async def test_built_window_lives_as_long_as_the_setting_says(
    cache: Valkey, store: TimelineStore, settings: Settings
):
    await build(store, window(1))

    keep_s = settings.timeline_keep_days * 86_400
    assert keep_s - 10 < await cache.ttl(store.keys.window(HOME, VIEWER)) <= keep_s


async def test_what_is_pushed_during_a_rebuild_is_not_lost(cache: Valkey, store: TimelineStore):
    mark = await store.begin_rebuild(HOME, VIEWER)
    assert mark is not None
    for tweet in (8, 3, 9, 5, 9):
        await store.push_own(VIEWER, entry(tweet))

    assert await store.commit_rebuild(HOME, VIEWER, mark, window(6, 5, 4))

    assert await held(cache, store) == window(9, 8, 6, 5, 4, 3)


async def test_what_lies_below_a_cut_snapshot_stays_out(cache: Valkey, short: TimelineStore):
    mark = await short.begin_rebuild(HOME, VIEWER)
    assert mark is not None
    await short.push_own(VIEWER, entry(1))

    assert await short.commit_rebuild(HOME, VIEWER, mark, window(6, 5, 4, floor=4))

    assert await held(cache, short) == window(6, 5, 4, floor=4)


async def test_more_than_a_window_pushed_during_a_rebuild_leaves_no_hole(
    cache: Valkey, short: TimelineStore
):
    mark = await short.begin_rebuild(HOME, VIEWER)
    assert mark is not None
    for tweet in (10, 11, 12, 13, 14, 9):
        await short.push_own(VIEWER, entry(tweet))

    assert await short.commit_rebuild(HOME, VIEWER, mark, window(5, 4, 3, floor=3))

    assert await held(cache, short) == window(14, 13, 12, floor=12)


@pytest.mark.parametrize("count", range(3, 9))
async def test_pushes_that_fill_an_empty_window_being_rebuilt_do_not_claim_completeness(
    cache: Valkey, short: TimelineStore, count: int
):
    mark = await short.begin_rebuild(HOME, VIEWER)
    assert mark is not None
    for tweet in range(1, count + 1):
        await short.push_own(VIEWER, entry(tweet))

    assert await short.commit_rebuild(HOME, VIEWER, mark, Window([], 0))

    floor = count - 2 if count > 3 else 0
    assert await held(cache, short) == window(count, count - 1, count - 2, floor=floor)


async def test_drop_ends_a_rebuild(cache: Valkey, store: TimelineStore):
    mark = await store.begin_rebuild(HOME, VIEWER)
    assert mark is not None

    await store.drop(VIEWER)

    assert not await store.commit_rebuild(HOME, VIEWER, mark, window(1))
    assert await elements(cache, store) == []


async def test_rebuild_that_was_overtaken_stores_nothing(cache: Valkey, store: TimelineStore):
    slow = await store.begin_rebuild(HOME, VIEWER)
    await store.drop(VIEWER)
    fast = await store.begin_rebuild(HOME, VIEWER)
    assert slow is not None
    assert fast is not None

    assert not await store.commit_rebuild(HOME, VIEWER, slow, window(1))
    assert await store.commit_rebuild(HOME, VIEWER, fast, window(2))
    assert not await store.commit_rebuild(HOME, VIEWER, slow, window(1))

    assert await held(cache, store) == window(2)


async def test_deletion_during_a_rebuild_starts_it_over(cache: Valkey, store: TimelineStore):
    mark = await store.begin_rebuild(HOME, VIEWER)
    assert mark is not None

    await store.remove_own(VIEWER, entry(1))

    assert not await store.commit_rebuild(HOME, VIEWER, mark, window(2, 1))
    assert await elements(cache, store) == []


async def test_rebuild_with_relations_that_changed_is_not_begun(
    cache: Valkey, store: TimelineStore
):
    token = await store.ensure_token(store.keys.viewer(VIEWER))
    await store.drop(VIEWER)

    assert await store.begin_rebuild(HOME, VIEWER, viewer_token=token) is None
    assert await elements(cache, store) == []

    token = await store.ensure_token(store.keys.viewer(VIEWER))
    assert await store.ensure_token(store.keys.viewer(VIEWER)) == token
    assert await store.begin_rebuild(HOME, VIEWER, viewer_token=token) is not None


async def test_pulled_token_is_dropped_in_every_shard(cache: Valkey, store: TimelineStore):
    keys = [store.keys.pulled(shard) for shard in range(store.keys.shards)]
    for key in keys:
        await store.ensure_token(key)

    await store.drop_pulled_token()

    assert await cache.exists(*keys) == 0


async def test_functions_are_loaded_again_after_a_restart(cache: Valkey, store: TimelineStore):
    await build(store, window(1))
    await cache.function_flush()

    await store.push_own(VIEWER, entry(2))

    assert await held(cache, store) == window(2, 1)


@pytest.mark.parametrize("op", ["push", "remove", "follow", "timeline", "recent"])
async def test_owner_that_was_replaced_changes_nothing(
    hot: HotConnection, cache: Valkey, store: TimelineStore, settings: Settings, op: str
):
    followers = FollowerStore(hot, cache, settings)
    await build(store, window(1))
    before = await elements(cache, store)
    shard = int(store.keys.tag(VIEWER).strip("{s}"))

    async def apply(fence: int, changes: Sequence[Change]) -> None:
        async def load(_: UserId) -> Ids:
            return np.array([VIEWER], np.int64)

        await followers.apply(shard=shard, fences={3: fence}, changes=changes, load=load)

    await apply(2**41 + 1, [Change("unfollow", OTHER_AUTHOR, b"7")])

    argument = str(VIEWER).encode() if op == "follow" else encode(entry(9))
    with pytest.raises(FencedOut):
        await apply(2**41, [Change(op, AUTHOR, argument)])
    assert await elements(cache, store) == before
    assert await cache.exists(f"follower_ids:{store.keys.tag(VIEWER)}:{AUTHOR}") == 0


@pytest.mark.parametrize(
    ("stored", "decoded"),
    [
        ([], None),
        ([windows.MARK_ID + bytes(24)], None),
        ([windows.MARK_ID + bytes(24), encode(entry(1))], None),
        ([COMPLETE], Window([], 0)),
        ([encode(entry(2)), COMPLETE], window(2)),
        ([encode(entry(2)), encode(entry(1))], window(2, 1, floor=1)),
    ],
)
def test_stored_elements_are_read_as_windows(stored: list[bytes], decoded: Window | None):
    assert windows.decode(stored) == decoded

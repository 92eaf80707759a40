"""Most pushes go to the head of a window unseen: what the library remembers of heads must be true,
whatever became of the window, the memory, or the server meanwhile."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
import pytest_asyncio

from domain.ids import UserId
from domain.timeline import Window
from mesh.settings import Settings
from storage import timelines
from storage.followers import Change, FencedOut, FollowerStore
from storage.timelines import WindowKind
from storage.windows import encode
from tests.shards import CROWD, FOLLOWER, HUGE, OTHER_SMALL, SMALL, Shard, entry, open_shard, push

HOME = WindowKind.TIMELINE
HEADS, WINDOW = "heads:{s0}", f"timeline:{{s0}}:{FOLLOWER}"


@pytest_asyncio.fixture
async def shard(backing: Settings) -> AsyncGenerator[Shard]:
    async with open_shard(backing, budget=800) as opened:
        yield opened


async def commands(shard: Shard) -> dict[str, int]:
    """How often each command ran since the last look, but those of a function call itself."""
    stats: Any = await shard.cache.info("commandstats")
    await shard.cache.config_resetstat()
    return {name.removeprefix("cmdstat_"): int(stat["calls"]) for name, stat in stats.items()}


async def test_tweet_newer_than_what_is_remembered_costs_one_command_a_delivery(shard: Shard):
    await shard.materialise(*CROWD)
    await shard.apply(push(10, HUGE))
    await commands(shard)

    assert await shard.apply(push(11, HUGE)) == len(CROWD)

    seen = await commands(shard)
    assert seen["lpushx"] == len(CROWD)
    assert not {"lpush", "linsert", "lindex", "llen"} & set(seen)
    assert seen["lrange"] == 1, "the follower list, and no window"


async def test_late_and_repeated_entries_find_their_place_below_a_remembered_head(shard: Shard):
    await shard.materialise(FOLLOWER)
    order = [50, 20, 50, 30, 20, 60, 60, 10, 55, 54, 53, 52, 51, 49, 48, 47, 46, 45, 5, 5]

    for tweet in order:
        await shard.apply(push(tweet, SMALL))
    await shard.apply(*[push(tweet, SMALL) for tweet in order])

    assert await shard.timeline(FOLLOWER) == sorted(set(order), reverse=True)


async def test_ids_that_a_double_cannot_tell_apart_are_told_apart(shard: Shard):
    await shard.materialise(FOLLOWER)
    ids = [(1 << 62) + step for step in (5, 3, 9, 1, 1_025, 1_024, 9)]

    for tweet in ids:
        await shard.apply(push(tweet, SMALL))

    assert await shard.timeline(FOLLOWER) == sorted(set(ids), reverse=True)


async def test_follower_who_stands_twice_in_a_list_has_the_tweet_once(shard: Shard):
    shard.graph[SMALL] = [FOLLOWER, FOLLOWER]
    await shard.materialise(FOLLOWER)

    await shard.apply(push(10, SMALL))
    await shard.apply(push(11, SMALL))

    assert await shard.timeline(FOLLOWER) == [11, 10]


async def test_rebuild_takes_what_is_pushed_meanwhile_to_a_window_known_before(shard: Shard):
    await shard.materialise(FOLLOWER)
    await shard.apply(push(10, SMALL))
    await shard.timelines.drop(FOLLOWER)
    mark = await shard.timelines.begin_rebuild(HOME, FOLLOWER)
    assert mark is not None

    await shard.apply(push(20, SMALL))

    assert await shard.timeline(FOLLOWER) is None, "the mark must stay at the head"
    snapshot = Window([entry(30, SMALL), entry(10, SMALL)], 0)
    assert await shard.timelines.commit_rebuild(HOME, FOLLOWER, mark, snapshot)
    await shard.apply(push(25, SMALL), push(30, SMALL), push(40, SMALL))
    assert await shard.timeline(FOLLOWER) == [40, 30, 25, 20, 10]


async def test_own_tweets_are_remembered_as_heads(shard: Shard):
    await shard.materialise(FOLLOWER)
    await shard.apply(push(10, SMALL))

    await shard.timelines.push_own(FOLLOWER, entry(30, FOLLOWER))
    await shard.apply(push(20, SMALL))

    assert await shard.timeline(FOLLOWER) == [30, 20, 10]


async def test_window_that_is_gone_is_not_made_by_what_was_remembered(shard: Shard):
    await shard.materialise(FOLLOWER)
    await shard.apply(push(10, SMALL))
    await shard.cache.delete(WINDOW)

    assert await shard.apply(push(11, SMALL)) == 0

    assert not await shard.cache.exists(WINDOW)


@pytest.mark.parametrize("meanwhile", ["the name is lost", "another server wrote its name"])
async def test_memory_that_may_be_of_the_past_is_not_used(shard: Shard, meanwhile: str):
    await shard.materialise(FOLLOWER)
    await shard.apply(push(10, SMALL))
    name = await shard.cache.get(HEADS)
    # As after a fail-over and back: an entry has come that this server's library did not see.
    raw: Any = shard.cache
    await raw.lpush(WINDOW, encode(entry(20, SMALL)))
    if meanwhile == "the name is lost":
        await shard.cache.delete(HEADS)
    else:
        await shard.cache.set(HEADS, "another")

    await shard.apply(push(15, SMALL), push(20, SMALL))

    assert await shard.timeline(FOLLOWER) == [20, 15, 10]
    assert await shard.cache.get(HEADS) not in (name, b"another", None)


async def test_functions_that_are_loaded_anew_begin_with_nothing_remembered(shard: Shard):
    await shard.materialise(FOLLOWER)
    await shard.apply(push(10, SMALL))
    name = await shard.cache.get(HEADS)

    await timelines.load_functions(shard.cache)
    await shard.apply(push(9, SMALL), push(11, SMALL))

    assert await shard.timeline(FOLLOWER) == [11, 10, 9]
    assert await shard.cache.get(HEADS) != name


async def test_memory_is_bounded_and_what_it_forgets_is_looked_up(
    shard: Shard, monkeypatch: pytest.MonkeyPatch
):
    source = timelines.library_source()
    assert source.count("REMEMBERED = 32768") == 1
    small = source.replace("REMEMBERED = 32768", "REMEMBERED = 8")
    monkeypatch.setattr(timelines, "library_source", lambda: small)
    await timelines.load_functions(shard.cache)
    await shard.materialise(*CROWD)

    for tweet in (10, 30, 20, 40, 30):
        await shard.apply(push(tweet, HUGE))
    await commands(shard)
    await shard.apply(push(50, HUGE))

    seen = await commands(shard)
    assert seen.get("lpushx", 0) <= 2 * 8 < seen["lpush"]
    assert {tuple(await shard.timeline(v) or ()) for v in CROWD} == {(50, 40, 30, 20, 10)}


async def test_workers_with_different_partitions_may_come_in_any_order(shard: Shard):
    await shard.materialise(FOLLOWER, *CROWD)
    stores = [FollowerStore(shard.cache, Settings(timeline_shards=1)) for _ in range(4)]
    shard.graph.update({UserId(1 + n): [FOLLOWER, *CROWD] for n in range(4)})

    async def load(author: UserId) -> list[UserId]:
        return shard.graph[author]

    async def work(number: int) -> None:
        for tweet in range(10 + number, 400, 4):
            change = push(tweet, UserId(1 + number))
            await stores[number].apply(shard=0, fences={number: 1}, changes=[change], load=load)

    await asyncio.gather(*[work(number) for number in range(4)])

    expected = tuple(range(399, 9, -1))
    assert {tuple(await shard.timeline(v) or ()) for v in (FOLLOWER, *CROWD)} == {expected}


async def test_one_lost_partition_refuses_the_whole_call(shard: Shard):
    async def load(_: UserId) -> list[UserId]:
        return [FOLLOWER]

    async def apply(fences: dict[int, int], *changes: Change) -> int:
        return await shard.store.apply(shard=0, fences=fences, changes=changes, load=load)

    await shard.materialise(FOLLOWER)
    await apply({0: 1, 1: 5}, push(10, SMALL))

    with pytest.raises(FencedOut):
        await apply({0: 2, 1: 4}, push(11, SMALL), push(12, OTHER_SMALL))

    assert await shard.timeline(FOLLOWER) == [10]
    assert await apply({0: 1}, push(13, SMALL)) == 1, "a refused call must not raise a fence"

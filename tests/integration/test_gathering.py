"""Fan-out gathers what goes to a window before it delivers it: nothing is lost, doubled or out of
order by that, whatever becomes of what was gathered."""

from collections.abc import AsyncGenerator
from typing import Any

import pytest
import pytest_asyncio

from domain.ids import UserId
from domain.timeline import Window
from mesh.settings import Settings
from storage import followers, timelines
from storage.followers import Change
from storage.timelines import WindowKind
from storage.windows import encode
from tests.shards import CROWD, FOLLOWER, HUGE, SMALL, Shard, entry, open_shard, push, remove

AUTHORS = [UserId(number) for number in range(100, 110)]  # all followed by the crowd


@pytest_asyncio.fixture
async def shard(backing: Settings) -> AsyncGenerator[Shard]:
    async with open_shard(backing) as opened:
        yield opened


async def test_tweets_of_a_batch_for_one_window_cost_one_command(backing: Settings):
    async with open_shard(backing, budget=800) as roomy:
        await roomy.materialise(*CROWD)
        await roomy.apply(*[push(1, author) for author in AUTHORS])
        await roomy.cache.config_resetstat()

        batch = [push(10 + n, author) for n, author in enumerate(AUTHORS)]
        assert await roomy.apply(*batch) == len(AUTHORS) * len(CROWD)

        stats: Any = await roomy.cache.info("commandstats")
        assert stats["cmdstat_lpushx"]["calls"] == len(CROWD)
        expected = (*range(19, 9, -1), 1)
        assert {tuple(await roomy.timeline(v) or ()) for v in CROWD} == {expected}


async def test_batch_in_no_order_stands_in_order_and_once(shard: Shard):
    await shard.materialise(*CROWD)
    ids = [14, 11, 19, 12, 12, 18, 11, 13, 17, 16]
    batch = [push(tweet, AUTHORS[tweet % 10]) for tweet in ids]

    for _ in range(2):
        await shard.apply(*batch)

    expected = tuple(sorted(set(ids), reverse=True))
    assert {tuple(await shard.timeline(v) or ()) for v in CROWD} == {expected}


async def test_own_tweets_are_gathered_with_those_of_others(shard: Shard):
    shard.graph[SMALL] = [HUGE]
    await shard.materialise(HUGE)

    await shard.apply(push(10, SMALL), Change("timeline", HUGE, encode(entry(11, HUGE))))

    assert await shard.timeline(HUGE) == [11, 10]


async def test_what_is_taken_out_comes_behind_what_was_put_in(shard: Shard):
    await shard.materialise(FOLLOWER, *CROWD)

    await shard.apply(
        push(10, HUGE),
        push(11, SMALL),
        remove(10, HUGE),
        push(12, HUGE),
        Change("unfollow", HUGE, str(CROWD[0]).encode()),
        push(13, HUGE),
        remove(11, SMALL),
    )

    assert await shard.timeline(CROWD[0]) is None
    assert {tuple(await shard.timeline(v) or ()) for v in CROWD[1:]} == {(13, 12)}
    assert await shard.timeline(FOLLOWER) == []


async def test_gathering_that_is_lost_begins_again(shard: Shard, monkeypatch: pytest.MonkeyPatch):
    await shard.materialise(*CROWD)
    losses = iter([1, 4, 9])
    lose_at, calls = next(losses), 0

    async def lose() -> None:
        nonlocal lose_at, calls
        calls += 1
        if calls == lose_at:
            lose_at = next(losses, 0)
            await timelines.load_functions(shard.cache)

    shard.after_each_call(monkeypatch, lose)
    await shard.apply(push(10, HUGE), push(11, AUTHORS[0]))

    assert calls > 9
    assert {tuple(await shard.timeline(v) or ()) for v in CROWD} == {(11, 10)}


async def test_cache_that_loses_all_that_is_gathered_is_an_outage(
    shard: Shard, monkeypatch: pytest.MonkeyPatch
):
    await shard.materialise(*CROWD)
    shard.after_each_call(monkeypatch, lambda: timelines.load_functions(shard.cache))

    with pytest.raises(ConnectionError):
        await shard.apply(push(10, HUGE))


async def test_window_that_is_rebuilt_while_tweets_are_gathered_gets_them(
    shard: Shard, monkeypatch: pytest.MonkeyPatch
):
    await shard.materialise(*CROWD)
    await shard.apply(push(5, HUGE))
    mark: bytes | None = None
    begun = False
    viewer = CROWD[-1]

    async def rebuild() -> None:
        nonlocal mark, begun
        if not begun:
            begun = True
            await shard.timelines.drop(viewer)
            mark = await shard.timelines.begin_rebuild(WindowKind.TIMELINE, viewer)

    shard.after_each_call(monkeypatch, rebuild)
    await shard.apply(push(10, HUGE), push(11, AUTHORS[0]))
    assert mark is not None
    snapshot = Window([entry(12, HUGE), entry(5, HUGE)], 0)
    await shard.timelines.commit_rebuild(WindowKind.TIMELINE, viewer, mark, snapshot)

    assert await shard.timeline(viewer) == [12, 11, 10, 5]


@pytest.mark.parametrize("limit", [0, 1, 30, 200])
async def test_what_is_gathered_is_bounded(
    shard: Shard, monkeypatch: pytest.MonkeyPatch, limit: int
):
    monkeypatch.setattr(followers, "GATHERED_MAX", limit)
    await shard.materialise(*CROWD)

    batch = [push(10 + n, author) for n, author in enumerate(AUTHORS)]
    assert await shard.apply(*batch) == len(AUTHORS) * len(CROWD)

    assert {tuple(await shard.timeline(v) or ()) for v in CROWD} == {tuple(range(19, 9, -1))}

"""Fan-out into one shard of a real Valkey."""

from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest
import pytest_asyncio

from domain.ids import UserId
from domain.timeline import Window
from mesh.settings import Settings
from storage import follower_lists, followers
from storage.followers import Change
from storage.timelines import WindowKind
from storage.valkey_connection import Command
from storage.windows import encode
from tests.shards import (
    BUDGET,
    CROWD,
    FOLLOWER,
    HUGE,
    OTHER_SMALL,
    SMALL,
    Shard,
    entry,
    open_shard,
    push,
    remove,
)


@pytest_asyncio.fixture
async def shard(backing: Settings) -> AsyncGenerator[Shard]:
    async with open_shard(backing) as opened:
        yield opened


async def test_missing_list_is_loaded_once_and_used_again(shard: Shard):
    await shard.materialise(FOLLOWER)

    inserted = await shard.apply(push(10, SMALL), push(11, SMALL))
    inserted += await shard.apply(push(12, SMALL))

    assert inserted == 3
    assert await shard.timeline(FOLLOWER) == [12, 11, 10]
    assert shard.loaded == [SMALL]
    assert await shard.list_of(SMALL) == [FOLLOWER]


async def test_author_without_followers_is_loaded_once(shard: Shard):
    nobody_follows = UserId(9)

    assert await shard.apply(push(10, nobody_follows)) == 0
    assert await shard.apply(push(11, nobody_follows), remove(11, nobody_follows)) == 0

    assert shard.loaded == [nobody_follows]


async def test_absent_timelines_are_skipped(shard: Shard):
    await shard.materialise(CROWD[7])

    assert await shard.apply(push(10, HUGE)) == 1

    assert await shard.timeline(CROWD[7]) == [10]
    assert await shard.cache.keys("timeline:*") == [b"timeline:{s0}:1007"]


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 16, 17, 60])
async def test_every_follower_is_served_once_whatever_the_chunks(shard: Shard, count: int):
    await shard.materialise(*CROWD)
    shard.graph[HUGE] = CROWD[:count]

    assert await shard.apply(push(10, HUGE), push(11, HUGE)) == 2 * count

    for position, viewer in enumerate(CROWD):
        assert await shard.timeline(viewer) == ([11, 10] if position < count else [])


async def test_list_loaded_in_several_parts_is_whole(shard: Shard, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(follower_lists, "LOAD_PART", 7)
    await shard.materialise(*CROWD)

    assert await shard.apply(push(10, HUGE)) == len(CROWD)

    assert await shard.list_of(HUGE) == CROWD
    assert await shard.cache.keys("*making*") == []


async def test_repeated_batch_changes_nothing(shard: Shard):
    await shard.materialise(FOLLOWER, *CROWD)
    batch = [push(10, HUGE), push(11, SMALL), push(12, HUGE), remove(10, HUGE)]
    await shard.apply(*batch)
    before = {viewer: await shard.timeline(viewer) for viewer in (FOLLOWER, *CROWD)}

    # The same changes again, with the progress that a crash forgets.
    await shard.apply(push(10, HUGE), push(11, SMALL), push(12, HUGE), remove(10, HUGE))

    assert before[CROWD[0]] == [12]
    assert {viewer: await shard.timeline(viewer) for viewer in (FOLLOWER, *CROWD)} == before


async def test_changes_of_one_author_are_applied_in_order(shard: Shard):
    await shard.materialise(*CROWD)

    await shard.apply(push(10, HUGE), remove(10, HUGE), push(11, HUGE), remove(11, HUGE))
    assert {tuple(await shard.timeline(v) or ()) for v in CROWD} == {()}

    await shard.apply(*[change for n in range(20, 90) for change in (push(n, HUGE),)])
    expected = tuple(range(89, 19, -1))
    assert {tuple(await shard.timeline(v) or ()) for v in CROWD} == {expected}


@pytest.mark.parametrize(
    "ahead",
    [
        [push(10, HUGE)],
        [push(10 + n, HUGE) for n in range(100)],
        [push(10 + n, UserId(100 + n)) for n in range(5)],
        [push(10 + n, UserId(100 + n)) for n in range(100)],
    ],
    ids=["one tweet", "a hundred tweets", "five authors", "a hundred authors"],
)
async def test_small_author_does_not_wait_until_huge_ones_are_done(
    shard: Shard, monkeypatch: pytest.MonkeyPatch, ahead: list[Change]
):
    await shard.materialise(FOLLOWER, *CROWD)
    batch = [Change(c.op, c.author, c.argument) for c in ahead]
    # Their lists are there: loading them is not what this is about.
    await shard.apply(*(remove(1, author) for author in {c.author for c in ahead} | {SMALL}))

    async def look() -> tuple[bool, bool]:
        return (
            await shard.timeline(FOLLOWER) == [1_000],
            len(await shard.timeline(CROWD[-1]) or []) == len({c.argument for c in ahead}),
        )

    seen = shard.after_each_call(monkeypatch, look)
    await shard.apply(*batch, push(1_000, SMALL))

    small = next(n for n, (delivered, _) in enumerate(seen) if delivered)
    huge = next(n for n, (_, finished) in enumerate(seen) if finished)
    assert small < huge
    assert small <= 1, "it waits for those who have more followers"


async def test_a_call_tries_no_more_deliveries_than_its_budget(
    shard: Shard, monkeypatch: pytest.MonkeyPatch
):
    await shard.materialise(*CROWD)
    await shard.apply(remove(1, HUGE))

    async def look() -> int:
        return sum([len(await shard.timeline(viewer) or []) for viewer in CROWD])

    seen = shard.after_each_call(monkeypatch, look)
    await shard.apply(push(10, HUGE), push(11, HUGE))

    steps = [after - before for before, after in zip([0, *seen], seen, strict=False)]
    assert sum(steps) == 2 * len(CROWD)
    assert max(steps) <= BUDGET
    assert len(steps) <= 2 * (-(-len(CROWD) // BUDGET) + 1), "calls go out half empty"


async def test_follow_and_unfollow_take_their_place_between_the_tweets(shard: Shard):
    shard.graph[SMALL] = []
    await shard.apply(push(1, SMALL))
    await shard.materialise(FOLLOWER)

    await shard.apply(push(2, SMALL), Change("follow", SMALL, b"%d" % FOLLOWER))

    assert await shard.timeline(FOLLOWER) is None, "it must be rebuilt with the new followee"
    await shard.materialise(FOLLOWER)
    await shard.apply(push(3, SMALL))
    assert await shard.timeline(FOLLOWER) == [3]

    await shard.apply(Change("unfollow", SMALL, b"%d" % FOLLOWER), push(4, SMALL))

    assert await shard.list_of(SMALL) == []
    await shard.materialise(FOLLOWER)
    await shard.apply(push(5, SMALL))
    assert await shard.timeline(FOLLOWER) == []


async def test_follow_in_the_middle_of_a_large_push_waits_for_it(shard: Shard):
    await shard.materialise(*CROWD)
    newcomer = UserId(77)
    await shard.materialise(newcomer)

    await shard.apply(
        push(10, HUGE), Change("follow", HUGE, b"77"), Change("unfollow", HUGE, b"1000")
    )

    assert await shard.list_of(HUGE) == [*CROWD[1:], newcomer]
    assert await shard.timeline(newcomer) is None
    assert await shard.timeline(CROWD[0]) is None
    assert {tuple(await shard.timeline(v) or ()) for v in CROWD[1:]} == {(10,)}


async def test_follow_twice_lists_a_follower_once(shard: Shard):
    await shard.apply(push(1, SMALL))

    await shard.apply(*[Change("follow", SMALL, b"60") for _ in range(3)])
    await shard.apply(Change("follow", SMALL, b"%d" % FOLLOWER))

    assert await shard.list_of(SMALL) == [FOLLOWER, 60]


async def test_follow_of_an_author_without_a_list_makes_none(shard: Shard):
    await shard.apply(Change("follow", SMALL, b"60"), Change("unfollow", OTHER_SMALL, b"60"))

    assert await shard.cache.keys("follower_ids:*") == []
    assert await shard.apply(push(1, SMALL)) == 0
    assert await shard.list_of(SMALL) == [FOLLOWER]


async def test_follow_kills_the_rebuild_that_did_not_know_of_it(shard: Shard):
    mark = await shard.timelines.begin_rebuild(WindowKind.TIMELINE, FOLLOWER)
    assert mark is not None
    token = await shard.timelines.ensure_token(shard.timelines.keys.viewer(FOLLOWER))

    await shard.apply(Change("follow", SMALL, b"%d" % FOLLOWER))

    snapshot = Window([], 0)
    kind = WindowKind.TIMELINE
    assert not await shard.timelines.commit_rebuild(kind, FOLLOWER, mark, snapshot)
    assert await shard.timelines.begin_rebuild(kind, FOLLOWER, viewer_token=token) is None


async def test_list_that_is_lost_in_the_middle_is_loaded_again(
    shard: Shard, monkeypatch: pytest.MonkeyPatch
):
    """Between two tweets stands a deletion, so that the list is asked for again."""
    await shard.materialise(*CROWD)
    lost = 0

    async def lose_it_once() -> None:
        nonlocal lost
        if lost == 0 and await shard.timeline(CROWD[0]) == [10]:
            lost = await shard.cache.delete(f"follower_ids:{{s0}}:{HUGE}")

    shard.after_each_call(monkeypatch, lose_it_once)
    await shard.apply(push(10, HUGE), remove(9, HUGE), push(11, HUGE))

    assert lost == 1
    assert {tuple(await shard.timeline(v) or ()) for v in CROWD} == {(11, 10)}
    assert shard.loaded == [HUGE, HUGE]


@pytest.mark.parametrize("size", [14, 15, 16, 17, 64])
async def test_lists_that_take_several_calls_to_read_are_whole(
    shard: Shard, monkeypatch: pytest.MonkeyPatch, size: int
):
    """The parts end within a list, at its end, and before it."""
    monkeypatch.setattr(follower_lists, "READ_BYTES", 8 * size)
    await shard.materialise(FOLLOWER, *CROWD)
    authors = {UserId(100 + n): CROWD[:n] for n in (0, 1, 14, 15, 16, 31, 0, 60)}
    shard.graph.update(authors)
    await shard.apply(*[remove(1, author) for author in authors])
    shard.loaded.clear()

    await shard.apply(*[push(author, author) for author in authors], push(9, SMALL))

    for position, viewer in enumerate(CROWD):
        expected = sorted(
            (a for a, crowd in authors.items() if position < len(crowd)), reverse=True
        )
        assert await shard.timeline(viewer) == expected
    assert await shard.timeline(FOLLOWER) == [9]
    assert shard.loaded == [SMALL]


async def test_batch_that_is_larger_than_what_is_held_is_delivered_in_parts(
    shard: Shard, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(followers, "GATHERED_MAX", 70)
    await shard.materialise(FOLLOWER, *CROWD)
    batch = [push(10 + n, UserId(100 + n % 5)) for n in range(10)]

    await shard.apply(*batch, push(30, SMALL), remove(12, UserId(102)), push(31, UserId(102)))

    kept = tuple(n for n in (31, *range(19, 9, -1)) if n != 12)
    assert {tuple(await shard.timeline(v) or ()) for v in CROWD} == {kept}
    assert await shard.timeline(FOLLOWER) == [30]


async def test_list_of_many_who_came_and_went_is_written_anew(shard: Shard):
    shard.graph[SMALL] = [FOLLOWER]
    await shard.apply(push(1, SMALL))
    come_and_go = [Change(op, SMALL, b"77") for _ in range(40) for op in ("follow", "unfollow")]
    await shard.apply(*come_and_go, Change("follow", SMALL, b"78"))
    key = f"follower_ids:{{s0}}:{SMALL}"
    before = await shard.cache.strlen(key)  # pyright: ignore

    await shard.apply(push(2, SMALL))

    assert before == 8 * (1 + 1 + 80 + 1)
    assert await shard.cache.strlen(key) == 8 * (1 + 2)  # pyright: ignore
    assert await shard.list_of(SMALL) == [FOLLOWER, 78]


async def test_followers_numbers_are_told_apart_at_any_place_in_the_list(shard: Shard):
    """A follower's number may stand across two others."""
    first, second = 1, 2
    across = int.from_bytes(
        (first.to_bytes(8, "little") + second.to_bytes(8, "little"))[1:9], "little"
    )
    shard.graph[SMALL] = [UserId(first), UserId(second)]
    await shard.apply(push(1, SMALL))

    await shard.apply(Change("follow", SMALL, b"%d" % across))
    await shard.apply(Change("unfollow", SMALL, b"%d" % second))

    assert await shard.list_of(SMALL) == [first, across]


async def test_cache_that_loses_lists_at_once_is_an_outage_and_no_endless_loop(
    shard: Shard, monkeypatch: pytest.MonkeyPatch
):
    shard.after_each_call(monkeypatch, lambda: shard.cache.delete(f"follower_ids:{{s0}}:{SMALL}"))

    with pytest.raises(ConnectionError):
        await shard.apply(push(10, SMALL))


async def test_calls_that_are_under_way_end_before_a_batch_fails(
    backing: Settings, monkeypatch: pytest.MonkeyPatch
):
    """Or they would run beside its repetition."""
    async with open_shard(backing, calls_max=3) as shard:
        await fails_and_is_repeated(shard, monkeypatch)


async def fails_and_is_repeated(shard: Shard, monkeypatch: pytest.MonkeyPatch) -> None:
    await shard.materialise(*CROWD)
    await shard.apply(remove(1, HUGE))
    call = shard.hot.call
    running = calls = 0

    async def fails_second(commands: Sequence[Command]) -> list[Any]:
        nonlocal running, calls
        if commands[0][1] == "chirp_deliver_v2":
            calls += 1
            if calls == 2:
                raise ConnectionError("lost")
        running += 1
        try:
            return await call(commands)
        finally:
            running -= 1

    monkeypatch.setattr(shard.hot, "call", fails_second)
    with pytest.raises(ConnectionError):
        await shard.apply(push(10, HUGE))

    assert calls > 2
    assert running == 0
    monkeypatch.setattr(shard.hot, "call", call)
    await shard.apply(push(10, HUGE))
    assert {tuple(await shard.timeline(v) or ()) for v in CROWD} == {(10,)}


async def test_own_and_recent_windows_are_the_authors_alone(shard: Shard):
    await shard.materialise(SMALL, FOLLOWER)
    mark = await shard.timelines.begin_rebuild(WindowKind.RECENT, SMALL)
    assert mark is not None
    await shard.timelines.commit_rebuild(WindowKind.RECENT, SMALL, mark, Window([], 0))
    argument = encode(entry(5, SMALL))

    await shard.apply(Change("timeline", SMALL, argument), Change("recent", SMALL, argument))

    recent: list[bytes] = await shard.cache.lrange("recent:{s0}:1", 0, 0)  # pyright: ignore
    assert recent == [argument]
    assert await shard.timeline(SMALL) == [5]
    assert await shard.timeline(FOLLOWER) == []

    await shard.apply(Change("untimeline", SMALL, argument), Change("unrecent", SMALL, argument))

    assert await shard.timeline(SMALL) == []
    assert await shard.cache.llen("recent:{s0}:1") == 1  # pyright: ignore

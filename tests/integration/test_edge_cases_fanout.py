"""Edge cases 17 and 18: huge authors, and what one call to Valkey may cost. Measured as entries and
calls, never as time."""

from collections.abc import AsyncGenerator, Sequence
from typing import Any, cast

import pytest
import pytest_asyncio

from domain.ids import UserId
from domain.timeline import Window
from mesh.settings import Settings
from storage import follower_lists, followers
from storage.followers import Change
from storage.valkey_connection import Command
from storage.windows import encode
from tests.shards import (
    BUDGET,
    CROWD,
    FOLLOWER,
    HUGE,
    SMALL,
    Shard,
    entry,
    open_shard,
    push,
    remove,
)

FILLER = UserId(9)
LONG = 600  # entries of a window whose every comparison counts


@pytest_asyncio.fixture
async def shard(backing: Settings) -> AsyncGenerator[Shard]:
    async with open_shard(backing) as opened:
        yield opened


async def delivered(shard: Shard, viewers: Sequence[UserId]) -> int:
    """How many entries of HUGE stand in these timelines."""
    return sum([len(await shard.timeline(viewer) or []) for viewer in viewers])


def steps(seen: Sequence[int]) -> list[int]:
    """What each call added to a count that was looked at after it."""
    return [after - before for before, after in zip([0, *seen], seen, strict=False)]


async def test_edge_case_17_huge_author_is_served_in_chunks_and_small_ones_in_between(
    shard: Shard, monkeypatch: pytest.MonkeyPatch
):
    await shard.materialise(FOLLOWER, *CROWD)
    await shard.apply(remove(1, HUGE), remove(1, SMALL))  # their lists are there

    async def look() -> tuple[int, bool]:
        return await delivered(shard, CROWD), await shard.timeline(FOLLOWER) == [500]

    seen = shard.after_each_call(monkeypatch, look)
    await shard.apply(*[push(10 + n, HUGE) for n in range(5)], push(500, SMALL))

    counts = [count for count, _ in seen]
    assert counts[-1] == 5 * len(CROWD)
    assert max(steps(counts)) <= BUDGET, "a call served more than its part"
    waited = next(count for count, small_is_served in seen if small_is_served)
    assert waited <= 2 * BUDGET, "the small author waited for the huge one"


async def test_edge_case_17_many_small_authors_are_not_behind_many_huge_ones(
    shard: Shard, monkeypatch: pytest.MonkeyPatch
):
    huge = [UserId(number) for number in range(100, 108)]
    await shard.materialise(FOLLOWER, *CROWD)
    await shard.apply(*[remove(1, author) for author in (*huge, SMALL)])

    async def look() -> tuple[int, bool]:
        return await delivered(shard, CROWD), await shard.timeline(FOLLOWER) == [500]

    seen = shard.after_each_call(monkeypatch, look)
    await shard.apply(*[push(10 + n, author) for n, author in enumerate(huge)], push(500, SMALL))

    waited = next(count for count, small_is_served in seen if small_is_served)
    assert waited <= BUDGET < len(huge) * len(CROWD) / 2


async def test_edge_case_17_place_in_the_follower_list_is_kept_while_followers_come_and_go(
    shard: Shard,
):
    await shard.materialise(*CROWD)
    newcomer, gone = UserId(2_000), CROWD[3]
    await shard.materialise(newcomer)

    # Between two tweets of one author, each many calls long, one who is served already leaves.
    await shard.apply(
        push(10, HUGE),
        Change("unfollow", HUGE, str(gone).encode()),
        Change("follow", HUGE, str(newcomer).encode()),
        push(11, HUGE),
    )

    stayed = [viewer for viewer in CROWD if viewer != gone]
    assert {tuple(await shard.timeline(viewer) or ()) for viewer in stayed} == {(11, 10)}
    assert await shard.timeline(gone) is None
    assert await shard.timeline(newcomer) is None, "it is rebuilt with the new followee"


async def test_edge_case_17_list_that_is_another_one_in_the_middle_serves_everyone_once(
    shard: Shard, monkeypatch: pytest.MonkeyPatch
):
    """What was read of a list does not depend on what becomes of it."""
    await shard.materialise(*CROWD)
    await shard.apply(remove(1, HUGE))
    replaced = False

    async def replace_it() -> None:
        nonlocal replaced
        if not replaced and await shard.timeline(CROWD[0]) == [10]:
            replaced = True
            members = [0, *reversed(CROWD)]
            packed = b"".join(member.to_bytes(8, "little") for member in members)
            await shard.cache.set(f"follower_ids:{{s0}}:{HUGE}", packed)

    shard.after_each_call(monkeypatch, replace_it)
    await shard.apply(push(10, HUGE))

    assert replaced
    assert {tuple(await shard.timeline(viewer) or ()) for viewer in CROWD} == {(10,)}


def counted(shard: Shard, monkeypatch: pytest.MonkeyPatch, command: str) -> list[int]:
    """Notes how often each call of a function runs a command of Valkey."""
    calls: list[int] = []
    call = shard.hot.call

    async def total() -> int:
        stats = cast(dict[str, Any], await cast(Any, shard.cache.info("commandstats")))
        return int(stats.get(f"cmdstat_{command}", {"calls": 0})["calls"])

    async def watched(commands: Sequence[Command]) -> list[Any]:
        before = await total()
        answer = await call(commands)
        calls.append(await total() - before)
        return answer

    monkeypatch.setattr(shard.hot, "call", watched)
    return calls


@pytest_asyncio.fixture
async def long(backing: Settings) -> AsyncGenerator[Shard]:
    """A shard whose followers all have long windows, and whose calls may cost 40."""
    async with open_shard(backing, budget=40) as opened:
        window = Window([entry(10 * n, FILLER) for n in range(LONG + 1, 1, -1)], 0)
        await opened.materialise(*CROWD, window=window)
        await opened.apply(remove(1, HUGE))
        yield opened


@pytest.mark.parametrize(
    ("change", "compared"),
    [
        (push(10 * LONG // 2 + 1, HUGE), LONG // 2),
        (push(21, HUGE), LONG - 1),
        (push(11, HUGE), LONG),
        (remove(11, HUGE), LONG),
    ],
    ids=["late", "very late", "older than all", "deleted and not there"],
)
async def test_edge_case_18_late_entry_costs_a_call_what_valkey_compares_for_it(
    long: Shard, monkeypatch: pytest.MonkeyPatch, change: Change, compared: int
):
    tried = counted(long, monkeypatch, "lindex")

    await long.apply(change)

    # A call may cost 40 times what comparing 100 entries costs, and one delivery more.
    per_call = 40 * 100 / compared + 1
    assert len(tried) >= len(CROWD) / per_call, "a call compared more than it may"
    # The head of each window is looked at once, and a place for every step of the search.
    assert max(tried) <= per_call * (2 * LONG.bit_length() + 1)


async def test_edge_case_18_repeated_deep_batch_is_as_bounded_as_a_new_one(
    long: Shard, monkeypatch: pytest.MonkeyPatch
):
    batch = [push(10 * n + 1, HUGE) for n in range(2, 6)]
    await long.apply(*[Change(c.op, c.author, c.argument) for c in batch])
    lines = [await long.timeline(viewer) for viewer in CROWD]
    tried = counted(long, monkeypatch, "lindex")

    await long.apply(*batch)

    assert [await long.timeline(viewer) for viewer in CROWD] == lines
    assert max(tried) <= 40 * 3


async def test_edge_case_18_leaving_a_huge_author_costs_what_leaving_a_small_one_does(
    shard: Shard, monkeypatch: pytest.MonkeyPatch
):
    """It is noted at the end of the follower list, which is not compared."""
    many = [UserId(10_000 + n) for n in range(BUDGET * 150)]
    shard.graph[HUGE] = many
    await shard.apply(push(10, HUGE))
    appended = counted(shard, monkeypatch, "append")
    key = f"follower_ids:{{s0}}:{HUGE}"

    await shard.apply(*[Change("unfollow", HUGE, str(viewer).encode()) for viewer in many[:100]])

    assert await shard.list_of(HUGE) == many[100:]
    assert appended == [followers.FOLLOWS_MAX, 100 - followers.FOLLOWS_MAX]
    assert await shard.cache.strlen(key) == 8 * (1 + len(many) + 100)  # pyright: ignore


async def test_edge_case_18_a_call_ends_when_its_time_is_up_whatever_it_may_cost(
    backing: Settings, monkeypatch: pytest.MonkeyPatch
):
    """No Valkey looks into so many windows within its time, though none of them costs much."""
    many = [UserId(10_000 + n) for n in range(40_000)]
    async with open_shard(backing, budget=100_000) as shard:
        await shard.materialise(many[0], many[-1])
        shard.graph[HUGE] = many
        windows = counted(shard, monkeypatch, "lindex")  # each is asked for its head, once

        assert await shard.apply(push(10, HUGE)) == 2

        assert len([each for each in windows if each]) > 1
        assert sum(windows) == len(many)
        assert await shard.timeline(many[0]) == await shard.timeline(many[-1]) == [10]


async def test_edge_case_18_no_call_carries_more_than_a_bounded_part(
    shard: Shard, monkeypatch: pytest.MonkeyPatch
):
    many = [UserId(10_000 + n) for n in range(2 * follower_lists.LOAD_PART + 100)]
    authors = [UserId(number) for number in range(100, 200)]
    shard.graph.update(dict.fromkeys(authors, many[:3]) | {HUGE: many})
    call = shard.hot.call
    sizes: dict[str, list[int]] = {}

    async def watched(commands: Sequence[Command]) -> list[Any]:
        for _, name, _, *arguments in commands:
            sizes.setdefault(str(name), []).append(sum(len(str(each)) for each in arguments))
        return await call(commands)

    monkeypatch.setattr(shard.hot, "call", watched)
    batch = [push(10 + n, author) for n in range(3) for author in authors]
    await shard.apply(push(5, HUGE), *batch)

    assert len(sizes["chirp_deliver_v2"]) >= (len(many) + 3 * len(batch)) / BUDGET
    # A key and an entry, written as text, are less than 200 bytes.
    assert max(sizes["chirp_deliver_v2"]) <= 200 * (BUDGET + 1)
    assert max(sizes["chirp_load_followers"]) <= 4 * (8 * follower_lists.LOAD_PART + 100)
    assert await shard.list_of(HUGE) == many


async def test_edge_case_18_entries_of_a_batch_are_applied_whatever_its_calls_may_cost(
    backing: Settings,
):
    """With the smallest budget every call still gets on."""
    async with open_shard(backing, budget=1) as tight:
        await tight.materialise(FOLLOWER, window=Window([entry(n, FILLER) for n in (9, 7, 5)], 0))
        tight.graph[SMALL] = [FOLLOWER, *CROWD[:3]]

        await tight.apply(
            *[push(n, SMALL) for n in (2, 4, 6, 8, 10)],
            remove(4, SMALL),
            Change("recent", SMALL, encode(entry(4, SMALL))),
            Change("unfollow", SMALL, str(CROWD[0]).encode()),
            Change("follow", SMALL, str(CROWD[5]).encode()),
        )

        assert await tight.timeline(FOLLOWER) == [10, 9, 8, 7, 6, 5, 2]
        assert await tight.list_of(SMALL) == [FOLLOWER, *CROWD[1:3], CROWD[5]]

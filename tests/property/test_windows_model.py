"""Whatever pushes, deletions and rebuilds interleave, a window that stands holds every entry above
its floor once all changes have been delivered."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, note
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from domain.ids import TweetId, UserId
from domain.timeline import NO_TWEET, NOBODY, Entry, Window
from mesh.settings import Settings
from storage import valkey, valkey_cluster, windows
from storage.followers import Change, FollowerStore
from storage.gathering import Ids
from storage.timelines import TimelineStore, WindowKind
from storage.valkey import Valkey
from storage.valkey_connection import HotConnection
from storage.windows import ENTRY_BYTES, encode

VIEWER = UserId(500)
AUTHORS = (UserId(1), UserId(2), VIEWER)
HOME = WindowKind.TIMELINE


def entry(tweet: int, author: UserId) -> Entry:
    return (TweetId(tweet), author, NO_TWEET, NOBODY)


async def elements(cache: Valkey, store: TimelineStore) -> list[bytes]:
    return await cache.lrange(store.keys.window(HOME, VIEWER), 0, -1)  # pyright: ignore


@dataclass
class Truth:
    """What the database holds, what the log holds of it, and who rebuilds."""

    alive: dict[int, UserId] = field(default_factory=dict[int, UserId])
    log: dict[UserId, list[tuple[str, int]]] = field(
        default_factory=lambda: {author: list[tuple[str, int]]() for author in AUTHORS}
    )
    delivered: dict[UserId, int] = field(default_factory=lambda: dict.fromkeys(AUTHORS, 0))
    rebuilds: list[tuple[bytes, Window | None]] = field(
        default_factory=list[tuple[bytes, Window | None]]
    )

    def snapshot(self, length: int) -> Window:
        newest = sorted(self.alive, reverse=True)[:length]
        floor = newest[-1] if len(newest) == length else 0
        return Window([entry(tweet, self.alive[tweet]) for tweet in newest], floor)


author = st.integers(0, len(AUTHORS) - 1)
tweet_ids = st.integers(1, 60)
steps = st.one_of(
    st.tuples(st.just("create"), tweet_ids, author),
    st.tuples(st.just("create"), tweet_ids, author),
    st.tuples(st.just("create"), tweet_ids, author),
    st.tuples(st.just("delete"), tweet_ids, author),
    st.tuples(st.just("deliver"), st.integers(1, 4), author),
    st.tuples(st.just("deliver"), st.integers(1, 4), author),
    st.tuples(st.just("rewind"), st.integers(0, 3), author),
    st.tuples(st.just("drop"), st.just(0), author),
    st.tuples(st.just("begin"), st.just(0), author),
    st.tuples(st.just("begin"), st.just(0), author),
    st.tuples(st.just("read snapshot"), st.integers(0, 3), author),
    st.tuples(st.just("read snapshot"), st.integers(0, 3), author),
    st.tuples(st.just("commit"), st.integers(0, 3), author),
    st.tuples(st.just("commit"), st.integers(0, 3), author),
)


class Story:
    """Plays steps on a Valkey and on the truth."""

    def __init__(self, hot: HotConnection, cache: Valkey, settings: Settings) -> None:
        self.cache, self.truth = cache, Truth()
        self.length = settings.timeline_length
        self.store = TimelineStore(cache, settings)
        self.followers = FollowerStore(hot, cache, settings)
        self.shard = int(self.store.keys.tag(VIEWER).strip("{s}"))

    async def step(self, name: str, number: int, choice: int) -> None:
        truth, who = self.truth, AUTHORS[choice]
        used = {tweet for log in truth.log.values() for _, tweet in log}
        match name:
            case "create" if number not in used:
                truth.alive[number] = who
                truth.log[who].append(("push", number))
                if who == VIEWER:
                    await self.store.push_own(VIEWER, entry(number, who))
            case "delete" if number in truth.alive:
                who = truth.alive.pop(number)
                truth.log[who].append(("remove", number))
                if who == VIEWER:
                    await self.store.remove_own(VIEWER, entry(number, who))
            case "deliver":
                await self.deliver(who, number)
            case "rewind":
                truth.delivered[who] = min(truth.delivered[who], number)
            case "drop":
                await self.store.drop(VIEWER)
            case "begin":
                mark = await self.store.begin_rebuild(HOME, VIEWER)
                if mark is not None:
                    truth.rebuilds.append((mark, None))
            case "read snapshot" if truth.rebuilds:
                place = number % len(truth.rebuilds)
                if truth.rebuilds[place][1] is None:
                    truth.rebuilds[place] = truth.rebuilds[place][0], truth.snapshot(self.length)
            case "commit" if truth.rebuilds:
                mark, snapshot = truth.rebuilds[number % len(truth.rebuilds)]
                if snapshot is not None:
                    del truth.rebuilds[number % len(truth.rebuilds)]
                    await self.store.commit_rebuild(HOME, VIEWER, mark, snapshot)
            case _:
                pass

    async def deliver(self, who: UserId, count: int) -> None:
        begin = self.truth.delivered[who]
        changes: list[Change] = []
        for op, tweet in self.truth.log[who][begin : begin + count]:
            own = {"push": "timeline", "remove": "untimeline"}[op]
            name = own if who == VIEWER else op
            changes.append(Change(name, who, encode(entry(tweet, who))))
        self.truth.delivered[who] += len(changes)

        async def load(_: UserId) -> Ids:
            return np.array([VIEWER], np.int64)

        await self.followers.apply(shard=self.shard, fences={0: 1}, changes=changes, load=load)

    async def check_shape(self) -> None:
        found = await elements(self.cache, self.store)
        assert all(len(element) == ENTRY_BYTES for element in found)
        assert found == sorted(set(found), reverse=True)
        decoded = windows.decode(found)
        if decoded is not None:
            assert len(decoded.entries) <= self.length * 1.1 + 1

    async def check_against_truth(self) -> None:
        for who in AUTHORS:
            await self.deliver(who, len(self.truth.log[who]))
        decoded = windows.decode(await elements(self.cache, self.store))
        if decoded is not None:
            everything = sorted(self.truth.alive, reverse=True)
            assert list(decoded.entries) == [
                entry(tweet, self.truth.alive[tweet])
                for tweet in everything
                if tweet >= decoded.floor
            ]


@pytest.mark.parametrize("length", [3, 5, 12])
def test_any_interleaving_leaves_a_true_window(backing: Settings, length: int):
    small = backing.model_copy(update={"timeline_length": length, "timeline_shards": 1})
    with asyncio.Runner() as runner:
        contexts = AsyncExitStack()
        cache = runner.run(contexts.enter_async_context(valkey.connect(small.valkey_url, small)))
        hot = runner.run(
            contexts.enter_async_context(
                valkey_cluster.open_hot(small.valkey_url, small.valkey_timeout_s)
            )
        )

        @hypothesis_settings(
            max_examples=80,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        )
        @example([("begin", 0, 0)] + [("create", n, 2) for n in range(1, 20)])
        @given(st.lists(steps, min_size=15, max_size=60))
        def stories(story: list[tuple[str, int, int]]) -> None:
            runner.run(play(hot, cache, small, story))

        try:
            stories()
        finally:
            runner.run(contexts.aclose())


async def play(
    hot: HotConnection, cache: Valkey, settings: Settings, story: list[tuple[str, int, int]]
) -> None:
    await cache.flushall()
    told = Story(hot, cache, settings)
    for step in story:
        note(str(step))
        await told.step(*step)
        await told.check_shape()
    await told.check_against_truth()
    # What was begun and not finished may still finish.
    for mark, snapshot in told.truth.rebuilds:
        if snapshot is not None:
            await told.store.commit_rebuild(HOME, VIEWER, mark, snapshot)
    await told.check_against_truth()

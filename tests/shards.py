"""One shard of a real Valkey, the graph that fan-out asks, and what is looked at between calls."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pytest

from domain.ids import TweetId, UserId
from domain.timeline import NO_TWEET, NOBODY, Entry, Window
from mesh.settings import Settings
from storage import follower_lists, timelines, valkey, valkey_cluster
from storage.followers import Change, FollowerStore
from storage.gathering import Ids
from storage.timelines import TimelineStore, WindowKind
from storage.valkey import Valkey
from storage.valkey_connection import Command, HotConnection
from storage.windows import encode

BUDGET = 8
SMALL, OTHER_SMALL, HUGE = UserId(1), UserId(2), UserId(3)
FOLLOWER = UserId(50)
CROWD = [UserId(number) for number in range(1_000, 1_060)]


def entry(tweet: int, author: UserId) -> Entry:
    return (TweetId(tweet), author, NO_TWEET, NOBODY)


def push(tweet: int, author: UserId) -> Change:
    return Change("push", author, encode(entry(tweet, author)))


def remove(tweet: int, author: UserId) -> Change:
    return Change("remove", author, encode(entry(tweet, author)))


@dataclass
class Shard:
    """One shard, the graph that it asks, and what is looked at after each call."""

    cache: Valkey
    hot: HotConnection
    store: FollowerStore
    timelines: TimelineStore
    graph: dict[UserId, list[UserId]]
    loaded: list[UserId] = field(default_factory=list[UserId])

    async def apply(self, *changes: Change, fence: int = 1) -> int:
        async def load(author: UserId) -> Ids:
            self.loaded.append(author)
            return np.array(self.graph.get(author, []), np.int64)

        return await self.store.apply(shard=0, fences={0: fence}, changes=changes, load=load)

    async def materialise(self, *viewers: UserId, window: Window | None = None) -> None:
        for viewer in viewers:
            mark = await self.timelines.begin_rebuild(WindowKind.TIMELINE, viewer)
            assert mark is not None
            built = window or Window([], 0)
            await self.timelines.commit_rebuild(WindowKind.TIMELINE, viewer, mark, built)

    async def timeline(self, viewer: UserId) -> list[int] | None:
        window = await self.timelines.fetch(WindowKind.TIMELINE, viewer)
        return None if window is None else [tweet for tweet, *_ in window.entries]

    async def list_of(self, author: UserId) -> list[int] | None:
        content = await self.cache.get(f"follower_ids:{{s0}}:{author}")
        if content is None:
            return None
        numbers = np.frombuffer(cast(bytes, content), "<i8")
        assert numbers[0] == 0
        return follower_lists.resolve(numbers[1:]).tolist()

    def after_each_call(
        self, monkeypatch: pytest.MonkeyPatch, look: Callable[[], Awaitable[object]]
    ) -> list[Any]:
        """Notes what `look` sees after each call of a function."""
        seen: list[Any] = []
        call = self.hot.call

        async def watched(commands: Sequence[Command]) -> list[Any]:
            answer = await call(commands)
            seen.append(await look())
            return answer

        monkeypatch.setattr(self.hot, "call", watched)
        return seen


@asynccontextmanager
async def open_shard(
    backing: Settings, *, budget: int = BUDGET, calls_max: int = 1
) -> AsyncGenerator[Shard]:
    """Opens an empty shard. With one call at a time it can be looked at between calls."""
    small = backing.model_copy(update={"timeline_shards": 1, "fanout_chunk_deliveries": budget})
    async with (
        valkey.connect(small.valkey_url, small) as cache,
        valkey_cluster.open_hot(small.valkey_url, small.valkey_timeout_s) as hot,
    ):
        await cache.flushall()
        await timelines.load_functions(cache)
        yield Shard(
            cache,
            hot,
            FollowerStore(hot, cache, small, calls_max=calls_max),
            TimelineStore(cache, small),
            {
                SMALL: [FOLLOWER],
                OTHER_SMALL: [FOLLOWER],
                HUGE: CROWD,
                **{UserId(number): CROWD for number in range(100, 200)},
            },
        )

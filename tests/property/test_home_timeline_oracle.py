"""Whatever happened before: once the log is drained, all pages of every home timeline laid end to
end equal the oracle."""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import TypeVar

import grpc
import pytest
from chirp.v1 import timeline_pb2
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from mesh.settings import Settings
from storage.timelines import Keys
from tests.integration.accounts import Account
from tests.world import World, open_world

T = TypeVar("T")

PEOPLE = 4
PAGE = 3

person = st.integers(0, PEOPLE - 1)
which = st.integers(0, 1_000)
steps = st.one_of(
    st.tuples(st.just("post"), person),
    st.tuples(st.just("post"), person),
    st.tuples(st.just("reply"), person, which),
    st.tuples(st.just("quote"), person, which),
    st.tuples(st.just("retweet"), person, which),
    st.tuples(st.just("retweet"), person, which),
    st.tuples(st.just("undo retweet"), person, which),
    st.tuples(st.just("like"), person, which),
    st.tuples(st.just("unlike"), person, which),
    st.tuples(st.just("delete"), which),
    st.tuples(st.just("block"), person, person),
    st.tuples(st.just("unblock"), person, person),
    st.tuples(st.just("mute"), person, person),
    st.tuples(st.just("unmute"), person, person),
    st.tuples(st.just("go cold"), person),
    st.tuples(st.just("follow"), person, person),
    st.tuples(st.just("follow"), person, person),
    st.tuples(st.just("unfollow"), person, person),
    st.tuples(st.just("read"), person),
    st.tuples(st.just("relay")),
    st.tuples(st.just("fan out")),
    st.tuples(st.just("drain")),
    st.tuples(st.just("lose the cache")),
    st.tuples(st.just("rewind")),
)


@dataclass
class History:
    world: World
    people: list[Account]
    living: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])

    async def step(self, name: str, *choices: int) -> None:
        world, people = self.world, self.people
        match name:
            case "post":
                tweet = await world.post(people[choices[0]])
                self.living.append((choices[0], tweet.id))
            case "reply" | "quote" if self.living:
                _, target = self.living[choices[1] % len(self.living)]
                author = people[choices[0]]
                if name == "reply":
                    tweet = await allowed(world.post(author, reply_to=target))
                else:
                    tweet = await allowed(world.post(author, quote_of=target))
                if tweet is not None:
                    self.living.append((choices[0], tweet.id))
            case "retweet" | "undo retweet" if self.living:
                _, target = self.living[choices[1] % len(self.living)]
                undo = name == "undo retweet"
                await allowed(world.retweet(people[choices[0]], target, undo=undo))
            case "like" | "unlike" if self.living:
                _, target = self.living[choices[1] % len(self.living)]
                await allowed(world.like(people[choices[0]], target, undo=name == "unlike"))
            case "block" | "unblock" if choices[0] != choices[1]:
                await world.block(*(people[c] for c in choices), undo=name == "unblock")
            case "mute" | "unmute" if choices[0] != choices[1]:
                await world.mute(*(people[c] for c in choices), undo=name == "unmute")
            case "go cold":
                await self.go_cold(people[choices[0]])
            case "delete" if self.living:
                author, target = self.living.pop(choices[0] % len(self.living))
                await world.delete(people[author], target)
            case "follow" if choices[0] != choices[1]:
                await allowed(world.follow(people[choices[0]], people[choices[1]]))
            case "unfollow" if choices[0] != choices[1]:
                await world.unfollow(people[choices[0]], people[choices[1]])
            case "read":
                await self.check_page(people[choices[0]])
            case "relay":
                await world.relay_all()
            case "fan out":
                await world.fanout.step(0)
            case "drain":
                await world.drain()
            case "lose the cache":
                await world.cache.flushall()
            case "rewind":
                await world.rewind()
            case _:
                pass

    async def go_cold(self, viewer: Account) -> None:
        """The lease of a reader runs out."""
        keys = Keys(self.world.settings.timeline_shards)
        await self.world.cache.delete(keys.lease(viewer.id))

    async def check_page(self, viewer: Account) -> None:
        """What holds before draining too: sorted, nothing twice, no page short of its end."""
        page = await world_page(self.world, viewer)
        ids = [tweet.id for tweet in page.tweets]
        assert ids == sorted(set(ids), reverse=True)
        assert len(ids) == PAGE or not page.has_more

    async def check_all(self) -> None:
        for number, viewer in enumerate(self.people):
            expected = await self.world.oracle(viewer)
            for _ in range(2):  # the first read may rebuild, the second finds what it stored
                assert await self.world.home(viewer, limit=PAGE) == expected, f"person {number}"
            for position, tweet_id in enumerate(expected[:PAGE]):
                newer = await self.world.timelines.CountNewer(
                    timeline_pb2.CountNewerRequest(since_id=tweet_id), metadata=viewer.metadata
                )
                assert newer.count == position
                since = await self.world.home(viewer, limit=PAGE, since_id=tweet_id)
                assert since == expected[:position]


async def allowed(call: Awaitable[T]) -> T | None:
    """Awaits a call; None where one of the two blocks the other."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        if error.code() != grpc.StatusCode.PERMISSION_DENIED:
            raise
        return None


async def world_page(world: World, viewer: Account) -> timeline_pb2.GetHomeTimelineResponse:
    return await world.home_page(viewer, limit=PAGE)


@pytest.mark.parametrize(("length", "distance"), [(7, 3), (3, 3), (800, 40)])
def test_after_any_history_home_timelines_equal_the_oracle(
    settings_sync: Settings, length: int, distance: int
):
    small = settings_sync.model_copy(
        update={
            "timeline_length": length,
            "repeat_distance": distance,
            # Two of three possible followers make an author pulled: crossings happen all the time.
            "influencer_followers": 2,
            "celebrity_followers": 3,
            "tier_hysteresis": 0.9,
            "timeline_shards": 2,
            "eventlog_partitions": 4,
            "fanout_chunk_deliveries": 4,
            "consumer_batch": 2,
        }
    )
    with asyncio.Runner() as runner:
        opened = open_world(small)
        world = runner.run(opened.__aenter__())
        try:

            @settings(
                max_examples=25,
                deadline=None,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
            )
            @given(st.lists(steps, min_size=20, max_size=60))
            def histories(story: list[tuple[str, int]]) -> None:
                runner.run(play(world, story))

            histories()
        finally:
            runner.run(opened.__aexit__(None, None, None))


async def play(world: World, story: list[tuple[str, int]]) -> None:
    history = History(world, await world.accounts.insert(PEOPLE))
    for step in story:
        note(str(step))
        await history.step(*step)
    await world.drain()
    await history.check_all()

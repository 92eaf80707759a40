"""Accounts cross the lines between tiers, up and down, while people read and post."""

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from mesh.settings import Settings
from mesh.tasks import raise_if_cancelled
from storage.timelines import WindowKind
from tests.edges import (
    PULL,
    PUSH,
    PUSH_ACTIVE,
    assert_contiguous,
    assert_right,
    keys,
    open_near_edges,
    post_each,
    ways_of,
)
from tests.integration.accounts import Account
from tests.leases import end_lease
from tests.world import World

ROUNDS = 2  # up through both lines and down again
INFLUENCER, CELEBRITY = 5, 7  # down below 3 and below 4


@dataclass
class Bustle:
    """What goes on at once, while all stars cross the lines in one direction."""

    world: World
    chance: random.Random
    stars: list[Account]
    steady: Account
    fans: list[Account]
    readers: list[Account]
    done: bool = False
    pages: int = 0
    posted: dict[int, asyncio.Event] = field(default_factory=dict[int, asyncio.Event])

    async def go_on(self, change: Callable[[Account, Account], Awaitable[None]]) -> None:
        self.done, self.pages = False, 0
        async with asyncio.TaskGroup() as group:
            for author in (*self.stars, self.steady):
                group.create_task(self.post(author))
            for viewer in (*self.readers, self.fans[0]):
                group.create_task(self.read(viewer))
            group.create_task(self.fan_out())
            group.create_task(self.forget())
            async with asyncio.TaskGroup() as crossings:
                for star in self.stars:
                    crossings.create_task(self.cross(star, change))
            self.done = True
        assert self.pages > len(self.readers), "nobody read"

    async def cross(
        self, star: Account, change: Callable[[Account, Account], Awaitable[None]]
    ) -> None:
        """All fans come, or go; at every number of followers the star posts."""
        posted = self.posted.setdefault(star.id, asyncio.Event())
        for fan in self.chance.sample(self.fans, len(self.fans)):
            await change(fan, star)
            posted.clear()
            await posted.wait()

    async def post(self, author: Account) -> None:
        posted = self.posted.setdefault(author.id, asyncio.Event())
        while not self.done:
            await self.world.post(author)
            posted.set()

    async def read(self, viewer: Account) -> None:
        """What may be seen before fan-out is done lacks the newest, and is in order. What was seen
        once is never missing later, to readers who follow for good: nothing is deleted."""
        seen: set[int] = set()
        while not self.done:
            home = await self.world.home(viewer, limit=self.chance.choice([3, 10, 100]))
            assert home == sorted(set(home), reverse=True), "twice, or out of order"
            if viewer in self.readers:
                assert seen <= set(home), "an entry was lost"
                seen.update(home)
            self.pages += 1

    async def fan_out(self) -> None:
        while not self.done:
            await self.world.relay.step(self.world.relay_connection)
            await self.world.fanout.step(5)

    async def forget(self) -> None:
        """One reader's lease runs out, what belongs to the other is evicted. Nothing is lost as a
        whole: it would be rebuilt as a whole, and hide what went wrong."""
        names, leaseless, evicted = keys(self.world), self.readers[0].id, self.readers[1].id
        while not self.done:
            raise_if_cancelled()  # redis-py may lose it
            match self.chance.randrange(3):
                case 0:
                    await end_lease(self.world.cache, self.world.settings, leaseless)
                case 1:
                    await self.world.cache.delete(names.window(WindowKind.TIMELINE, evicted))
                case _:
                    recent = names.window(WindowKind.RECENT, self.stars[0].id)
                    await self.world.cache.delete(recent)
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("length", [7, 800], ids=["short windows", "windows that hold it all"])
async def test_crossing_lines_while_people_read_and_post_loses_and_doubles_nothing(
    settings: Settings, length: int
):
    lines = {"influencer_followers": INFLUENCER, "celebrity_followers": CELEBRITY}
    async with open_near_edges(settings, **lines, timeline_length=length) as world:
        steady, *people = await world.accounts.insert(1 + 2 + 2 + CELEBRITY)
        stars, readers, fans = people[:2], people[2:4], people[4:]
        everybody = (steady, *people)
        for reader in readers:
            for followee in (*stars, steady):
                await world.follow(reader, followee)
        bustle = Bustle(world, random.Random(length), stars, steady, fans, readers)

        for _ in range(ROUNDS):
            for change in (world.follow, world.unfollow):
                await bustle.go_on(change)
                await world.drain()
                await assert_right(world, *everybody, limits=(100,))
                for reader in readers:
                    await assert_contiguous(world, reader)
                # Whom to pull is asked anew, when nobody is a celebrity any more, too.
                shards = range(world.settings.timeline_shards)
                await world.cache.delete(*(keys(world).pulled(shard) for shard in shards))
                await assert_right(world, *readers, limits=(100,))

        for star in stars:
            await assert_crossed(world, star)
        # Who came last is served like those who came first.
        for star in stars:
            await world.follow(fans[0], star)
        await world.drain()
        await assert_right(world, *everybody, limits=(100, 17))
        await post_each(world, [*stars, steady], 2)
        await world.drain()
        await assert_right(world, *everybody, limits=(100,))
        for viewer in (*readers, fans[0]):
            await assert_contiguous(world, viewer)


async def assert_crossed(world: World, star: Account) -> None:
    """It was about something: a star crossed both lines both ways, and posted on every side."""
    changes = await world.accounts.rows(
        "SELECT from_tier, to_tier, follower_count FROM tier_changes WHERE user_id = %s"
        " ORDER BY id",
        star.id,
    )
    assert changes == [(1, 2, INFLUENCER), (2, 3, CELEBRITY), (3, 2, 3), (2, 1, 2)] * ROUNDS
    ways = [way for way, _ in itertools.groupby(await ways_of(world, star))]
    assert ways == [PUSH, *[PUSH_ACTIVE, PULL, PUSH_ACTIVE, PUSH] * ROUNDS]

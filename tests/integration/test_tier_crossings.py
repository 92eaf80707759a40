"""Accounts cross the lines between tiers, up and down, while people read and post."""

import asyncio
import itertools
import random
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import pytest
import pytest_asyncio

from mesh.settings import Settings
from tests.edges import (
    PULL,
    PUSH,
    PUSH_ACTIVE,
    assert_contiguous,
    assert_right,
    keys,
    open_near_edges,
    ways_of,
)
from tests.integration.accounts import Account
from tests.world import World

ROUNDS = 2  # up through both lines and down again
INFLUENCER, CELEBRITY = 6, 9  # down below 3 and below 5


@pytest_asyncio.fixture
async def world(settings: Settings) -> AsyncGenerator[World]:
    lines = {"influencer_followers": INFLUENCER, "celebrity_followers": CELEBRITY}
    async with open_near_edges(settings, **lines) as opened:
        yield opened


@dataclass
class Bustle:
    """What goes on at once, until the stars have crossed all lines."""

    world: World
    chance: random.Random
    fans: list[Account]
    readers: list[Account]
    done: bool = False
    reads: int = 0
    posted: dict[int, asyncio.Event] = field(default_factory=dict[int, asyncio.Event])
    seen: dict[int, set[int]] = field(default_factory=dict[int, set[int]])

    async def post(self, author: Account) -> None:
        posted = self.posted.setdefault(author.id, asyncio.Event())
        while not self.done:
            await self.world.post(author)
            posted.set()

    async def cross(self, star: Account) -> None:
        """Fans come until the star is a celebrity, and go until it is normal, again and again; at
        every number of followers the star posts."""
        posted = self.posted.setdefault(star.id, asyncio.Event())
        for _ in range(ROUNDS):
            for change in (self.world.follow, self.world.unfollow):
                for fan in self.chance.sample(self.fans, len(self.fans)):
                    await change(fan, star)
                    posted.clear()
                    await posted.wait()

    async def read(self, reader: Account) -> None:
        """What was seen once is never missing later: these readers follow for good, and nothing is
        deleted."""
        seen = self.seen.setdefault(reader.id, set())
        while not self.done:
            home = await self.world.home(reader, limit=self.chance.choice([3, 10, 100]))
            assert home == sorted(set(home), reverse=True), "twice, or out of order"
            assert seen <= set(home), "an entry was lost"
            seen |= set(home)
            self.reads += 1

    async def glance(self, fan: Account) -> None:
        while not self.done:
            page = [tweet.id for tweet in (await self.world.home_page(fan, limit=5)).tweets]
            assert page == sorted(set(page), reverse=True), "twice, or out of order"

    async def fan_out(self) -> None:
        while not self.done:
            await self.world.relay_all()
            await self.world.fanout.step(5)

    async def forget(self) -> None:
        """Leases run out, windows are evicted, and once all is lost."""
        cache = self.world.cache
        while not self.done:
            reader = self.chance.choice(self.readers)
            await cache.delete(keys(self.world).lease(reader.id))
            await asyncio.sleep(0.05)
            if self.chance.random() < 0.1:
                await cache.flushall()


@pytest.mark.parametrize("seed", [1, 2])
async def test_crossing_lines_while_people_read_and_post_loses_and_doubles_nothing(
    world: World, seed: int
):
    steady, one, other, *people = await world.accounts.insert(5 + CELEBRITY)
    readers, fans = people[:2], people[2:]
    stars = (one, other)
    for reader in readers:
        for followee in (*stars, steady):
            await world.follow(reader, followee)
    bustle = Bustle(world, random.Random(seed), fans, readers)

    async with asyncio.TaskGroup() as group:
        for author in (*stars, steady):
            group.create_task(bustle.post(author))
        for reader in readers:
            group.create_task(bustle.read(reader))
        group.create_task(bustle.glance(fans[0]))
        group.create_task(bustle.fan_out())
        group.create_task(bustle.forget())
        async with asyncio.TaskGroup() as crossings:
            for star in stars:
                crossings.create_task(bustle.cross(star))
        bustle.done = True

    await world.drain()
    await assert_right(world, steady, *stars, *people, limits=(100, 17))
    for reader in readers:
        await assert_contiguous(world, reader)
    # It was about something: each star crossed both lines both ways, and posted on every side.
    for star in stars:
        changes = await world.accounts.rows(
            "SELECT from_tier, to_tier FROM tier_changes WHERE user_id = %s ORDER BY id", star.id
        )
        assert changes == [(1, 2), (2, 3), (3, 2), (2, 1)] * ROUNDS
        ways = [way for way, _ in itertools.groupby(await ways_of(world, star))]
        assert ways == [PUSH, *[PUSH_ACTIVE, PULL, PUSH_ACTIVE, PUSH] * ROUNDS]
    assert bustle.reads > len(readers)

"""Accounts cross the lines between tiers, up and down, while people read and post."""

import asyncio
import itertools
import random
from dataclasses import dataclass, field

import pytest

from mesh.settings import Settings
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
from tests.world import World

ROUNDS = 2  # up through both lines and down again
INFLUENCER, CELEBRITY = 6, 9  # down below 3 and below 5


@dataclass
class Bustle:
    """What goes on at once, until the stars have crossed all lines."""

    world: World
    chance: random.Random
    stars: list[Account]
    fans: list[Account]
    readers: list[Account]
    done: bool = False
    homes: list[set[int]] = field(default_factory=list[set[int]])
    posted: dict[int, asyncio.Event] = field(default_factory=dict[int, asyncio.Event])
    seen: dict[int, set[int]] = field(default_factory=dict[int, set[int]])

    async def go_on_until_all_crossed(self, steady: Account) -> None:
        async with asyncio.TaskGroup() as group:
            for author in (*self.stars, steady):
                group.create_task(self.post(author))
            for reader in self.readers:
                group.create_task(self.read(reader))
            group.create_task(self.glance(self.fans[0]))
            group.create_task(self.fan_out())
            group.create_task(self.forget())
            async with asyncio.TaskGroup() as crossings:
                for star in self.stars:
                    crossings.create_task(self.cross(star))
            self.done = True

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
            self.homes.append(set(home))

    async def glance(self, fan: Account) -> None:
        while not self.done:
            page = [tweet.id for tweet in (await self.world.home_page(fan, limit=5)).tweets]
            assert page == sorted(set(page), reverse=True), "twice, or out of order"

    async def fan_out(self) -> None:
        while not self.done:
            await self.world.relay_all()
            await self.world.fanout.step(5)

    async def forget(self) -> None:
        """One reader's lease runs out, what belongs to the other is evicted. Nothing is lost as a
        whole: it would be rebuilt as a whole, and hide what went wrong."""
        names, leaseless, evicted = keys(self.world), self.readers[0].id, self.readers[1].id
        while not self.done:
            await self.world.cache.delete(
                self.chance.choice(
                    [
                        names.lease(leaseless),
                        names.window(WindowKind.TIMELINE, evicted),
                        names.window(WindowKind.RECENT, self.stars[0].id),
                        names.pulled_of(evicted),
                    ]
                )
            )
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("length", [7, 400], ids=["short windows", "windows that hold it all"])
async def test_crossing_lines_while_people_read_and_post_loses_and_doubles_nothing(
    settings: Settings, length: int
):
    lines = {"influencer_followers": INFLUENCER, "celebrity_followers": CELEBRITY}
    async with open_near_edges(settings, **lines, timeline_length=length) as world:
        steady, *people = await world.accounts.insert(1 + 2 + 2 + CELEBRITY)
        stars, readers, fans = people[:2], people[2:4], people[4:]
        for reader in readers:
            for followee in (*stars, steady):
                await world.follow(reader, followee)
        bustle = Bustle(world, random.Random(length), stars, fans, readers)

        await bustle.go_on_until_all_crossed(steady)

        await world.drain()
        everybody = (steady, *people)
        await assert_right(world, *everybody, limits=(100, 17))
        for star in stars:
            await assert_crossed(world, star)
        await assert_no_holes(world, [*stars, steady], bustle.homes)
        # Who came last is served like those who came first.
        for star in stars:
            await world.follow(fans[0], star)
        await world.drain()
        await assert_right(world, *everybody, limits=(100,))
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
    assert changes == [(1, 2, INFLUENCER), (2, 3, CELEBRITY), (3, 2, 4), (2, 1, 2)] * ROUNDS
    ways = [way for way, _ in itertools.groupby(await ways_of(world, star))]
    assert ways == [PUSH, *[PUSH_ACTIVE, PULL, PUSH_ACTIVE, PUSH] * ROUNDS]


async def assert_no_holes(world: World, authors: list[Account], homes: list[set[int]]) -> None:
    """Whoever saw a tweet saw all that its author had posted before and that went the same way."""
    rows = await world.accounts.rows(
        "SELECT author_id, delivery = 2, array_agg(id ORDER BY id) FROM tweets"
        " WHERE author_id = ANY(%s) GROUP BY 1, 2",
        [author.id for author in authors],
    )
    assert len(rows) == 2 * len(authors) - 1
    assert len(homes) > len(authors)
    for home in homes:
        for _, _, posted in rows:
            shown = [tweet in home for tweet in posted]
            assert shown == sorted(shown, reverse=True)

"""Fan-out begins again with the oldest record of the log: nothing changes."""

from collections.abc import AsyncGenerator
from typing import cast

import numpy as np
import pytest_asyncio

from mesh.settings import Settings
from storage import follower_lists
from tests.integration.accounts import Account
from tests.world import World, open_world


@pytest_asyncio.fixture
async def world(settings: Settings) -> AsyncGenerator[World]:
    changed = {
        "influencer_followers": 4,
        "celebrity_followers": 4,
        "fanout_chunk_deliveries": 2,
        "consumer_batch": 7,
    }
    async with open_world(settings.model_copy(update=changed)) as opened:
        yield opened


async def dump(world: World, pattern: str) -> dict[bytes, list[bytes]]:
    """Every list whose key matches, with its elements."""
    lists: dict[bytes, list[bytes]] = {}
    async for key in world.cache.scan_iter(pattern, _type="LIST"):  # pyright: ignore
        lists[cast(bytes, key)] = await world.cache.lrange(key, 0, -1)  # pyright: ignore
    return lists


async def followers_of(world: World) -> dict[bytes, set[int]]:
    """The follower lists, without order."""
    lists: dict[bytes, set[int]] = {}
    async for key in world.cache.scan_iter("follower_ids:*"):  # pyright: ignore
        content = cast(bytes, await world.cache.get(cast(bytes, key)))
        numbers = np.frombuffer(content, "<i8")[1:]
        lists[cast(bytes, key)] = set(follower_lists.resolve(numbers).tolist())
    return lists


async def insert_follows(world: World, followees: list[Account], followers: list[Account]) -> None:
    """Follows without events, as a bulk load leaves them."""
    async with world.pool.connection() as connection:
        for number, followee in enumerate(followees):
            for follower in followers:
                if follower != followee:
                    await connection.execute(
                        "INSERT INTO follows (follower_id, followee_id, id) VALUES (%s, %s, %s)",
                        (follower.id, followee.id, number * 100 + follower.id % 100),
                    )


async def replay(world: World) -> None:
    await world.rewind()
    assert sum((await world.fanout.lag()).values()) > 0, "nothing would be replayed"
    await world.drain()


async def test_replay_of_tweets_replies_and_deletions_leaves_every_list_as_it_was(world: World):
    people = await world.accounts.insert(4)
    star = people[0]
    await insert_follows(world, people, people)
    async with world.pool.connection() as connection:
        # Over the line from the start: one of them is pulled.
        await connection.execute("UPDATE users SET tier = 3 WHERE id = %s", (star.id,))
    for person in people:
        await world.home(person)
    posted: list[tuple[Account, int]] = []
    for turn in range(6):
        for person in people:
            parent = posted[turn * 2][1] if posted and turn % 2 else 0
            posted.append((person, (await world.post(person, reply_to=parent)).id))
    for position in (0, 5, 9, 14, 23):
        await world.delete(*posted[position])
    await world.drain()
    expected = {person.id: await world.oracle(person) for person in people}
    for person in people:
        assert await world.home(person, limit=4) == expected[person.id]
    before = await dump(world, "*")
    kinds = {key.split(b":")[0] for key in before}
    assert kinds == {b"timeline", b"recent"}
    lists = await followers_of(world)
    assert lists

    for _ in range(2):
        await replay(world)

        assert await dump(world, "*") == before
        assert await followers_of(world) == lists
    for person in people:
        assert await world.home(person, limit=4) == expected[person.id]


async def test_replay_of_follows_and_unfollows_leaves_what_is_read_as_it_was(world: World):
    author, other, reader, former = await world.accounts.insert(4)
    await world.home(reader)
    await world.follow(reader, author)
    await world.follow(former, author)
    await world.post(author)
    await world.drain()
    await world.unfollow(reader, author)
    await world.post(author)
    await world.follow(reader, author)
    await world.follow(reader, other)
    await world.unfollow(former, author)
    await world.post(other)
    await world.post(author)
    await world.drain()
    people = (author, other, reader, former)
    expected = [await world.oracle(person) for person in people]
    assert [await world.home(person) for person in people] == expected
    lists = await followers_of(world)
    windows = await dump(world, "timeline:*")

    for _ in range(2):
        await replay(world)

        assert await followers_of(world) == lists
        # A follow drops the timeline, whenever it comes; a read makes it again.
        assert [await world.home(person) for person in people] == expected
        assert await dump(world, "timeline:*") == windows


async def test_reads_between_the_steps_of_a_replay_are_right(world: World):
    author, reader = await world.accounts.insert(2)
    await world.follow(reader, author)
    tweets = [(await world.post(author)).id for _ in range(10)]
    await world.delete(author, tweets[4])
    await world.unfollow(reader, author)
    await world.follow(reader, author)
    await world.drain()
    expected = await world.oracle(reader)
    assert len(expected) == 9

    await world.rewind()
    while await world.fanout.step():
        assert await world.home(reader) == expected

    assert await world.home(reader) == expected


async def test_record_delivered_twice_in_one_batch_stands_once(world: World):
    author, reader = await world.accounts.insert(2)
    await world.follow(reader, author)
    await world.drain()
    await world.home(reader)
    tweet = await world.post(author)
    await world.relay_all()
    # As a relay that died between sending and marking.
    async with world.pool.connection() as connection:
        await connection.execute("UPDATE outbox SET sent_at = NULL")
    delivered = world.worker.deliveries

    await world.drain()

    assert await world.home(reader) == [tweet.id]
    assert await world.home(author) == [tweet.id]
    assert world.worker.deliveries > delivered

"""Edge case 19: readers who follow very many pulled authors."""

import asyncio
import random
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import psycopg
import pytest
import pytest_asyncio

from domain.timeline import Viewer
from mesh.settings import Settings
from storage import candidates, database
from storage.valkey_connection import Command, SharedConnection
from tests.edges import (
    PULL,
    PUSH,
    assert_right,
    count_newer,
    elements,
    ids_of,
    insert_tweets,
    open_near_edges,
    post_each,
    set_tier,
)
from tests.integration.accounts import Account
from tests.world import World

pytestmark = pytest.mark.asyncio(loop_scope="module")

MERGE_MAX = 3


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(module_settings: Settings) -> AsyncGenerator[World]:
    async with open_near_edges(module_settings, pulled_merge_max=MERGE_MAX) as opened:
        yield opened


async def follow_all(world: World, follower: Account, followees: Sequence[Account]) -> None:
    async with world.pool.connection() as connection:
        for followee in followees:
            await connection.execute(
                "INSERT INTO follows (follower_id, followee_id, id) VALUES (%s, %s, %s)",
                (follower.id, followee.id, follower.id * 10_000 + followee.id),
            )
    await world.cache.flushall()


def watch_reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Notes how many lists each round trip to Valkey asks for."""
    asked: list[int] = []
    call = SharedConnection.call

    def watched(
        connection: SharedConnection, commands: Sequence[Command]
    ) -> "asyncio.Future[list[Any]]":
        asked.append(sum(command[0] == "LRANGE" for command in commands))
        return call(connection, commands)

    monkeypatch.setattr(SharedConnection, "call", watched)
    return asked


@pytest.mark.parametrize("stars", [MERGE_MAX, MERGE_MAX + 1, 40])
async def test_edge_case_19_merge_of_pulled_authors_is_bounded_and_the_timeline_is_not(
    world: World, monkeypatch: pytest.MonkeyPatch, stars: int
):
    author, reader, *celebrities = await world.accounts.insert(2 + stars)
    base = 1_000_000 * reader.id
    await follow_all(world, reader, [author, *celebrities])
    for number, celebrity in enumerate(celebrities):
        ids = range(base + number, base + 3 * stars, stars)
        await insert_tweets(world, celebrity, ids, delivery=PULL)
    await insert_tweets(world, author, range(base + 3 * stars, base + 3 * stars + 9))
    asked = watch_reads(monkeypatch)

    (home,) = await assert_right(world, reader, limits=(4, 50))

    assert len(home) == 3 * stars + 9
    assert max(asked) == (1 + MERGE_MAX if stars <= MERGE_MAX else 0)
    for position in (0, 5, len(home) - 1):
        assert await count_newer(world, reader, home[position]) == position
        assert await world.home(reader, since_id=home[position]) == home[:position]


async def test_edge_case_19_reader_of_too_many_sees_every_change_at_once(world: World):
    author, reader, *stars = await world.accounts.insert(3 + MERGE_MAX)
    for followee in (author, *stars):
        await world.follow(reader, followee)
    await set_tier(world, *stars, tier=3)
    tweets = await post_each(world, [author, *stars, reader], 3)
    await world.drain()
    await assert_right(world, reader)

    own = (await world.post(reader)).id
    assert await ids_of(world, reader, limit=1) == [own]
    await world.mute(reader, stars[0])
    await world.unfollow(reader, author)
    await world.delete(stars[1], tweets[-3 - MERGE_MAX + 2])
    await world.post(stars[2])
    for feed in world.feeds:
        await feed.poll()
    await assert_right(world, reader)
    await world.drain()
    await assert_right(world, reader)


async def test_edge_case_19_cursors_hold_on_both_sides_of_the_bound(world: World):
    author, reader, *stars = await world.accounts.insert(3 + MERGE_MAX)
    for followee in (author, *stars):
        await world.follow(reader, followee)
    await set_tier(world, *stars, tier=3)
    await post_each(world, [author, *stars], 4)
    await world.drain()
    (home,) = await assert_right(world, reader)
    page = await world.home_page(reader, limit=4)

    await world.unfollow(reader, stars[0])

    (fewer,) = await assert_right(world, reader)
    assert await elements(world, reader) != [], "few enough are merged again"
    below = [tweet for tweet in fewer if tweet < home[3]]
    assert await ids_of(world, reader, cursor=page.next_cursor) == below
    await world.follow(reader, stars[0])
    assert await ids_of(world, reader, limit=100, cursor=page.next_cursor) == home[4:]
    await world.drain()
    assert await assert_right(world, reader) == [home]


async def test_edge_case_19_query_reads_about_what_it_answers_however_many_are_followed(
    module_settings: Settings, world: World
):
    reader, *authors = await world.accounts.insert(61)
    base = 1_000_000 * reader.id
    for number, author in enumerate(authors):
        await insert_tweets(world, author, range(base + number, base + 60 * 50, 60))
    viewer = Viewer(reader.id, frozenset(author.id for author in authors))
    async with database.open_pool(module_settings, size_max=1) as pool:

        async def fetched() -> int:
            async with pool.connection() as connection:
                await connection.execute("SELECT pg_stat_force_next_flush()")
            async with pool.connection() as connection:
                cursor = await connection.execute(
                    "SELECT idx_tup_fetch + seq_tup_read FROM pg_stat_user_tables"
                    " WHERE relname = 'tweets'"
                )
                row = await cursor.fetchone()
            assert row is not None
            return int(row[0])

        async with pool.connection() as connection:
            await connection.execute("ANALYZE tweets")
        before = await fetched()
        window = await candidates.fetch_home(pool, viewer, below=None, limit=100, pulled=True)

        assert [entry[0] for entry in window.entries] == list(range(base + 2_999, base + 2_899, -1))
        assert await fetched() - before <= 4 * 100 + len(authors), "it read the most of them"


@pytest.mark.parametrize("seed", range(6))
async def test_edge_case_19_bounded_query_answers_what_the_unbounded_one_would(
    world: World, seed: int
):
    """Authors of very different numbers of tweets, some deleted, some repeating deleted ones."""
    chance = random.Random(seed)
    reader, gone, *authors = await world.accounts.insert(chance.choice([2, 3, 9, 30]))
    base = 1_000_000 * reader.id
    original = base - 1
    await insert_tweets(world, gone, range(original, base))
    free = list(range(base, base + 400))
    chance.shuffle(free)
    async with world.pool.connection() as connection:
        for author in [reader, *authors]:
            for tweet in [free.pop() for _ in range(chance.choice([0, 1, 5, 12]))]:
                await insert_row(connection, chance, author, tweet, original, gone)
        await connection.execute("UPDATE tweets SET deleted_at = now() WHERE id = %s", (original,))
    viewer = Viewer(reader.id, frozenset(author.id for author in authors))

    for limit in (1, 2, 7, 40, 500):
        for below in (None, base + 200):
            for pulled in (False, True):
                rows = await world.accounts.rows(
                    "SELECT id FROM tweets WHERE deleted_at IS NULL AND id < %s"
                    " AND author_id = ANY(%s) AND retweet_of IS NULL"
                    " AND (%s OR delivery <> 2 OR author_id = %s) ORDER BY id DESC LIMIT %s",
                    below or 2**63 - 1,
                    [reader.id, *viewer.followees],
                    pulled,
                    reader.id,
                    limit,
                )
                window = await candidates.fetch_home(
                    world.pool, viewer, below=below, limit=limit, pulled=pulled
                )
                found = [entry[0] for entry in window.entries]
                assert found == [int(row[0]) for row in rows]
                assert window.floor == (found[-1] if len(found) == limit else 0)


async def insert_row(
    connection: "psycopg.AsyncConnection[Any]",
    chance: random.Random,
    author: Account,
    tweet: int,
    original: int,
    gone: Account,
) -> None:
    deleted = chance.random() < 0.2
    repeats = not deleted and chance.random() < 0.1
    await connection.execute(
        "INSERT INTO tweets (id, author_id, content, conversation_id, delivery, created_at,"
        " deleted_at, retweet_of, original_author_id) VALUES (%s, %s, '', %s, %s, now(),"
        " CASE WHEN %s THEN now() END, %s, %s) ON CONFLICT DO NOTHING",
        (
            tweet,
            author.id,
            tweet,
            chance.choice([PUSH, PULL]),
            deleted,
            original if repeats else None,
            gone.id if repeats else None,
        ),
    )

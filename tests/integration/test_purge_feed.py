"""The feed that keeps process caches honest, on a real PostgreSQL."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import psycopg
import pytest
import pytest_asyncio

from mesh.settings import Settings
from servers import purge_feed
from servers.purge_feed import PurgeFeed
from storage import database, purges
from storage.database import Connection, Pool
from storage.purges import Kind, Purge

DEADLINE_S = 10.0


@dataclass
class Heard:
    """A cache that listens."""

    purges: list[Purge] = field(default_factory=list[Purge])
    emptied: int = 0

    def on_purge(self, purge: Purge) -> None:
        self.purges.append(purge)

    def forget_all(self) -> None:
        self.emptied += 1

    def take(self) -> set[tuple[int, int]]:
        taken = {(purge.subject_id, purge.version) for purge in self.purges}
        self.purges.clear()
        return taken


@pytest_asyncio.fixture
async def pool(settings: Settings) -> AsyncGenerator[Pool]:
    async with database.open_pool(settings, size_max=8) as opened:
        yield opened


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest_asyncio.fixture
async def feed(pool: Pool, settings: Settings, heard: Heard) -> PurgeFeed:
    opened = PurgeFeed(pool, settings)
    opened.listen(heard.on_purge, heard.forget_all)
    await opened.poll()
    return opened


async def change(pool: Pool, subject: int, version: int = 1) -> None:
    async with pool.connection() as connection, connection.transaction():
        await purges.insert(connection, Kind.TWEET, subject, version)


@asynccontextmanager
async def open_change(pool: Pool, subject: int) -> AsyncGenerator[Connection]:
    """A transaction that has said what to forget, and commits on leaving."""
    async with pool.connection() as connection, connection.transaction():
        await purges.insert(connection, Kind.TWEET, subject, 1)
        yield connection


async def test_what_was_there_before_the_feed_began_is_not_told(
    pool: Pool, settings: Settings, heard: Heard
):
    await change(pool, 1)
    feed = PurgeFeed(pool, settings)
    feed.listen(heard.on_purge, heard.forget_all)
    assert not feed.fresh

    await feed.poll()

    assert feed.fresh
    assert heard.emptied == 1, "what was cached before was never checked"
    assert heard.take() == set()


async def test_change_is_told_with_its_version(pool: Pool, feed: PurgeFeed, heard: Heard):
    await change(pool, 1, version=7)
    async with pool.connection() as connection, connection.transaction():
        await purges.insert(connection, Kind.USER, 2)

    await feed.poll()

    assert sorted(heard.purges, key=lambda purge: purge.subject_id) == [
        Purge(Kind.TWEET, 1, 7),
        Purge(Kind.USER, 2, 0),
    ]


async def test_what_caches_of_a_later_release_must_forget_is_passed_over(
    pool: Pool, feed: PurgeFeed, heard: Heard
):
    async with pool.connection() as connection, connection.transaction():
        await connection.execute("INSERT INTO purges (kind, subject_id, version) VALUES (99, 1, 1)")
        await purges.insert(connection, Kind.TWEET, 2, 1)

    await feed.poll()

    assert heard.purges == [Purge(Kind.TWEET, 2, 1)]


async def test_change_that_commits_late_is_not_missed(pool: Pool, feed: PurgeFeed, heard: Heard):
    async with open_change(pool, 1):
        for subject in range(2, 6):
            await change(pool, subject)
            await feed.poll()
            assert 1 not in {tweet for tweet, _ in heard.take()}

    await feed.poll()

    assert (1, 1) in heard.take()


async def test_changes_that_overlap_and_commit_in_any_order_are_all_told(
    pool: Pool, feed: PurgeFeed, heard: Heard
):
    told: set[tuple[int, int]] = set()
    for turn in range(5):
        first, second, third = 100 + turn, 200 + turn, 300 + turn
        outer = open_change(pool, first)
        await outer.__aenter__()
        async with open_change(pool, second):
            await feed.poll()
            await change(pool, third)
        await feed.poll()
        await outer.__aexit__(None, None, None)
        await feed.poll()
        told |= heard.take()
        assert {(first, 1), (second, 1), (third, 1)} <= told


async def test_transaction_that_wrote_something_else_first_is_not_missed(
    pool: Pool, feed: PurgeFeed, heard: Heard
):
    """Its transaction id is older than those of changes that were already told."""
    async with pool.connection() as connection, connection.transaction():
        await connection.execute("INSERT INTO deployment_facts VALUES ('early', 'id')")
        await change(pool, 2)
        await feed.poll()
        await feed.poll()
        await purges.insert(connection, Kind.TWEET, 1, 1)
        await feed.poll()

    heard.take()
    await feed.poll()

    assert (1, 1) in heard.take()


async def test_change_that_is_rolled_back_is_not_told(pool: Pool, feed: PurgeFeed, heard: Heard):
    with pytest.raises(psycopg.Error):
        async with open_change(pool, 1) as connection:
            await connection.execute("SELECT 1 / 0")

    await feed.poll()

    assert heard.take() == set()


async def test_change_is_told_once_when_nothing_else_runs(
    pool: Pool, feed: PurgeFeed, heard: Heard
):
    await change(pool, 1)
    await feed.poll()
    heard.take()

    # PostgreSQL's own work may hold old transactions open for a moment.
    deadline = time.monotonic() + DEADLINE_S
    await feed.poll()
    while heard.take():
        assert time.monotonic() < deadline
        await feed.poll()


async def test_too_many_changes_empty_the_cache_instead(
    pool: Pool, feed: PurgeFeed, heard: Heard, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(purges, "ROWS_MAX", 3)
    for subject in range(4):
        await change(pool, subject)
    await feed.poll()
    assert (heard.take(), heard.emptied) == (set(), 2)

    await change(pool, 9)
    await feed.poll()

    assert (heard.take(), heard.emptied) == ({(9, 1)}, 2)


async def test_feed_that_cannot_ask_is_stale_and_catches_up(
    pool: Pool, feed: PurgeFeed, heard: Heard, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(purge_feed, "STALE_AFTER_S", 0.05)
    async with pool.connection() as connection:
        await connection.execute("ALTER TABLE purges RENAME TO away")
    with pytest.raises(psycopg.Error):
        await feed.poll()
    deadline = time.monotonic() + DEADLINE_S
    while feed.fresh:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    async with pool.connection() as connection:
        await connection.execute("ALTER TABLE away RENAME TO purges")
    await change(pool, 1)

    await feed.poll()

    assert feed.fresh
    assert heard.take() == {(1, 1)}


async def test_running_feed_outlives_a_database_that_ends_its_connections(
    pool: Pool, settings: Settings, heard: Heard
):
    feed = PurgeFeed(pool, settings.model_copy(update={"purge_poll_ms": 10}))
    feed.listen(heard.on_purge, heard.forget_all)
    running = asyncio.create_task(feed.run())
    try:
        async with await psycopg.AsyncConnection.connect(
            settings.database_url, autocommit=True
        ) as other:
            await other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            await other.execute("INSERT INTO purges (kind, subject_id) VALUES (1, 1)")
        deadline = time.monotonic() + DEADLINE_S
        # It may have begun only after the change; then it began with an empty cache.
        while (1, 0) not in heard.take() and not (heard.emptied and feed.fresh):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_old_rows_are_deleted(pool: Pool):
    await change(pool, 1)
    async with pool.connection() as connection:
        await connection.execute("UPDATE purges SET created_at = now() - interval '2 hours'")
    await change(pool, 2)

    await purges.delete_old(pool)

    async with pool.connection() as connection:
        cursor = await connection.execute("SELECT subject_id FROM purges")
        assert await cursor.fetchall() == [(2,)]

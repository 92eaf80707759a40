"""Tweets that are written together: each gets the answer that it would get alone."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import replace

import pytest
import pytest_asyncio

from domain.ids import TweetId, UserId
from mesh.settings import Settings
from servers.group_commit import GROUP_MAX, GroupCommit, Plain
from servers.tweet_service import new_row
from servers.tweet_writer import NO_NOTICES, AlreadyPosted, Written
from storage import database, snowflakes
from storage.database import Pool
from storage.tweets import TweetRow
from tests.integration.accounts import Accounts
from tests.world import open_world


@pytest_asyncio.fixture
async def pool(settings: Settings) -> AsyncGenerator[Pool]:
    async with database.open_pool(settings) as opened:
        yield opened


@pytest_asyncio.fixture
async def commit(pool: Pool) -> AsyncGenerator[GroupCommit]:
    async with snowflakes.lease(pool) as ids:
        yield GroupCommit(pool, ids)


@pytest_asyncio.fixture
async def authors(accounts: Accounts) -> list[UserId]:
    return [UserId(account.id) for account in await accounts.insert(GROUP_MAX + 5)]


def plain(author: UserId, content: str = "hello", *, request_id: str = "") -> Plain:
    return Plain(
        author=author,
        request_id=request_id,
        location="",
        notices=NO_NOTICES,
        row=lambda tweet_id: new_row(tweet_id, author)._replace(content=content),
    )


async def tweets_of(pool: Pool, author: UserId) -> list[tuple[int, str]]:
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT id, content FROM tweets WHERE author_id = %s ORDER BY id", (author,)
        )
        return [(int(row[0]), str(row[1])) for row in await cursor.fetchall()]


async def events_and_count(pool: Pool, author: UserId) -> tuple[int, int]:
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT (SELECT count(*) FROM outbox WHERE partition_key = users.id), tweet_count"
            " FROM users WHERE id = %s",
            (author,),
        )
        row = await cursor.fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


async def test_each_tweet_of_many_is_stored_once_with_its_event_and_its_count(
    pool: Pool, commit: GroupCommit, authors: list[UserId]
) -> None:
    written = await asyncio.gather(
        *(commit.write(plain(author, f"by {author}")) for author in authors)
    )
    for author, each in zip(authors, written, strict=True):
        assert each is not None
        assert await tweets_of(pool, author) == [(each.row.id, f"by {author}")]
        assert await events_and_count(pool, author) == (1, 1)


async def test_tweets_of_one_author_stand_in_the_order_of_the_calls(
    pool: Pool, commit: GroupCommit, authors: list[UserId]
) -> None:
    author, contents = authors[0], [f"number {n}" for n in range(5)]
    written = await asyncio.gather(*(commit.write(plain(author, text)) for text in contents))
    assert all(written)
    assert [content for _, content in await tweets_of(pool, author)] == contents
    assert await events_and_count(pool, author) == (5, 5)


async def test_a_request_id_is_used_once_also_by_two_at_once(
    pool: Pool, commit: GroupCommit, authors: list[UserId]
) -> None:
    author, other = authors[:2]
    calls = [
        commit.write(plain(author, request_id="r")),
        commit.write(plain(author, request_id="r")),
        commit.write(plain(other, request_id="r")),
    ]
    first, second, of_other = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(first, Written)
    assert isinstance(second, AlreadyPosted)
    assert isinstance(of_other, Written)
    assert len(await tweets_of(pool, author)) == 1
    # What was counted for the one that is not stored was taken back.
    assert await events_and_count(pool, author) == (1, 1)


async def test_who_comes_first_does_not_lend_the_group_its_context(
    commit: GroupCommit, authors: list[UserId]
) -> None:
    request, seen = ContextVar("request", default="nobody's"), list[str]()
    tweet = plain(authors[0])

    def row(tweet_id: TweetId) -> TweetRow:
        seen.append(request.get())
        return tweet.row(tweet_id)

    request.set("the first one's")
    assert await commit.write(replace(tweet, row=row))
    assert seen == ["nobody's"]


async def test_whose_row_is_held_goes_alone_and_keeps_nobody_waiting(
    pool: Pool, commit: GroupCommit, authors: list[UserId]
) -> None:
    held, free = authors[:2]
    async with pool.connection() as connection, connection.transaction():
        await connection.execute("SELECT FROM users WHERE id = %s FOR UPDATE", (held,))
        async with asyncio.timeout(4):  # statements give up after 5 s
            answers = await asyncio.gather(commit.write(plain(held)), commit.write(plain(free)))
    assert answers[0] is None
    assert answers[1] is not None
    assert await tweets_of(pool, held) == []


async def test_counts_are_exact_while_others_change_the_same_rows(
    pool: Pool, commit: GroupCommit, authors: list[UserId]
) -> None:
    few, changes, done = authors[:4], 0, asyncio.Event()

    async def change() -> None:
        nonlocal changes
        while not done.is_set():
            async with pool.connection() as connection:
                await connection.execute(
                    "UPDATE users SET follower_count = follower_count + 1 WHERE id = ANY(%s)",
                    (few,),
                )
            changes += 1

    changing = asyncio.create_task(change())
    written: Counter[UserId] = Counter()
    for _ in range(100):
        outcomes = await asyncio.gather(*(commit.write(plain(author)) for author in few))
        written.update(author for author, each in zip(few, outcomes, strict=True) if each)
    done.set()
    await changing

    assert changes > 10
    for author in few:
        assert written[author] == len(await tweets_of(pool, author))
        assert await events_and_count(pool, author) == (written[author], written[author])
        async with pool.connection() as connection:
            cursor = await connection.execute(
                "SELECT follower_count FROM users WHERE id = %s", (author,)
            )
            assert await cursor.fetchone() == (changes,)


async def test_a_transaction_that_is_stuck_keeps_nobody_waiting(
    pool: Pool, commit: GroupCommit, authors: list[UserId]
) -> None:
    async with pool.connection() as connection, connection.transaction():
        # The first group gets as far as its inserts, and waits there.
        await connection.execute("LOCK TABLE outbox IN SHARE MODE")
        stuck = asyncio.create_task(commit.write(plain(authors[0])))
        await until_waiting_for_locks(pool, 1)
        others = [asyncio.create_task(commit.write(plain(author))) for author in authors[1:3]]
        await until_waiting_for_locks(pool, 2)
        assert not any(task.done() for task in (stuck, *others))
    assert all(await asyncio.gather(stuck, *others))


async def until_waiting_for_locks(pool: Pool, count: int) -> None:
    async with asyncio.timeout(4), pool.connection() as connection:
        while True:
            cursor = await connection.execute(
                "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'relation'"
                " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            )
            row = await cursor.fetchone()
            if row is not None and row[0] >= count:
                return


async def test_an_unknown_author_goes_alone(pool: Pool, commit: GroupCommit) -> None:
    assert await commit.write(plain(UserId(1 << 60))) is None
    assert await tweets_of(pool, UserId(1 << 60)) == []


async def test_one_that_cannot_be_stored_takes_nobody_with_it_half_done(
    pool: Pool, commit: GroupCommit, authors: list[UserId]
) -> None:
    bad, good = authors[:2]
    answers = await asyncio.gather(commit.write(plain(bad, "x" * 281)), commit.write(plain(good)))
    assert answers == [None, None]
    assert await tweets_of(pool, bad) == await tweets_of(pool, good) == []
    assert await events_and_count(pool, good) == (0, 0)


async def test_a_caller_that_left_before_its_turn_posts_nothing(
    pool: Pool, commit: GroupCommit, authors: list[UserId]
) -> None:
    leaving, staying = authors[:2]
    call = asyncio.create_task(commit.write(plain(leaving)))
    await asyncio.sleep(0)  # it waits now; the group's transaction has not begun
    call.cancel()
    with suppress(asyncio.CancelledError):
        await call
    assert await commit.write(plain(staying)) is not None
    assert await tweets_of(pool, leaving) == []


async def test_a_database_that_is_away_is_an_error_and_the_next_group_goes_on(
    pool: Pool, commit: GroupCommit, authors: list[UserId], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(pool, "connection", _refuse)
        with pytest.raises(ConnectionError):
            await commit.write(plain(authors[0]))
    assert await commit.write(plain(authors[0])) is not None
    assert len(await tweets_of(pool, authors[0])) == 1


def _refuse() -> None:
    raise ConnectionError("PostgreSQL is away")


async def test_plain_tweets_and_answers_of_one_author_at_once(settings: Settings) -> None:
    async with open_world(settings) as world:
        author, other = await world.accounts.insert(2)
        parent = await world.post(other)
        posted = await asyncio.gather(
            *(world.post(author, f"plain {n}") for n in range(10)),
            *(world.post(author, f"answer {n}", reply_to=parent.id) for n in range(10)),
        )
        await world.drain()
        assert await world.home(author) == sorted((tweet.id for tweet in posted), reverse=True)
        assert await events_and_count(world.pool, UserId(author.id)) == (20, 20)


async def test_a_connection_that_one_slow_group_needed_is_closed_again(settings: Settings) -> None:
    async with database.open_pool(settings, size_max=3, idle_s=0.1) as pool:
        async with pool.connection(), pool.connection(), pool.connection():
            assert pool.get_stats()["pool_size"] == 3
        async with asyncio.timeout(10):
            while pool.get_stats()["pool_size"] > 1:
                async with pool.connection() as connection:  # one after the other, as groups do
                    await connection.execute("SELECT 1")

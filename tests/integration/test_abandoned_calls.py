"""What still runs when callers have gone: nothing of theirs, down to the statement."""

import asyncio
import os
import socket
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, LiteralString

import grpc
import psycopg
import pytest
import pytest_asyncio
from chirp.v1 import timeline_pb2, tweet_pb2
from psycopg import sql

from mesh.settings import Settings
from storage import database
from tests.integration.accounts import Account
from tests.world import World, open_world

CALLS = 12  # more than a pool has connections: some wait for one
GONE_WITHIN_S = 1.0
DEADLINE_S = 20.0
# Whatever an abandoned call left open, it must not keep the test waiting for ever.
LOCK_OPTIONS = f"-c lock_timeout={DEADLINE_S}s"

WAITING = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'chirp'
      AND state = 'active' AND wait_event_type = 'Lock'
"""


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(module_settings: Settings) -> AsyncGenerator[World]:
    async with open_world(module_settings) as opened:
        yield opened


@asynccontextmanager
async def locked(
    world: World, table: LiteralString
) -> AsyncGenerator[Callable[[], Awaitable[int]]]:
    """Nobody reads or writes a table; yields what counts the statements that wait for it."""
    async with (
        await psycopg.AsyncConnection.connect(
            world.settings.database_url, options=LOCK_OPTIONS
        ) as connection,
        await psycopg.AsyncConnection.connect(
            world.settings.database_url, autocommit=True
        ) as looking,
    ):

        async def waiting() -> int:
            row = await (await looking.execute(WAITING)).fetchone()
            assert row is not None
            return int(row[0])

        await connection.execute(
            sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(sql.Identifier(table))
        )
        yield waiting
        await connection.rollback()


async def until(
    count: Callable[[], Awaitable[int]], wanted: Callable[[int], bool], within_s: float
) -> None:
    """Waits until a count is as wanted."""
    started = time.monotonic()
    while not wanted(counted := await count()):
        assert time.monotonic() - started < within_s, f"still {counted}"
        await asyncio.sleep(0.01)


async def followers_of_one_tweet(world: World) -> tuple[list[Account], int]:
    """Returns accounts, and the tweet that stands in the home timeline of each."""
    author, *users = await world.accounts.insert(1 + CALLS)
    for user in users:
        await world.follow(user, author)
    return users, (await world.post(author)).id


async def nothing_was_done_and_all_goes_on(world: World, users: list[Account], tweet: int) -> None:
    """Nothing of theirs was stored, and every connection is good for the next caller."""
    request = tweet_pb2.GetTweetRequest(id=tweet)
    shown = await asyncio.gather(*(world.tweets.GetTweet(request) for _ in range(2 * CALLS)))
    assert {each.like_count for each in shown} == {0}
    pages = await asyncio.gather(*(world.home_page(user) for user in users))
    assert [[each.id for each in page.tweets] for page in pages] == [[tweet]] * len(users)
    assert not any(page.tweets[0].liked for page in pages)


Calls = Callable[[World, list[Account], int, float | None], Iterable[Any]]


def reads_of_tweets(
    world: World, users: list[Account], tweet: int, timeout: float | None = None
) -> Iterable[Any]:
    request = tweet_pb2.GetTweetRequest(id=tweet)
    return [world.tweets.GetTweet(request, timeout=timeout) for _ in range(CALLS)]


def home_reads(
    world: World, users: list[Account], tweet: int, timeout: float | None = None
) -> Iterable[Any]:
    request = timeline_pb2.GetHomeTimelineRequest()
    return [
        world.timelines.GetHomeTimeline(request, metadata=user.metadata, timeout=timeout)
        for user in users
    ]


def posts(world: World, users: list[Account], tweet: int, timeout: float | None) -> Iterable[Any]:
    request = tweet_pb2.CreateTweetRequest(content="never seen")
    return [
        world.tweets.CreateTweet(request, metadata=user.metadata, timeout=timeout) for user in users
    ]


def likes(world: World, users: list[Account], tweet: int, timeout: float | None) -> Iterable[Any]:
    request = tweet_pb2.CreateLikeRequest(id=tweet)
    return [
        world.tweets.CreateLike(request, metadata=user.metadata, timeout=timeout) for user in users
    ]


CASES: dict[str, tuple[LiteralString, Calls]] = {
    "reads": ("tweets", reads_of_tweets),
    "rebuilds that readers share": ("tweets", home_reads),
    "a server behind a server": ("likes", home_reads),
    "groups of tweets": ("tweets", posts),
    "transactions": ("tweets", likes),
}


@pytest.mark.parametrize("case", CASES)
async def test_nothing_runs_on_for_callers_who_hang_up(world: World, case: str) -> None:
    table, calls = CASES[case]
    users, tweet = await followers_of_one_tweet(world)
    async with locked(world, table) as waiting:
        under_way = list(calls(world, users, tweet, None))
        await until(waiting, lambda count: count > 0, DEADLINE_S)

        for call in under_way:
            call.cancel()
        codes = {await call.code() for call in under_way}

        await until(waiting, lambda count: count == 0, GONE_WITHIN_S)
    assert codes == {grpc.StatusCode.CANCELLED}
    await nothing_was_done_and_all_goes_on(world, users, tweet)


async def test_nothing_runs_on_for_callers_whose_deadline_passed(world: World) -> None:
    users, tweet = await followers_of_one_tweet(world)
    async with locked(world, "likes") as waiting:
        for timeout_s in (0.5, 2.0, 8.0):  # long enough to get so far, also on a busy machine
            under_way = [
                *home_reads(world, users, tweet, timeout_s),
                *likes(world, users, tweet, timeout_s),
            ]
            ended = asyncio.gather(*(call.code() for call in under_way))
            seen = 0
            while not ended.done():
                seen = max(seen, await waiting())
                await asyncio.sleep(0.01)
            if seen:
                break
        codes = {await call.code() for call in under_way}

        await until(waiting, lambda count: count == 0, GONE_WITHIN_S)
    assert seen
    assert codes == {grpc.StatusCode.DEADLINE_EXCEEDED}
    await nothing_was_done_and_all_goes_on(world, users, tweet)


async def test_nothing_runs_on_for_a_process_that_died(world: World) -> None:
    async with locked(world, "likes") as waiting, database.open_pool(world.settings) as pool:
        connection = await pool.getconn()
        running = asyncio.create_task(connection.execute("SELECT FROM likes"))
        await until(waiting, lambda count: count > 0, DEADLINE_S)

        # As the kernel does to a process that was killed.
        with socket.socket(fileno=os.dup(connection.fileno())) as its_own:
            its_own.shutdown(socket.SHUT_RDWR)

        looks_s = database.CLIENT_CHECK_MS / 1000
        await until(waiting, lambda count: count == 0, looks_s + GONE_WITHIN_S)
        with pytest.raises(psycopg.OperationalError):
            await running
        await pool.putconn(connection)

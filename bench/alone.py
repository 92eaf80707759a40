"""A benchmark of its own: a stack with an author whom many follow, rows of figures, and a file that
keeps them."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
from chirp.v1 import tweet_pb2, tweet_pb2_grpc
from rich.console import Console

from bench import rows, runs, stack
from bench.rows import Row
from bench.stack import BenchStack
from bench.world import mint_tokens
from domain.ids import UserId
from storage import bulk

FOLLOWEES = 22  # of each viewer: the mean of the real graph
FIRST_ID = 10_000_000

Post = Callable[[tweet_pb2.CreateTweetRequest], Awaitable[None]]


def main(
    latest: Path,
    viewers: int,
    processes: Sequence[str],
    measure: Callable[[BenchStack, UserId], Awaitable[list[Row]]],
) -> int:
    """Starts processes in this order, measures, prints the rows and writes them to a file; returns
    the exit status. `measure` is told the author; viewers have the ids that follow the author's."""

    async def all_of_it(folder: Path) -> None:
        measured = await _measured(folder, viewers, processes, measure)
        Console().print(rows.table(measured))
        rows.write_json(measured, latest)

    return runs.run(latest.stem, all_of_it)


async def _measured(
    folder: Path,
    viewers: int,
    processes: Sequence[str],
    measure: Callable[[BenchStack, UserId], Awaitable[list[Row]]],
) -> list[Row]:
    async with stack.opened(runs.settings_in(folder)) as running:
        author = await _make_world(running, viewers)
        running.place_processes()
        await running.start(*processes)
        return await measure(running, author)


async def _make_world(running: BenchStack, viewers: int) -> UserId:
    """Makes accounts that all follow one, and some others; returns the one."""
    async with bulk.connect(running.settings) as connection:
        await connection.execute(
            "INSERT INTO users (id, username, display_name)"
            " SELECT n, 'shape_' || n, 'shape' FROM generate_series(%s::bigint, %s::bigint) AS n",
            (FIRST_ID, FIRST_ID + viewers),
        )
        await connection.execute(
            "INSERT INTO follows (follower_id, followee_id, id)"
            " SELECT n, CASE k WHEN 0 THEN %(first)s"
            "   ELSE %(first)s + 1 + (n * 7 + k * 131) %% %(count)s END,"
            "  (n - %(first)s) * 100 + k"
            " FROM generate_series(%(first)s::bigint + 1, %(first)s::bigint + %(count)s) AS n,"
            "  generate_series(0, %(followees)s - 1) AS k"
            " WHERE k = 0 OR 1 + (n * 7 + k * 131) %% %(count)s <> n - %(first)s"
            " ON CONFLICT DO NOTHING",
            {"first": FIRST_ID, "count": viewers, "followees": FOLLOWEES},
        )
        await connection.execute("ANALYZE")
    return UserId(FIRST_ID)


@asynccontextmanager
async def posting(running: BenchStack, author: UserId) -> AsyncGenerator[Post]:
    """Opens what posts as the author."""
    (token,) = mint_tokens(running.settings, [author])
    target = f"127.0.0.1:{running.port('tweet_server')}"
    async with grpc.aio.insecure_channel(target) as channel:
        stub: tweet_pb2_grpc.TweetServiceAsyncStub = tweet_pb2_grpc.TweetServiceStub(channel)

        async def post(tweet: tweet_pb2.CreateTweetRequest) -> None:
            await stub.CreateTweet(tweet, metadata=(("authorization", f"Bearer {token}"),))

        yield post

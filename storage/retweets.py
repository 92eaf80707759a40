"""Retweets: tweets that repeat an original. Owned by tweet_server. At most one of each original by
each account is not deleted (a unique index holds it)."""

from collections.abc import Sequence

from psycopg.rows import class_row

from domain.ids import TweetId, UserId
from storage.database import Connection, Pool
from storage.likes import Listed
from storage.tweets import COLUMNS, TweetRow


async def fetch_own(connection: Connection, user: UserId, original: TweetId) -> TweetRow | None:
    """Returns the user's retweet of an original that is not undone."""
    async with connection.cursor(row_factory=class_row(TweetRow)) as cursor:
        await cursor.execute(
            f"SELECT {COLUMNS} FROM tweets"
            " WHERE author_id = %s AND retweet_of = %s AND deleted_at IS NULL",
            (user, original),
        )
        return await cursor.fetchone()


async def fetch_retweeters(
    pool: Pool, original: TweetId, *, below: int, count: int
) -> list[Listed]:
    """Returns up to `count` who retweeted an original, by retweets with an id less than `below`,
    the newest first."""
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT author_id, id FROM tweets WHERE retweet_of = %s AND id < %s"
            " AND deleted_at IS NULL ORDER BY id DESC LIMIT %s",
            (original, below, count),
        )
        return [Listed(int(row[0]), int(row[1])) for row in await cursor.fetchall()]


async def fetch_retweeted(pool: Pool, user: UserId, *, count: int) -> list[int]:
    """Returns the `count` greatest ids of originals that a user has retweeted, falling."""
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT retweet_of FROM tweets WHERE author_id = %s AND retweet_of IS NOT NULL"
            " AND deleted_at IS NULL ORDER BY retweet_of DESC LIMIT %s",
            (user, count),
        )
        return [int(row[0]) for row in await cursor.fetchall()]


async def fetch_retweeted_among(pool: Pool, user: UserId, ids: Sequence[int]) -> list[int]:
    """Returns those of the tweets that a user has retweeted."""
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT retweet_of FROM tweets WHERE author_id = %s AND retweet_of = ANY(%s)"
            " AND deleted_at IS NULL",
            (user, list(ids)),
        )
        return [int(row[0]) for row in await cursor.fetchall()]


async def fetch_among(
    pool: Pool, *, users: Sequence[int], ids: Sequence[int]
) -> list[tuple[int, int]]:
    """Returns (user, original) of the retweets of these originals by these users."""
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT author_id, retweet_of FROM tweets WHERE author_id = ANY(%s)"
            " AND retweet_of = ANY(%s) AND deleted_at IS NULL",
            (list(users), list(ids)),
        )
        return [(int(row[0]), int(row[1])) for row in await cursor.fetchall()]

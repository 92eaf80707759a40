"""Likes. Owned by tweet_server. A retweet is never liked: its original is."""

from collections.abc import Sequence
from dataclasses import dataclass

from domain.ids import TweetId, UserId
from storage.database import Connection, Pool

ABOVE_ALL = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Listed:
    """Somebody in a list of likers or retweeters, and the position of the list's cursor."""

    user_id: int
    position: int


async def insert(connection: Connection, *, user: UserId, tweet: TweetId, like_id: int) -> bool:
    """Likes; returns False where it was so already."""
    cursor = await connection.execute(
        "INSERT INTO likes (user_id, tweet_id, id) VALUES (%s, %s, %s)"
        " ON CONFLICT (user_id, tweet_id) DO NOTHING",
        (user, tweet, like_id),
    )
    return cursor.rowcount == 1


async def delete(connection: Connection, *, user: UserId, tweet: TweetId) -> bool:
    """Takes a like back; returns False where there was none."""
    cursor = await connection.execute(
        "DELETE FROM likes WHERE user_id = %s AND tweet_id = %s", (user, tweet)
    )
    return cursor.rowcount == 1


async def fetch_likers(pool: Pool, tweet: TweetId, *, below: int, count: int) -> list[Listed]:
    """Returns up to `count` likers whose like's id is less than `below`, the newest first."""
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT user_id, id FROM likes WHERE tweet_id = %s AND id < %s"
            " ORDER BY id DESC LIMIT %s",
            (tweet, below, count),
        )
        return [Listed(int(row[0]), int(row[1])) for row in await cursor.fetchall()]


async def fetch_liked(pool: Pool, user: UserId, *, count: int) -> list[int]:
    """Returns the `count` greatest ids of tweets that a user likes, falling."""
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT tweet_id FROM likes WHERE user_id = %s ORDER BY tweet_id DESC LIMIT %s",
            (user, count),
        )
        return [int(row[0]) for row in await cursor.fetchall()]


async def fetch_liked_among(pool: Pool, user: UserId, ids: Sequence[int]) -> list[int]:
    """Returns those of the tweets that a user likes."""
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT tweet_id FROM likes WHERE user_id = %s AND tweet_id = ANY(%s)",
            (user, list(ids)),
        )
        return [int(row[0]) for row in await cursor.fetchall()]


async def fetch_among(
    pool: Pool, *, users: Sequence[int], ids: Sequence[int]
) -> list[tuple[int, int]]:
    """Returns (user, tweet) of the likes of these users and these tweets."""
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT user_id, tweet_id FROM likes WHERE user_id = ANY(%s) AND tweet_id = ANY(%s)",
            (list(users), list(ids)),
        )
        return [(int(row[0]), int(row[1])) for row in await cursor.fetchall()]

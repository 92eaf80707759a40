"""Tweets in PostgreSQL: the rows of tweet_server, and the counts on the author's row that belong to
the tweet's own transaction.

Lock order, everywhere: users rows, then tweets rows by id. So no two transactions wait for each
other, and the outbox ids of one author grow in commit order.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString, NamedTuple

from psycopg.rows import class_row

from domain.ids import TweetId, UserId
from domain.tier import Tier
from storage.database import Connection, Pool
from storage.erasures import being_erased
from storage.users import SummaryRow

# Literal, as every statement here: the type checker refuses a built string. What an account that
# was deleted has posted is deleted from then on.
COLUMNS: LiteralString = (
    "id, author_id, content, media_urls, hashtags, mentions, reply_to, replied_author_id,"
    " retweet_of, original_author_id, quote_of, conversation_id, location, like_count,"
    " retweet_count, reply_count, quote_count, delivery, version, created_at,"
    " coalesce(deleted_at, (SELECT e.erased_at FROM tweet_erasures AS e"
    "  WHERE e.user_id = author_id)) AS deleted_at"
)
STAMP_COLUMNS: LiteralString = (
    "users.id, username, display_name, tier, location, first_pulled_tweet_id"
)


class TweetRow(NamedTuple):
    """A tweet as stored. Each post makes some, one from the other, which a frozen dataclass of so
    many fields takes three times as long for."""

    id: int
    author_id: int
    content: str
    media_urls: list[str]
    hashtags: list[str]
    mentions: list[int]
    reply_to: int | None
    replied_author_id: int | None
    retweet_of: int | None
    original_author_id: int | None
    quote_of: int | None
    conversation_id: int
    location: str
    like_count: int
    retweet_count: int
    reply_count: int
    quote_count: int
    delivery: int
    version: int
    created_at: datetime
    deleted_at: datetime | None


class AuthorStamp(NamedTuple):
    """What the author's row says when a tweet is stamped."""

    author: SummaryRow
    tier: Tier
    location: str
    first_pulled_tweet_id: int | None

    @classmethod
    def of(cls, row: Sequence[Any]) -> "AuthorStamp":
        """Returns what STAMP_COLUMNS hold."""
        author, username, display_name, tier, location, first_pulled_tweet_id = row
        summary = SummaryRow(UserId(author), username, display_name)
        return cls(summary, Tier(tier), location, first_pulled_tweet_id)


@dataclass(frozen=True, slots=True)
class Target:
    """A tweet that is liked, retweeted, answered or quoted; never a retweet."""

    id: int
    author_id: int
    conversation_id: int


@dataclass(frozen=True, slots=True)
class CountChange:
    """By how much the counts of a tweet change."""

    likes: int = 0
    retweets: int = 0
    replies: int = 0
    quotes: int = 0

    def plus(self, other: "CountChange") -> "CountChange":
        """Returns both changes as one."""
        return CountChange(
            self.likes + other.likes,
            self.retweets + other.retweets,
            self.replies + other.replies,
            self.quotes + other.quotes,
        )


async def lock_user(connection: Connection, user: UserId) -> bool:
    """Holds an account's row until the transaction ends, so that the account's events keep the
    order of their commits; returns False where there is no such account."""
    cursor = await connection.execute(
        "SELECT FROM users WHERE id = %s AND erased_at IS NULL FOR NO KEY UPDATE", (user,)
    )
    return await cursor.fetchone() is not None


async def count_tweet(connection: Connection, author: UserId, change: int) -> AuthorStamp | None:
    """Locks the author's row and changes its tweet count; None where there is no such account."""
    cursor = await connection.execute(
        f"UPDATE users SET tweet_count = tweet_count + %s WHERE id = %s RETURNING {STAMP_COLUMNS}",
        (change, author),
    )
    row = await cursor.fetchone()
    return None if row is None else AuthorStamp.of(row)


async def mark_pulled(connection: Connection, author: UserId, tweet: TweetId) -> None:
    """Notes the author's first pulled tweet: from now on the followers pull."""
    await connection.execute(
        "UPDATE users SET first_pulled_tweet_id = %s WHERE id = %s", (tweet, author)
    )


async def fetch_targets(
    pool: Pool, ids: Sequence[int], *, undone: bool = False
) -> dict[int, Target]:
    """Returns tweets to like, retweet, answer or quote, by the id asked for: of a retweet, its
    original. Neither may be deleted; `undone` lets a retweet through that is."""
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT asked.id, found.id, found.author_id, found.conversation_id"
            " FROM tweets AS asked"
            " JOIN tweets AS found ON found.id = coalesce(asked.retweet_of, asked.id)"
            " WHERE asked.id = ANY(%s) AND found.deleted_at IS NULL"
            f" AND NOT {being_erased('found.author_id')}"
            f" AND ((asked.deleted_at IS NULL AND NOT {being_erased('asked.author_id')})"
            "  OR (%s AND asked.retweet_of IS NOT NULL))",
            (list(ids), undone),
        )
        return {row[0]: Target(*row[1:]) for row in await cursor.fetchall()}


async def was_posted(connection: Connection, author: UserId, request_id: str) -> bool:
    """Whether the author, whose row is locked, used a request id before; "" was never used."""
    if not request_id:
        return False
    cursor = await connection.execute(
        "SELECT FROM tweets WHERE author_id = %s AND request_id = %s", (author, request_id)
    )
    return await cursor.fetchone() is not None


async def lock_living(connection: Connection, author: UserId, tweet_id: TweetId) -> bool:
    """Locks the author's row; returns whether it is there and the author's tweet is not deleted,
    which stays so: whoever deletes it locks this row first."""
    cursor = await connection.execute(
        "SELECT FROM users WHERE id = %s AND erased_at IS NULL FOR NO KEY UPDATE", (author,)
    )
    if await cursor.fetchone() is None:
        return False
    cursor = await connection.execute(
        "SELECT FROM tweets WHERE id = %s AND deleted_at IS NULL", (tweet_id,)
    )
    return await cursor.fetchone() is not None


async def insert(connection: Connection, row: TweetRow, request_id: str | None) -> None:
    """Inserts a tweet. The author's row is locked, and `was_posted` false."""
    await connection.execute(
        "INSERT INTO tweets (id, author_id, content, media_urls, hashtags, mentions, reply_to,"
        " replied_author_id, retweet_of, original_author_id, quote_of, conversation_id, location,"
        " delivery, request_id, created_at)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
        (
            row.id, row.author_id, row.content, row.media_urls, row.hashtags, row.mentions,
            row.reply_to, row.replied_author_id, row.retweet_of, row.original_author_id,
            row.quote_of, row.conversation_id, row.location, row.delivery, request_id,
            row.created_at,
        ),
    )  # fmt: skip


async def change_counts(
    connection: Connection, changes: Mapping[int, CountChange], *, living: bool
) -> list[tuple[int, int]]:
    """Changes counts of tweets, in the order of their ids; returns (tweet, new version) of each
    that is there. `living` leaves deleted tweets as they are."""
    changed: list[tuple[int, int]] = []
    for tweet_id, change in sorted(changes.items()):
        cursor = await connection.execute(
            "UPDATE tweets SET like_count = like_count + %s, retweet_count = retweet_count + %s,"
            " reply_count = reply_count + %s, quote_count = quote_count + %s,"
            " version = version + 1 WHERE id = %s AND (deleted_at IS NULL OR NOT %s)"
            " RETURNING version",
            (change.likes, change.retweets, change.replies, change.quotes, tweet_id, living),
        )
        row = await cursor.fetchone()
        if row is not None:
            changed.append((tweet_id, int(row[0])))
    return changed


async def fetch_by_request(pool: Pool, author: UserId, request_id: str) -> TweetRow | None:
    """Returns the tweet that an author made with a request id, deleted or not."""
    async with (
        pool.connection() as connection,
        connection.cursor(row_factory=class_row(TweetRow)) as cursor,
    ):
        await cursor.execute(
            f"SELECT {COLUMNS} FROM tweets WHERE author_id = %s AND request_id = %s",
            (author, request_id),
        )
        return await cursor.fetchone()


async def fetch_by_ids(pool: Pool, ids: Sequence[int]) -> list[TweetRow]:
    """Returns tweets, deleted ones too, in no order; unknown ids are left out."""
    async with (
        pool.connection() as connection,
        connection.cursor(row_factory=class_row(TweetRow)) as cursor,
    ):
        await cursor.execute(f"SELECT {COLUMNS} FROM tweets WHERE id = ANY(%s)", (list(ids),))
        return await cursor.fetchall()


async def fetch_living(pool: Pool, ids: Sequence[int]) -> list[TweetRow]:
    """Returns the tweets that are not deleted, in no order; a retweet only with its original."""
    async with (
        pool.connection() as connection,
        connection.cursor(row_factory=class_row(TweetRow)) as cursor,
    ):
        await cursor.execute(
            f"SELECT {COLUMNS} FROM tweets AS t WHERE id = ANY(%s) AND t.deleted_at IS NULL"
            f" AND NOT {being_erased('author_id')}"
            " AND (retweet_of IS NULL OR EXISTS (SELECT FROM tweets AS original"
            "  WHERE original.id = t.retweet_of AND original.deleted_at IS NULL"
            f"  AND NOT {being_erased('original.author_id')}))",
            (list(ids),),
        )
        return await cursor.fetchall()


async def delete(connection: Connection, tweet_id: TweetId) -> TweetRow:
    """Marks a tweet as deleted that `lock_living` found; returns it."""
    async with connection.cursor(row_factory=class_row(TweetRow)) as cursor:
        await cursor.execute(
            "UPDATE tweets SET deleted_at = now(), version = version + 1"
            f" WHERE id = %s AND deleted_at IS NULL RETURNING {COLUMNS}",
            (tweet_id,),
        )
        row = await cursor.fetchone()
    assert row is not None, "only its author deletes a tweet, under the lock of the author's row"
    return row

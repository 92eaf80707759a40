"""Rows in bulk, by COPY, beside the services that own them: for `chirp load` and the sample world.

What is written here has no events: tweets made in bulk are in no timeline yet, and follows change
follower lists and timelines that may be in the cache. `storage/caches.py` drops those.

Lock order as everywhere: users rows by id first. Each function works in its caller's transaction.
"""

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

import psycopg

from domain.ids import UserId
from domain.tier import Thresholds, Tier, next_tier
from mesh.settings import Settings
from storage import tier_changes
from storage.database import Connection

STATEMENT_TIMEOUT_S = 120  # a batch takes seconds; what hangs for so long waits for a lock


@dataclass(frozen=True, slots=True)
class AccountRow:
    """An account without a password."""

    id: int
    username: str
    display_name: str
    bio: str
    location: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class FollowRow:
    """Who follows whom; `id` is a snowflake and gives the order of the lists."""

    follower_id: int
    followee_id: int
    id: int


@dataclass(frozen=True, slots=True)
class TweetRow:
    """A tweet that is no retweet and no quote."""

    id: int
    author_id: int
    content: str
    hashtags: Sequence[str]
    mentions: Sequence[int]
    reply_to: int | None
    replied_author_id: int | None
    conversation_id: int
    location: str
    delivery: int
    created_at: datetime


@asynccontextmanager
async def connect(settings: Settings) -> AsyncGenerator[Connection]:
    """Opens a connection for statements that take longer than a service's may."""
    async with await psycopg.AsyncConnection.connect(
        settings.database_url,
        autocommit=True,
        application_name="chirp bulk",
        options=f"-c statement_timeout={STATEMENT_TIMEOUT_S * 1000}",
    ) as connection:
        yield connection


async def is_empty(connection: Connection) -> bool:
    """Whether there is no account and no tweet."""
    cursor = await connection.execute(
        "SELECT NOT EXISTS (SELECT FROM users) AND NOT EXISTS (SELECT FROM tweets)"
    )
    row = await cursor.fetchone()
    return bool(row and row[0])


async def lock_accounts_table(connection: Connection) -> None:
    """Lets nobody else sign up, post or follow until the transaction ends."""
    await connection.execute("LOCK TABLE users IN SHARE ROW EXCLUSIVE MODE")


async def insert_accounts(connection: Connection, rows: Iterable[AccountRow]) -> int:
    """Inserts accounts, leaves those be that are there; returns how many were new.

    Raises LookupError where a name belongs to an account with another id."""
    await connection.execute(
        "CREATE TEMP TABLE IF NOT EXISTS bulk_accounts (id bigint, username text,"
        " display_name text, bio text, location text, created_at timestamptz)"
        " ON COMMIT DELETE ROWS"
    )
    async with (
        connection.cursor() as cursor,
        cursor.copy("COPY bulk_accounts FROM STDIN") as copy,
    ):
        for row in rows:
            await copy.write_row(
                (
                    row.id, row.username, row.display_name, row.bio, row.location,
                    row.created_at,
                )
            )  # fmt: skip
    inserted = await connection.execute(
        "INSERT INTO users (id, username, display_name, bio, location, created_at)"
        " SELECT id, username, display_name, bio, location, created_at FROM bulk_accounts"
        " ORDER BY id ON CONFLICT DO NOTHING"
    )
    cursor = await connection.execute(
        "SELECT username FROM bulk_accounts AS b"
        " WHERE NOT EXISTS (SELECT FROM users AS u WHERE u.id = b.id) LIMIT 1"
    )
    taken = await cursor.fetchone()
    if taken is not None:
        raise LookupError(f"the username {taken[0]} belongs to another account")
    return inserted.rowcount


async def lock_accounts(connection: Connection, ids: Sequence[int]) -> None:
    """Holds accounts' rows until the transaction ends."""
    await connection.execute(
        "SELECT count(*) FROM (SELECT FROM users WHERE id = ANY(%s) ORDER BY id"
        " FOR NO KEY UPDATE) AS held",
        (list(ids),),
    )


async def insert_follows(connection: Connection, rows: Iterable[FollowRow]) -> int:
    """Inserts follows and counts them on both accounts; leaves those be that are there, and those
    between two of whom one blocks the other. Returns how many were new. The caller holds the
    accounts' rows, so no block comes in between, and sets the tiers afterwards."""
    await connection.execute(
        "CREATE TEMP TABLE IF NOT EXISTS bulk_follows"
        " (follower_id bigint, followee_id bigint, id bigint) ON COMMIT DELETE ROWS"
    )
    async with (
        connection.cursor() as cursor,
        cursor.copy("COPY bulk_follows FROM STDIN") as copy,
    ):
        # Numbers need no escaping, and one large write is faster than many rows.
        text = "".join(f"{row.follower_id}\t{row.followee_id}\t{row.id}\n" for row in rows)
        await copy.write(text)
    cursor = await connection.execute(
        "WITH added AS ("
        "  INSERT INTO follows (follower_id, followee_id, id)"
        "  SELECT follower_id, followee_id, id FROM bulk_follows AS b WHERE NOT EXISTS ("
        "   SELECT FROM blocks WHERE (blocker_id, blocked_id) IN"
        "    ((b.follower_id, b.followee_id), (b.followee_id, b.follower_id)))"
        "  ON CONFLICT DO NOTHING RETURNING follower_id, followee_id),"
        " change AS ("
        "  SELECT id, sum(followers) AS followers, sum(following) AS following FROM ("
        "   SELECT followee_id AS id, 1 AS followers, 0 AS following FROM added"
        "   UNION ALL SELECT follower_id, 0, 1 FROM added) AS ends GROUP BY id),"
        " counted AS ("
        "  UPDATE users AS u SET follower_count = u.follower_count + change.followers,"
        "   following_count = u.following_count + change.following"
        "  FROM change WHERE u.id = change.id)"
        " SELECT count(*) FROM added"
    )
    row = await cursor.fetchone()
    assert row is not None
    return int(row[0])


async def update_tiers(connection: Connection, thresholds: Thresholds) -> int:
    """Puts every account into the tier of its follower count, with a row of its history; returns
    how many changed."""
    # Whoever is neither above the lowest line nor out of the lowest tier stays where it is.
    cursor = await connection.execute(
        "SELECT id, tier, follower_count FROM users WHERE follower_count >= %s OR tier > 1"
        " ORDER BY id FOR NO KEY UPDATE",
        (thresholds.influencer,),
    )
    changed = 0
    for account, tier, follower_count in await cursor.fetchall():
        due = next_tier(Tier(tier), follower_count, thresholds)
        if due != tier:
            await connection.execute("UPDATE users SET tier = %s WHERE id = %s", (due, account))
            await tier_changes.insert(
                connection,
                UserId(account),
                from_tier=Tier(tier),
                to_tier=due,
                follower_count=follower_count,
            )
            changed += 1
    return changed


async def fetch_tiers(connection: Connection) -> dict[int, Tier]:
    """Returns the tier of every account."""
    cursor = await connection.execute("SELECT id, tier FROM users")
    return {int(row[0]): Tier(row[1]) for row in await cursor.fetchall()}


async def insert_tweets(connection: Connection, rows: Iterable[TweetRow]) -> None:
    """Inserts tweets into an empty table and counts them, on their authors and on what they reply
    to. The caller keeps everybody else out."""
    async with (
        connection.cursor() as cursor,
        cursor.copy(
            "COPY tweets (id, author_id, content, hashtags, mentions, reply_to, replied_author_id,"
            " conversation_id, location, delivery, created_at) FROM STDIN"
        ) as copy,
    ):
        for row in rows:
            await copy.write_row(
                (
                    row.id, row.author_id, row.content, list(row.hashtags), list(row.mentions),
                    row.reply_to, row.replied_author_id, row.conversation_id, row.location,
                    row.delivery, row.created_at,
                )
            )  # fmt: skip
    await connection.execute(
        "UPDATE users AS u SET tweet_count = t.count, first_pulled_tweet_id = t.first_pulled"
        " FROM (SELECT author_id, count(*) AS count, min(id) FILTER (WHERE delivery = 2)"
        "  AS first_pulled FROM tweets GROUP BY author_id) AS t WHERE u.id = t.author_id"
    )
    await connection.execute(
        "UPDATE tweets AS t SET reply_count = r.count FROM (SELECT reply_to, count(*) AS count"
        " FROM tweets WHERE reply_to IS NOT NULL GROUP BY reply_to) AS r WHERE t.id = r.reply_to"
    )


async def fetch_most_followed(connection: Connection, *, up_to_id: int, count: int) -> list[int]:
    """Returns accounts with an id of at most `up_to_id`, the most followed first; of equals, the
    lower id first."""
    cursor = await connection.execute(
        "SELECT id FROM users WHERE id <= %s ORDER BY follower_count DESC, id LIMIT %s",
        (up_to_id, count),
    )
    return [int(row[0]) for row in await cursor.fetchall()]


async def fetch_request_ids(connection: Connection, prefix: str) -> set[str]:
    """Returns the request ids of tweets, deleted ones too, that begin with `prefix`."""
    cursor = await connection.execute(
        "SELECT request_id FROM tweets WHERE request_id IS NOT NULL"
        " AND starts_with(request_id, %s)",
        (prefix,),
    )
    return {str(row[0]) for row in await cursor.fetchall()}


async def analyze(connection: Connection) -> None:
    """Tells the planner what the tables hold now: autovacuum would take a minute to notice."""
    await connection.execute("ANALYZE users, follows, tweets")

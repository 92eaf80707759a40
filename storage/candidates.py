"""Timeline candidates from PostgreSQL: the query that rebuilds windows, answers past their end, and
answers everything while the cache is away. It knows nothing of tiers; `delivery` serves recents."""

from typing import LiteralString

from domain.explain import Facts
from domain.ids import TweetId, UserId
from domain.timeline import Entry, Viewer, Window
from storage.database import Pool
from storage.erasures import being_erased
from storage.timelines import tweet_entry

ABOVE_ALL = (1 << 63) - 1

# Literal, as every statement here: the type checker refuses a built string.
_CANDIDATE: LiteralString = (
    "author_id = followed.id AND id < %(below)s AND deleted_at IS NULL"
    " AND (%(pulled)s OR delivery <> 2 OR author_id = %(viewer)s)"
    # A list that is read once for all rows: it is empty nearly always.
    " AND (retweet_of IS NULL OR (original_author_id <> ALL(ARRAY(SELECT user_id"
    "  FROM tweet_erasures)) AND EXISTS (SELECT FROM tweets AS original"
    "  WHERE original.id = own.retweet_of AND original.deleted_at IS NULL)))"
)


async def fetch_home(
    pool: Pool, viewer: Viewer, *, below: int | None, limit: int, pulled: bool
) -> Window:
    """Returns the newest `limit` candidates of a viewer with an id less than `below`: the followed
    accounts' and the own tweets. `pulled` says whether the followed accounts' pulled tweets, which
    no home window holds, are among them.

    1. One index probe for each author (a lateral join) reads a few of the author's newest, twice
       `limit` in all. An `author_id = ANY(...)` with ORDER BY would read and sort all their tweets.
    2. Among them, the one at place `limit` is a bound: so many candidates stand at it or above.
    3. A second probe for each author reads what stands above the bound. Without it `limit` of each
       author would be read: a hundred times as much where somebody follows thousands.
    """
    authors = [viewer.id, *viewer.followees]
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "WITH bound AS MATERIALIZED ("
            " SELECT t.id FROM unnest(%(authors)s::bigint[]) AS followed (id)"
            " CROSS JOIN LATERAL ("
            "  SELECT id FROM tweets AS own"
            f"  WHERE {_CANDIDATE}"
            "  ORDER BY id DESC LIMIT %(few)s) AS t"
            " ORDER BY t.id DESC OFFSET %(limit)s - 1 LIMIT 1)"
            " SELECT t.id, t.author_id, t.retweet_of, t.other_author_id"
            " FROM unnest(%(authors)s::bigint[]) AS followed (id)"
            " CROSS JOIN LATERAL ("
            "  SELECT id, author_id, retweet_of,"
            "   coalesce(original_author_id, replied_author_id) AS other_author_id"
            "  FROM tweets AS own"
            f"  WHERE {_CANDIDATE} AND id >= coalesce((SELECT id FROM bound), 0)"
            "  ORDER BY id DESC LIMIT %(limit)s) AS t"
            " ORDER BY t.id DESC LIMIT %(limit)s",
            {
                "authors": authors,
                "viewer": viewer.id,
                "below": below or ABOVE_ALL,
                "limit": limit,
                "few": -(-2 * limit // len(authors)),
                "pulled": pulled,
            },
        )
        rows = await cursor.fetchall()
    return _window([tweet_entry(*row) for row in rows], limit)


async def fetch_recent(pool: Pool, author: UserId, *, limit: int) -> Window:
    """Returns the newest `limit` pulled tweets of an author."""
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT id, author_id, retweet_of, coalesce(original_author_id, replied_author_id)"
            " FROM tweets WHERE author_id = %s AND deleted_at IS NULL AND delivery = 2"
            " ORDER BY id DESC LIMIT %s",
            (author, limit),
        )
        rows = await cursor.fetchall()
    return _window([tweet_entry(*row) for row in rows], limit)


async def fetch_by_author(
    pool: Pool, author: UserId, *, below: int | None, limit: int
) -> list[TweetId] | None:
    """Returns the newest ids of a user timeline below an id: all that is not deleted, retweets of
    deleted originals left out. None where there is no such account."""
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT posted.id FROM users LEFT JOIN LATERAL"
            " (SELECT t.id FROM tweets AS t WHERE t.author_id = users.id AND t.id < %s"
            "  AND t.deleted_at IS NULL AND (t.retweet_of IS NULL OR EXISTS"
            "   (SELECT FROM tweets AS original"
            "    WHERE original.id = t.retweet_of AND original.deleted_at IS NULL"
            f"    AND NOT {being_erased('original.author_id')}))"
            "  ORDER BY t.id DESC LIMIT %s) AS posted ON true"
            " WHERE users.id = %s AND users.erased_at IS NULL"
            " ORDER BY posted.id DESC",
            (below or ABOVE_ALL, limit, author),
        )
        rows = await cursor.fetchall()
    return [TweetId(row[0]) for row in rows if row[0] is not None] if rows else None


async def fetch_explained(pool: Pool, tweet: TweetId) -> Facts | None:
    """Returns what explaining needs of a tweet, deleted or not."""
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT t.id, t.author_id, t.retweet_of,"
            " coalesce(t.original_author_id, t.replied_author_id),"
            f" t.deleted_at IS NOT NULL OR {being_erased('t.author_id')},"
            " original.deleted_at IS NOT NULL"
            f" OR {being_erased('original.author_id')}"
            " FROM tweets AS t LEFT JOIN tweets AS original ON original.id = t.retweet_of"
            " WHERE t.id = %s",
            (tweet,),
        )
        row = await cursor.fetchone()
    if row is None:
        return None
    return Facts(tweet_entry(*row[:4]), deleted=row[4], original_deleted=row[5])


async def fetch_blocked(pool: Pool, viewer: UserId) -> frozenset[UserId]:
    """Returns the accounts that a viewer blocks, and those that block the viewer."""
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT blocked_id FROM blocks WHERE blocker_id = %(viewer)s"
            " UNION SELECT blocker_id FROM blocks WHERE blocked_id = %(viewer)s",
            {"viewer": viewer},
        )
        rows = await cursor.fetchall()
    return frozenset(UserId(row[0]) for row in rows)


async def fetch_hidden(pool: Pool, viewer: UserId) -> frozenset[UserId]:
    """Returns the accounts that a viewer blocks or mutes, and those that block the viewer."""
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT blocked_id FROM blocks WHERE blocker_id = %(viewer)s"
            " UNION SELECT blocker_id FROM blocks WHERE blocked_id = %(viewer)s"
            " UNION SELECT muted_id FROM mutes WHERE muter_id = %(viewer)s",
            {"viewer": viewer},
        )
        rows = await cursor.fetchall()
    return frozenset(UserId(row[0]) for row in rows)


async def fetch_followees(pool: Pool, viewer: UserId) -> frozenset[UserId]:
    """Returns the accounts that a viewer follows, without those that were deleted."""
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT followee_id FROM follows WHERE follower_id = %s"
            " AND followee_id <> ALL(ARRAY(SELECT user_id FROM relation_erasures))",
            (viewer,),
            binary=True,
        )
        rows = await cursor.fetchall()
    return frozenset(UserId(row[0]) for row in rows)


async def fetch_pulled_authors(pool: Pool) -> frozenset[UserId]:
    """Returns the authors that have pulled tweets."""
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT id FROM users WHERE first_pulled_tweet_id IS NOT NULL"
        )
        rows = await cursor.fetchall()
    return frozenset(UserId(row[0]) for row in rows)


def _window(entries: list[Entry], limit: int) -> Window:
    return Window(entries, floor=entries[-1][0] if len(entries) == limit else 0)

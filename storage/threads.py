"""Threads: what a tweet answers, and what answers it."""

from domain.ids import TweetId
from storage.database import Pool
from storage.erasures import being_erased

ANCESTORS_MAX = 2_000  # presenting them takes about 50 ms


async def fetch_ancestors(pool: Pool, tweet: TweetId) -> list[int]:
    """Returns the ids of what a tweet answers, up to the root, the root first, deleted ones too; of
    a longer chain, the ANCESTORS_MAX nearest."""
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "WITH RECURSIVE up (id, depth) AS ("
            "  SELECT reply_to, 1 FROM tweets WHERE id = %(tweet)s"
            "  UNION ALL"
            "  SELECT t.reply_to, up.depth + 1 FROM up JOIN tweets AS t ON t.id = up.id"
            "  WHERE up.depth < %(most)s AND t.reply_to IS NOT NULL)"
            " SELECT id FROM up WHERE id IS NOT NULL ORDER BY depth DESC",
            {"tweet": tweet, "most": ANCESTORS_MAX},
        )
        return [int(row[0]) for row in await cursor.fetchall()]


async def fetch_replies(pool: Pool, tweet: TweetId, *, above: int, count: int) -> list[int]:
    """Returns up to `count` ids above `above` of direct replies, the oldest first. A deleted one is
    among them where anything answers it: the thread goes on below it."""
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT t.id FROM tweets AS t WHERE t.reply_to = %s AND t.id > %s"
            f" AND (t.deleted_at IS NULL AND NOT {being_erased('t.author_id')}"
            "  OR EXISTS (SELECT FROM tweets AS child WHERE child.reply_to = t.id))"
            " ORDER BY t.id LIMIT %s",
            (tweet, above, count),
        )
        return [int(row[0]) for row in await cursor.fetchall()]

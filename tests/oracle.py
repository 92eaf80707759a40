"""The oracle: a home timeline as one SQL statement, written from DESIGN section 1 and nothing else.

It knows nothing of tiers, caches or lists.
"""

from storage.database import Connection

VISIBLE = """
WITH erased AS (
    SELECT id FROM users WHERE erased_at IS NOT NULL
),
followed AS (
    SELECT followee_id AS id FROM follows
    WHERE follower_id = %(viewer)s AND followee_id NOT IN (SELECT id FROM erased)
),
hidden AS (
    SELECT blocked_id AS id FROM blocks WHERE blocker_id = %(viewer)s
    UNION SELECT blocker_id FROM blocks WHERE blocked_id = %(viewer)s
    UNION SELECT muted_id FROM mutes WHERE muter_id = %(viewer)s
),
candidates AS (
    SELECT * FROM tweets
    WHERE author_id IN (SELECT id FROM followed)
    OR (author_id = %(viewer)s AND author_id NOT IN (SELECT id FROM erased))
),
visible AS (
    SELECT c.id, coalesce(c.retweet_of, c.id) AS key
    FROM candidates AS c
    WHERE c.deleted_at IS NULL
    AND (c.retweet_of IS NULL OR EXISTS (
        SELECT FROM tweets AS o WHERE o.id = c.retweet_of AND o.deleted_at IS NULL
        AND o.author_id NOT IN (SELECT id FROM erased)))
    AND (c.author_id = %(viewer)s
        OR (c.author_id NOT IN (SELECT id FROM hidden)
            AND (c.original_author_id IS NULL
                OR c.original_author_id NOT IN (SELECT id FROM hidden))
            AND (c.replied_author_id IS NULL
                OR (c.replied_author_id NOT IN (SELECT id FROM hidden)
                    AND (c.replied_author_id IN (%(viewer)s, c.author_id)
                        OR c.replied_author_id IN (SELECT id FROM followed))))))
)
"""

ORACLE = (
    VISIBLE
    + """,
numbered AS (
    SELECT id, key, row_number() OVER (ORDER BY id) AS rn FROM visible
),
spaced AS (
    SELECT id, rn - lag(rn) OVER (PARTITION BY key ORDER BY id) AS distance FROM numbered
)
SELECT id FROM spaced
WHERE distance IS NULL OR distance > %(repeat_distance)s
ORDER BY id DESC
"""
)


async def fetch_oracle(connection: Connection, viewer: int, repeat_distance: int) -> list[int]:
    """Returns the ids of a viewer's home timeline, newest first."""
    cursor = await connection.execute(
        ORACLE, {"viewer": viewer, "repeat_distance": repeat_distance}
    )
    return [int(row[0]) for row in await cursor.fetchall()]


async def fetch_visible(connection: Connection, viewer: int) -> set[int]:
    """Returns the ids that rules 1 and 2 let a viewer see."""
    cursor = await connection.execute(VISIBLE + " SELECT id FROM visible", {"viewer": viewer})
    return {int(row[0]) for row in await cursor.fetchall()}

"""What a home timeline must be, by plain SQL over PostgreSQL: what `chirp verify` compares with.

It is DESIGN section 1 again and nothing else; it knows nothing of tiers, caches, lists or delivery,
so that no mistake of theirs is also here:
 1. candidates: every tweet by the viewer or a followed account;
 2. visible: not deleted, nor a retweet of what is deleted; and of what others posted, nothing by,
    repeating or answering somebody who is muted or blocked either way, and only those replies that
    go to the viewer, to a followed account or to the replier; of an account that was itself
    deleted, everything is deleted, and nobody follows it;
 3. newest first;
 4. an entry goes whose tweet stands again at most `repeat_distance` entries further down, counted
    among what is visible.
`tests/oracle.py` has the same in other words, and a test compares the two.
"""

from storage.database import Connection

ORACLE = """
WITH authors AS (
    SELECT id FROM users JOIN (
        SELECT %(viewer)s::bigint AS id
        UNION
        SELECT followee_id FROM follows WHERE follower_id = %(viewer)s
    ) AS all_authors USING (id)
    WHERE erased_at IS NULL
),
shunned AS (
    SELECT CASE blocker_id WHEN %(viewer)s THEN blocked_id ELSE blocker_id END AS id
    FROM blocks WHERE %(viewer)s IN (blocker_id, blocked_id)
    UNION
    SELECT muted_id FROM mutes WHERE muter_id = %(viewer)s
),
visible AS (
    SELECT t.id, coalesce(t.retweet_of, t.id) AS original
    FROM authors JOIN tweets AS t ON t.author_id = authors.id
    LEFT JOIN tweets AS retweeted ON retweeted.id = t.retweet_of
        AND EXISTS (
            SELECT FROM users WHERE users.id = retweeted.author_id AND users.erased_at IS NULL
        )
    LEFT JOIN authors AS answered ON answered.id = t.replied_author_id
    WHERE t.deleted_at IS NULL
    AND (t.retweet_of IS NULL OR (retweeted.id IS NOT NULL AND retweeted.deleted_at IS NULL))
    AND (
        t.author_id = %(viewer)s
        OR NOT EXISTS (
            SELECT FROM shunned
            WHERE shunned.id IN (t.author_id, t.original_author_id, t.replied_author_id)
        )
        AND (
            t.replied_author_id IS NULL
            OR t.author_id = t.replied_author_id
            OR answered.id IS NOT NULL
        )
    )
),
placed AS (
    SELECT id, original, row_number() OVER (ORDER BY id DESC) AS place FROM visible
),
spaced AS (
    SELECT id, lead(place) OVER (PARTITION BY original ORDER BY id DESC) - place AS next_in
    FROM placed
)
SELECT id FROM spaced WHERE next_in IS NULL OR next_in > %(repeat_distance)s ORDER BY id DESC
"""


async def fetch_home(connection: Connection, viewer: int, *, repeat_distance: int) -> list[int]:
    """Returns the ids of a viewer's whole home timeline, newest first."""
    cursor = await connection.execute(
        ORACLE, {"viewer": viewer, "repeat_distance": repeat_distance}
    )
    return [int(row[0]) for row in await cursor.fetchall()]

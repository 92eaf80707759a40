"""What `chirp verify` asks of PostgreSQL: whose timelines to look at, and how tweets were sent."""

from collections.abc import Sequence

from domain.ids import TweetId, UserId
from storage.database import Connection


async def fetch_random_accounts(connection: Connection, *, count: int, seed: int) -> list[UserId]:
    """Returns accounts in an order that depends on the seed alone: accounts made between two calls
    change the choice only by those of them that are chosen."""
    cursor = await connection.execute(
        "SELECT id FROM users WHERE erased_at IS NULL"
        " ORDER BY hashint8extended(id, %s), id LIMIT %s",
        (seed, count),
    )
    return [UserId(row[0]) for row in await cursor.fetchall()]


async def fetch_most_following(connection: Connection, *, count: int) -> list[UserId]:
    """Returns the accounts that follow most; of equals, the lower id first."""
    cursor = await connection.execute(
        "SELECT id FROM users WHERE erased_at IS NULL ORDER BY following_count DESC, id LIMIT %s",
        (count,),
    )
    return [UserId(row[0]) for row in await cursor.fetchall()]


async def fetch_all_accounts(connection: Connection) -> list[UserId]:
    """Returns every account."""
    cursor = await connection.execute("SELECT id FROM users WHERE erased_at IS NULL ORDER BY id")
    return [UserId(row[0]) for row in await cursor.fetchall()]


async def fetch_newest_tweet(connection: Connection) -> int:
    """Returns the highest id of a committed tweet, deleted ones too; 0 where there is none."""
    cursor = await connection.execute("SELECT coalesce(max(id), 0) FROM tweets")
    row = await cursor.fetchone()
    assert row is not None
    return int(row[0])


async def fetch_deliveries(
    connection: Connection, ids: Sequence[int]
) -> dict[TweetId, tuple[UserId, int]]:
    """Returns author and delivery (domain/fanout.py) of tweets."""
    cursor = await connection.execute(
        "SELECT id, author_id, delivery FROM tweets WHERE id = ANY(%s)", (list(ids),), binary=True
    )
    return {TweetId(row[0]): (UserId(row[1]), int(row[2])) for row in await cursor.fetchall()}

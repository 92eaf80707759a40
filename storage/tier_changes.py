"""The history of tiers: a row for each crossing of a line, in the transaction that changes the
tier, while the account's row is held. Owned by graph_server."""

from dataclasses import dataclass
from datetime import datetime

from psycopg.rows import class_row

from domain.ids import UserId
from domain.tier import Tier
from storage.database import Connection


@dataclass(frozen=True, slots=True)
class TierChangeRow:
    """An account went from one tier to another when it had so many followers."""

    from_tier: int
    to_tier: int
    follower_count: int
    changed_at: datetime


async def insert(
    connection: Connection,
    user_id: UserId,
    *,
    from_tier: Tier,
    to_tier: Tier,
    follower_count: int,
) -> None:
    """Records a crossing."""
    # Not the default of the column, which is when the transaction began: it may have waited for
    # the account's row, and times would not grow with ids.
    await connection.execute(
        "INSERT INTO tier_changes (user_id, from_tier, to_tier, follower_count, changed_at)"
        " VALUES (%s, %s, %s, %s, clock_timestamp())",
        (user_id, int(from_tier), int(to_tier), follower_count),
    )


async def fetch_by_user(
    connection: Connection, user_id: UserId, *, count: int
) -> list[TierChangeRow]:
    """Returns up to `count` crossings of an account, the newest first."""
    async with connection.cursor(row_factory=class_row(TierChangeRow)) as cursor:
        await cursor.execute(
            "SELECT from_tier, to_tier, follower_count, changed_at FROM tier_changes"
            " WHERE user_id = %s ORDER BY id DESC LIMIT %s",
            (user_id, count),
        )
        return await cursor.fetchall()

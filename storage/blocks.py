"""Who blocks whom. Owned by graph_server. Nobody follows an account that is blocked either way: a
block and a follow are written while the rows of both accounts are held."""

from collections.abc import Sequence

from domain.ids import UserId
from storage.database import Connection


async def insert(connection: Connection, *, blocker: UserId, blocked: UserId) -> bool:
    """Blocks; returns False where it was so already."""
    cursor = await connection.execute(
        "INSERT INTO blocks (blocker_id, blocked_id) VALUES (%s, %s)"
        " ON CONFLICT (blocker_id, blocked_id) DO NOTHING",
        (blocker, blocked),
    )
    return cursor.rowcount == 1


async def delete(connection: Connection, *, blocker: UserId, blocked: UserId) -> bool:
    """Unblocks; returns False where there was no block."""
    cursor = await connection.execute(
        "DELETE FROM blocks WHERE blocker_id = %s AND blocked_id = %s", (blocker, blocked)
    )
    return cursor.rowcount == 1


async def exists_between(connection: Connection, one: UserId, other: UserId) -> bool:
    """Whether one of two accounts blocks the other."""
    cursor = await connection.execute(
        "SELECT FROM blocks WHERE (blocker_id, blocked_id) IN ((%s, %s), (%s, %s))",
        (one, other, other, one),
    )
    return await cursor.fetchone() is not None


async def fetch_between(
    connection: Connection, user_id: UserId, others: Sequence[int]
) -> list[UserId]:
    """Returns those of the others that block an account or are blocked by it, each once."""
    cursor = await connection.execute(
        "SELECT blocked_id FROM blocks"
        " WHERE blocker_id = %(user)s AND blocked_id = ANY(%(others)s)"
        " UNION SELECT blocker_id FROM blocks"
        " WHERE blocked_id = %(user)s AND blocker_id = ANY(%(others)s)",
        {"user": user_id, "others": list(others)},
    )
    return [UserId(row[0]) for row in await cursor.fetchall()]

"""Who mutes whom. Owned by graph_server. Written while the row of the one who mutes is held."""

from collections.abc import Sequence

from domain.ids import UserId
from storage.database import Connection


async def insert(connection: Connection, *, muter: UserId, muted: UserId) -> bool:
    """Mutes; returns False where it was so already."""
    cursor = await connection.execute(
        "INSERT INTO mutes (muter_id, muted_id) VALUES (%s, %s)"
        " ON CONFLICT (muter_id, muted_id) DO NOTHING",
        (muter, muted),
    )
    return cursor.rowcount == 1


async def delete(connection: Connection, *, muter: UserId, muted: UserId) -> bool:
    """Unmutes; returns False where it was not muted."""
    cursor = await connection.execute(
        "DELETE FROM mutes WHERE muter_id = %s AND muted_id = %s", (muter, muted)
    )
    return cursor.rowcount == 1


async def fetch_muted(
    connection: Connection, user_id: UserId, others: Sequence[int]
) -> list[UserId]:
    """Returns those of the others that an account mutes."""
    cursor = await connection.execute(
        "SELECT muted_id FROM mutes WHERE muter_id = %s AND muted_id = ANY(%s)",
        (user_id, list(others)),
    )
    return [UserId(row[0]) for row in await cursor.fetchall()]

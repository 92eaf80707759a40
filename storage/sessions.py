"""Sign-ins. A token carries its session's id; the row says whether it was ended before its time."""

from domain.ids import UserId
from storage.database import Connection, Pool

DELETE_BATCH = 1_000  # rows in one statement, so that clearing up never holds locks for long


async def insert(
    connection: Connection, session_id: int, user_id: UserId, *, lifetime_s: int
) -> None:
    """Begins a session of `lifetime_s` seconds."""
    await connection.execute(
        "INSERT INTO sessions (id, user_id, expires_at)"
        " VALUES (%s, %s, now() + make_interval(secs => %s))",
        (session_id, user_id, lifetime_s),
    )


async def has_ended(connection: Connection, session_id: int) -> bool:
    """Whether the session was ended by its user.

    A session without a row has not: expired rows are deleted, and `exp` in the token says so too.
    """
    cursor = await connection.execute(
        "SELECT 1 FROM sessions WHERE id = %s AND ended_at IS NOT NULL", (session_id,)
    )
    return await cursor.fetchone() is not None


async def end(connection: Connection, session_id: int, user_id: UserId) -> None:
    """Ends one session of a user. Idempotent."""
    await connection.execute(
        "UPDATE sessions SET ended_at = now() WHERE id = %s AND user_id = %s AND ended_at IS NULL",
        (session_id, user_id),
    )


async def end_all(connection: Connection, user_id: UserId) -> None:
    """Ends every session of a user. Idempotent."""
    await connection.execute(
        "UPDATE sessions SET ended_at = now() WHERE user_id = %s AND ended_at IS NULL", (user_id,)
    )


async def delete_expired(pool: Pool) -> int:
    """Deletes up to DELETE_BATCH sessions whose tokens have expired; returns how many."""
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "DELETE FROM sessions WHERE id IN"
            " (SELECT id FROM sessions WHERE expires_at < now() ORDER BY expires_at LIMIT %s)",
            (DELETE_BATCH,),
        )
        return cursor.rowcount

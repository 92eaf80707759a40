"""Sign-ins. A token carries its session's id; the row says whether it was ended before its time."""

from collections.abc import Sequence

from domain.ids import UserId
from storage.database import Connection, Pool
from storage.purges import Kind

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


async def stands(connection: Connection, session_id: int) -> bool:
    """Whether the session was neither ended nor deleted.

    Rows are deleted when their tokens have expired, or with their account.
    """
    cursor = await connection.execute(
        "SELECT 1 FROM sessions WHERE id = %s AND ended_at IS NULL", (session_id,)
    )
    return await cursor.fetchone() is not None


async def fetch_standing(pool: Pool, session_ids: Sequence[int]) -> set[int]:
    """Returns which of these sessions stand."""
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT id FROM sessions WHERE id = ANY(%s) AND ended_at IS NULL", (session_ids,)
        )
        return {int(row[0]) for row in await cursor.fetchall()}


async def end(connection: Connection, session_id: int, user_id: UserId) -> None:
    """Ends one session of a user, and tells every server when the transaction commits.
    Idempotent."""
    await connection.execute(
        "WITH ended AS (UPDATE sessions SET ended_at = now()"
        "  WHERE id = %s AND user_id = %s AND ended_at IS NULL RETURNING id)"
        " INSERT INTO purges (kind, subject_id) SELECT %s, id FROM ended",
        (session_id, user_id, int(Kind.SESSION)),
    )


async def end_all(connection: Connection, user_id: UserId) -> None:
    """Ends every session of a user, and tells every server when the transaction commits.
    Idempotent."""
    await connection.execute(
        "WITH ended AS (UPDATE sessions SET ended_at = now()"
        "  WHERE user_id = %s AND ended_at IS NULL RETURNING id)"
        " INSERT INTO purges (kind, subject_id) SELECT %s, id FROM ended",
        (user_id, int(Kind.SESSION)),
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

"""Uses of hashtags in PostgreSQL, for the trend worker: what it counts after a start or a loss.

One worker counts at a time: it holds an advisory lock on a connection of its own.
"""

from dataclasses import dataclass

from psycopg.rows import class_row

from storage.database import Connection, Pool

LEAD_LOCK = 0x54726E64  # "Trnd"
PAGE_ROWS = 10_000


@dataclass(frozen=True, slots=True)
class TaggedTweet:
    """A tweet with hashtags that is not deleted."""

    id: int
    author_id: int
    location: str
    content: str
    hashtags: list[str]


async def fetch_page(pool: Pool, *, since_id: int, below: int) -> list[TaggedTweet]:
    """Returns the newest PAGE_ROWS tweets with tags and ids from `since_id` to under `below`."""
    async with (
        pool.connection() as connection,
        connection.cursor(row_factory=class_row(TaggedTweet), binary=True) as cursor,
    ):
        await cursor.execute(
            "SELECT id, author_id, location, content, hashtags FROM tweets"
            " WHERE id >= %s AND id < %s AND hashtags <> '{}' AND deleted_at IS NULL"
            " ORDER BY id DESC LIMIT %s",
            (since_id, below, PAGE_ROWS),
        )
        return await cursor.fetchall()


async def try_lead(connection: Connection) -> bool:
    """Takes the workers' lock for as long as the connection lives, if nobody has it.

    The server pings a silent holder, so that the lock of a dead machine is free within 11 seconds.
    """
    cursor = await connection.execute(
        "SELECT set_config('tcp_keepalives_idle', '5', false),"
        " set_config('tcp_keepalives_interval', '2', false),"
        " set_config('tcp_keepalives_count', '3', false), pg_try_advisory_lock(%s)",
        (LEAD_LOCK,),
    )
    row = await cursor.fetchone()
    return bool(row and row[3])


async def still_leads(connection: Connection) -> bool:
    """Whether the connection, and so the lock, still lives; raises what psycopg raises if not."""
    cursor = await connection.execute("SELECT 1")
    return await cursor.fetchone() is not None


async def stop_leading(connection: Connection) -> None:
    """Frees the workers' lock."""
    await connection.execute("SELECT pg_advisory_unlock(%s)", (LEAD_LOCK,))

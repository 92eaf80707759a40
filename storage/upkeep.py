"""What operators did to materialised timelines. Owned by the command line."""

from domain.ids import UserId
from storage.database import Connection


async def insert_repair(
    connection: Connection, user_id: UserId, *, missing: int, extra: int, mended: bool
) -> None:
    """Records that a home timeline differed from the oracle and was made anew."""
    await connection.execute(
        "INSERT INTO timeline_repairs (user_id, missing, extra, mended) VALUES (%s, %s, %s, %s)",
        (user_id, missing, extra, mended),
    )


async def count_repairs(connection: Connection) -> int:
    """Returns how many home timelines were ever mended."""
    cursor = await connection.execute("SELECT count(*) FROM timeline_repairs WHERE mended")
    row = await cursor.fetchone()
    assert row is not None
    return int(row[0])

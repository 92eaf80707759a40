"""What operators did to materialised timelines. Owned by the command line."""

from collections.abc import Sequence
from dataclasses import dataclass

from domain.ids import UserId
from mesh import catalogue
from mesh.metrics import Sample
from storage.database import Connection, Pool

REBUILD_LOCK = 0x43687262  # "Chrb": one `chirp rebuild --all` runs at a time


@dataclass(frozen=True, slots=True)
class RebuildRow:
    """A rebuild of all timelines that is not finished: every account up to `position` is done."""

    id: int
    position: int
    rebuilt: int


async def insert_repair(
    connection: Connection, user_id: UserId, *, missing: int, extra: int, mended: bool
) -> None:
    """Records that a home timeline differed from the oracle and was made anew."""
    await connection.execute(
        "INSERT INTO timeline_repairs (user_id, missing, extra, mended) VALUES (%s, %s, %s, %s)",
        (user_id, missing, extra, mended),
    )


async def insert_verification(connection: Connection, *, compared: int, differing: int) -> None:
    """Records that home timelines were compared with the oracle."""
    await connection.execute(
        "INSERT INTO timeline_verifications (compared, differing) VALUES (%s, %s)",
        (compared, differing),
    )


async def collect(pool: Pool) -> list[Sample]:
    """Returns what was ever verified and repaired, as metrics."""
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT (SELECT coalesce(sum(compared), 0) FROM timeline_verifications),"
            " (SELECT coalesce(sum(differing), 0) FROM timeline_verifications),"
            " count(*) FILTER (WHERE mended), count(*) FILTER (WHERE NOT mended)"
            " FROM timeline_repairs"
        )
        row = await cursor.fetchone()
    assert row is not None
    return [
        Sample(catalogue.VERIFIED, int(row[0])),
        Sample(catalogue.VERIFY_DIFFERENCES, int(row[1])),
        Sample(catalogue.REPAIRS, int(row[2]), ("mended",)),
        Sample(catalogue.REPAIRS, int(row[3]), ("failed",)),
    ]


async def count_repairs(connection: Connection) -> int:
    """Returns how many home timelines were ever mended."""
    cursor = await connection.execute("SELECT count(*) FROM timeline_repairs WHERE mended")
    row = await cursor.fetchone()
    assert row is not None
    return int(row[0])


async def try_lock_rebuild(connection: Connection) -> bool:
    """Takes the lock of rebuilds for as long as the connection lives, if nobody has it."""
    cursor = await connection.execute("SELECT pg_try_advisory_lock(%s)", (REBUILD_LOCK,))
    row = await cursor.fetchone()
    return bool(row and row[0])


async def begin_rebuild(connection: Connection) -> RebuildRow:
    """Returns the rebuild that was stopped, or a new one."""
    await connection.execute("INSERT INTO timeline_rebuilds DEFAULT VALUES ON CONFLICT DO NOTHING")
    cursor = await connection.execute(
        "SELECT id, position, rebuilt FROM timeline_rebuilds WHERE finished_at IS NULL"
    )
    row = await cursor.fetchone()
    assert row is not None
    return RebuildRow(*row)


async def advance_rebuild(
    connection: Connection, rebuild_id: int, *, position: int, rebuilt: int
) -> None:
    """Records that everybody up to `position` is done, and how many more were made anew."""
    await connection.execute(
        "UPDATE timeline_rebuilds SET position = %s, rebuilt = rebuilt + %s WHERE id = %s",
        (position, rebuilt, rebuild_id),
    )


async def end_rebuild(connection: Connection, rebuild_id: int) -> None:
    """Records that a rebuild is done, or given up: the next one begins with the first account."""
    await connection.execute(
        "UPDATE timeline_rebuilds SET finished_at = now() WHERE id = %s", (rebuild_id,)
    )


async def fetch_accounts(connection: Connection, *, after: int, count: int) -> Sequence[UserId]:
    """Returns the next `count` accounts behind an id."""
    cursor = await connection.execute(
        "SELECT id FROM users WHERE id > %s ORDER BY id LIMIT %s", (after, count)
    )
    return [UserId(row[0]) for row in await cursor.fetchall()]


async def count_accounts(connection: Connection, *, up_to: int) -> tuple[int, int]:
    """Returns how many accounts there are up to an id, and how many in all."""
    cursor = await connection.execute(
        "SELECT count(*) FILTER (WHERE id <= %s), count(*) FROM users", (up_to,)
    )
    row = await cursor.fetchone()
    assert row is not None
    return int(row[0]), int(row[1])

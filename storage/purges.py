"""What process caches must forget: a row in the transaction of the change, polled by every server.

A cursor over a sequence would miss what commits late, so servers ask by transaction id: everything
from the oldest transaction that was still running at the last poll. Some rows come twice, which
forgetting does not mind.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from storage.database import Connection, Pool

KEEP_S = 3_600  # servers start with empty caches, so old rows serve nobody
ROWS_MAX = 20_000  # in one poll; a server that is further behind forgets everything


class Kind(IntEnum):
    """What changed; the numbers stand in the table."""

    TWEET = 1  # subject: the tweet, version: its new version
    USER = 2  # subject: the account whose name changed
    VIEWER = 3  # subject: the account whose follows, blocks or mutes changed
    SESSION = 4  # subject: the session that was ended
    ERASED = 5  # subject: an account that was deleted; version 1: its tweets are gone, too


KINDS = frozenset(map(int, Kind))
"""Others are of a later release, whose caches we do not have."""


@dataclass(frozen=True, slots=True)
class Purge:
    """One thing to forget, where what is kept is older than `version`."""

    kind: Kind
    subject_id: int
    version: int


@dataclass(frozen=True, slots=True)
class Poll:
    """What changed since the last poll. `complete` is False where it was too much to tell."""

    purges: Sequence[Purge]
    complete: bool
    next_xid: str


async def insert(connection: Connection, kind: Kind, subject_id: int, version: int = 0) -> None:
    """Says that caches must forget something, when the transaction commits."""
    await connection.execute(
        "INSERT INTO purges (kind, subject_id, version) VALUES (%s, %s, %s)",
        (int(kind), subject_id, version),
    )


async def current_xid(pool: Pool) -> str:
    """Returns where a server that starts with empty caches begins to poll."""
    async with pool.connection() as connection:
        cursor = await connection.execute("SELECT pg_snapshot_xmin(pg_current_snapshot())::text")
        row = await cursor.fetchone()
    assert row is not None
    return str(row[0])


async def fetch_since(pool: Pool, xid: str) -> Poll:
    """Returns what was committed since the poll that returned `xid`, some of it again."""
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT pg_snapshot_xmin(pg_current_snapshot())::text, kind, subject_id, version"
            " FROM (SELECT) AS always LEFT JOIN LATERAL"
            " (SELECT kind, subject_id, version FROM purges WHERE xid >= %s::xid8"
            "  ORDER BY xid LIMIT %s) AS newer ON true",
            (xid, ROWS_MAX + 1),
        )
        rows = await cursor.fetchall()
    found = [Purge(Kind(row[1]), int(row[2]), int(row[3])) for row in rows if row[1] in KINDS]
    return Poll(found, len(rows) <= ROWS_MAX, str(rows[0][0]))


async def delete_old(pool: Pool) -> None:
    """Deletes what every server has seen long ago."""
    async with pool.connection() as connection:
        await connection.execute(
            "DELETE FROM purges WHERE created_at < now() - make_interval(secs => %s)", (KEEP_S,)
        )

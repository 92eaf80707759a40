"""The outbox: events written in the transaction of the change, until the relay has sent them.

Unsent is what is not marked as sent. A cursor ("id > last seen") would skip a row whose id was
taken early and committed late. A mutation updates the row of its partition key's user first, so
the ids of one key grow in the order of their commits.

Whatever the relay writes, it writes under its fence: once another relay has taken a higher one, the
first can neither mark nor unmark, however long it was asleep.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import LiteralString

import psycopg

from storage import database
from storage.database import Connection

RELAY_LOCK = 0x43686C67  # "Chlg": one relay leads at a time
CHANNEL: LiteralString = "outbox"
INSERT_ALL: LiteralString = (
    "INSERT INTO outbox (partition_key, payload) SELECT * FROM unnest({}::bigint[], {}::bytea[])"
)
"""To be formatted with the names of its two parameters: keys, payloads."""
WAKE: LiteralString = f"pg_notify('{CHANNEL}', '')"
"""Selected beside new rows, it tells the relay when they commit. Such commits take turns in
PostgreSQL, so it is for those who make few."""


@dataclass(frozen=True, slots=True)
class Unsent:
    """A row that is not marked as sent."""

    id: int
    partition_key: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Lead:
    """What a relay takes over: its fence, how far the log reached, whether a refill is to begin,
    and up to which id the last one goes."""

    fence: int
    tail: str
    refilling: bool
    refill_to: int


async def insert(connection: Connection, *, partition_key: int, payload: bytes) -> None:
    """Writes an event in the caller's transaction, after the key's users row was updated in it.

    `payload` is a serialised chirp.v1.Event."""
    await connection.execute(
        "INSERT INTO outbox (partition_key, payload) VALUES (%s, %s)", (partition_key, payload)
    )


async def insert_all(connection: Connection, events: Sequence[tuple[int, bytes]]) -> None:
    """The same for (partition key, payload) of several events. Which of one key's comes first is
    not said: they must not mind."""
    await connection.execute(
        INSERT_ALL.format("%s", "%b"),
        ([key for key, _ in events], [payload for _, payload in events]),
    )


async def listen(connection: Connection) -> None:
    """Has PostgreSQL tell this connection of new rows, as long as it leads; see `rest`."""
    await connection.execute(f"LISTEN {CHANNEL}")


async def rest(connection: Connection, seconds: float) -> None:
    """Waits until somebody tells of new rows, or has done so since the last rest; at most so
    long."""
    async for _ in connection.notifies(timeout=seconds, stop_after=1):
        pass


async def fetch_last_id(connection: Connection) -> int:
    """Returns the last id that was given out, committed or not."""
    cursor = await connection.execute("SELECT last_value FROM outbox_id_seq")
    row = await cursor.fetchone()
    assert row is not None
    return int(row[0])


async def fetch_horizon(connection: Connection) -> tuple[int, int]:
    """Returns (newest, oldest running): a transaction id above all that were given out before this
    call, and the least one that may still be running."""
    cursor = await connection.execute(
        "SELECT pg_snapshot_xmin(pg_current_snapshot())::text, pg_current_xact_id()::text"
    )
    row = await cursor.fetchone()
    assert row is not None
    return int(row[1]), int(row[0])


async def count_unsent(connection: Connection) -> int:
    """Returns how many committed events wait for the relay."""
    cursor = await connection.execute("SELECT count(*) FROM outbox WHERE sent_at IS NULL")
    row = await cursor.fetchone()
    return int(row[0]) if row else 0


async def try_lead(connection: Connection) -> bool:
    """Takes the relays' lock for as long as the connection lives, if nobody has it."""
    return await database.try_lead(connection, RELAY_LOCK)


async def stop_leading(connection: Connection) -> None:
    """Frees the relays' lock."""
    with suppress(psycopg.Error):  # then the connection is lost, and closed below
        await connection.execute(f"UNLISTEN {CHANNEL}")
    await database.stop_leading(connection, RELAY_LOCK)


async def take_fence(connection: Connection) -> Lead:
    """Takes a fence higher than all before. It is of the size of milliseconds since 1970, so that
    it is also higher than those that a lost database gave out."""
    cursor = await connection.execute(
        "UPDATE event_log SET fence ="
        " greatest(fence + 1, (extract(epoch FROM clock_timestamp()) * 1000)::bigint)"
        " RETURNING fence, tail, refilling, refill_to"
    )
    row = await cursor.fetchone()
    assert row is not None
    return Lead(int(row[0]), str(row[1]), bool(row[2]), int(row[3]))


async def begin_refill(connection: Connection, *, fence: int) -> bool:
    """Records that the log is to be filled again, so that a relay that dies over it is followed
    by one that finishes it. False where the fence is no longer the highest."""
    cursor = await connection.execute(
        "UPDATE event_log SET refilling = true, tail = '' WHERE fence = %s", (fence,)
    )
    return cursor.rowcount == 1


async def unmark(connection: Connection, *, fence: int, keep_hours: int, limit: int) -> int:
    """Marks up to `limit` rows that were sent lately as unsent; returns how many, 0 at the end."""
    cursor = await connection.execute(
        "WITH lead AS (SELECT FROM event_log WHERE fence = %s FOR SHARE)"
        " UPDATE outbox SET sent_at = NULL WHERE EXISTS (SELECT FROM lead) AND id IN"
        " (SELECT id FROM outbox WHERE sent_at > now() - make_interval(hours => %s) LIMIT %s)",
        (fence, keep_hours, limit),
    )
    return cursor.rowcount


async def end_unmarking(connection: Connection, *, fence: int, tail: str) -> int | None:
    """Records that all rows to send again are unsent now, and the log starts at `tail`. Returns
    the newest id, where the refill ends; None where the fence is no longer the highest."""
    cursor = await connection.execute(
        "UPDATE event_log SET refilling = false, tail = %s,"
        " refill_to = (SELECT coalesce(max(id), 0) FROM outbox)"
        " WHERE fence = %s RETURNING refill_to",
        (tail, fence),
    )
    row = await cursor.fetchone()
    return int(row[0]) if row else None


async def fetch_unsent(connection: Connection, limit: int) -> list[Unsent]:
    """Returns committed rows that are not marked as sent, by id."""
    cursor = await connection.execute(
        "SELECT id, partition_key, payload FROM outbox WHERE sent_at IS NULL ORDER BY id LIMIT %s",
        (limit,),
        binary=True,
    )
    return [Unsent(int(row[0]), int(row[1]), bytes(row[2])) for row in await cursor.fetchall()]


async def mark_sent(connection: Connection, ids: Sequence[int], *, fence: int, tail: str) -> bool:
    """Marks rows as sent together with how far the log reaches, for good within a second. False,
    and nothing marked, where the fence is no longer the highest."""
    cursor = await connection.execute(
        # A mark that a crash of PostgreSQL takes back repeats what the relay sent, as its own crash
        # does: so it waits for no disk.
        "WITH lead AS (UPDATE event_log SET tail = %s"
        "  WHERE fence = %s AND set_config('synchronous_commit', 'off', true) = 'off' RETURNING 1)"
        " UPDATE outbox SET sent_at = now() WHERE id = ANY(%s) AND EXISTS (SELECT FROM lead)",
        (tail, fence, list(ids)),
    )
    return cursor.rowcount > 0


async def delete_sent(connection: Connection, *, keep_hours: int, limit: int) -> int:
    """Deletes up to `limit` rows sent longer ago than `keep_hours`; returns how many."""
    cursor = await connection.execute(
        "DELETE FROM outbox WHERE id IN (SELECT id FROM outbox"
        " WHERE sent_at < now() - make_interval(hours => %s) ORDER BY sent_at LIMIT %s)",
        (keep_hours, limit),
    )
    return cursor.rowcount

"""Notifications as they are read. Kept by `notification_changes.py`; what stands in each table says
migration 0020. An id is a place in the recipient's box: greater is newer.

Pages of one reading show what there was when it began: a group that gets a new actor moves to the
top, and for the pages of a reading that began before, it stands where it stood.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from domain.ids import UserId
from domain.notification import ACTORS_NAMED_MAX, Cursor, Kind
from storage.database import Connection, Pool


@dataclass(frozen=True, slots=True)
class NotificationRow:
    """A notification. `place` is where it stands in the reading, `id` where it stands now."""

    id: int
    kind: Kind
    subject: int
    actor_count: int
    head_at: datetime
    place: int
    actors: Sequence[int] = ()
    """The newest actors, newest first."""


@dataclass(frozen=True, slots=True)
class BoxRow:
    """What is known of all of somebody's notifications."""

    last_id: int = 0
    read_to: int = 0
    unread_count: int = 0
    pruned_to: int = 0


@dataclass(frozen=True, slots=True)
class Page:
    """A part of somebody's notifications, of one moment."""

    box: BoxRow
    rows: Sequence[NotificationRow]


async def fetch_page(pool: Pool, user: UserId, cursor: Cursor | None, *, count: int) -> Page:
    """Returns up to `count` notifications, the newest first, below a cursor."""
    async with pool.connection() as connection, connection.transaction():
        await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        box = await _fetch_box(connection, user)
        newest = cursor.newest if cursor else box.last_id
        below = cursor.below if cursor else newest + 1
        rows = await connection.execute(
            # Those that stand where they stood, and those that have moved up since the reading
            # began, where they stood then.
            "SELECT * FROM ("
            " (SELECT head_id, kind, subject_id, actor_count, head_at, head_id AS place"
            "  FROM notifications WHERE recipient_id = %(user)s"
            "  AND head_id > 0 AND head_id <= %(newest)s AND head_id < %(below)s"
            "  ORDER BY head_id DESC LIMIT %(count)s)"
            " UNION ALL"
            " (SELECT n.head_id, n.kind, n.subject_id, n.actor_count, n.head_at, earlier.id"
            "  FROM notifications AS n CROSS JOIN LATERAL ("
            "   SELECT a.id FROM notification_actors AS a WHERE a.recipient_id = n.recipient_id"
            "   AND a.kind = n.kind AND a.subject_id = n.subject_id"
            "   AND a.standing AND NOT a.hidden AND a.id <= %(newest)s"
            "   ORDER BY a.id DESC LIMIT 1) AS earlier"
            "  WHERE n.recipient_id = %(user)s AND n.head_id > %(newest)s"
            "  AND n.first_id <= %(newest)s AND earlier.id < %(below)s"
            "  ORDER BY earlier.id DESC LIMIT %(count)s)"
            ") AS both_kinds ORDER BY place DESC LIMIT %(count)s",
            {"user": user, "newest": newest, "below": below, "count": count},
        )
        return Page(box, await _with_actors(connection, user, await rows.fetchall()))


async def fetch_newer(pool: Pool, user: UserId, *, than: int, count: int) -> Page:
    """Returns the oldest up to `count` notifications above a place, the oldest first."""
    async with pool.connection() as connection, connection.transaction():
        await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        box = await _fetch_box(connection, user)
        rows = await connection.execute(
            "SELECT head_id, kind, subject_id, actor_count, head_at, head_id FROM notifications"
            " WHERE recipient_id = %s AND head_id > 0 AND head_id > %s ORDER BY head_id LIMIT %s",
            (user, than, count),
        )
        return Page(box, await _with_actors(connection, user, await rows.fetchall()))


async def fetch_box(pool: Pool, user: UserId) -> BoxRow:
    """Returns what is known of somebody's notifications."""
    async with pool.connection() as connection:
        return await _fetch_box(connection, user)


async def mark_read(pool: Pool, user: UserId, *, up_to: int) -> int:
    """Marks what stands at a place or below as read, if it exists now; returns how many are left
    unread. Never takes a mark back."""
    async with pool.connection() as connection, connection.transaction():
        # The box is held, as by everybody who changes what is counted here.
        cursor = await connection.execute(
            "UPDATE notification_boxes SET read_to = greatest(read_to, least(last_id, %s))"
            " WHERE user_id = %s RETURNING old.read_to, new.read_to, unread_count",
            (up_to, user),
        )
        row = await cursor.fetchone()
        if row is None:
            return 0
        before, after, unread = row
        if after == before:
            return int(unread)
        cursor = await connection.execute(
            "UPDATE notification_boxes SET unread_count = unread_count - (SELECT count(*)"
            "  FROM notifications WHERE recipient_id = %(user)s"
            "  AND head_id > 0 AND head_id > %(before)s AND head_id <= %(after)s)"
            " WHERE user_id = %(user)s RETURNING unread_count",
            {"user": user, "before": before, "after": after},
        )
        row = await cursor.fetchone()
        assert row is not None
        return int(row[0])


async def _fetch_box(connection: Connection, user: UserId) -> BoxRow:
    cursor = await connection.execute(
        "SELECT last_id, read_to, unread_count, pruned_to FROM notification_boxes"
        " WHERE user_id = %s",
        (user,),
    )
    row = await cursor.fetchone()
    return BoxRow(*row) if row else BoxRow()


async def _with_actors(
    connection: Connection, user: UserId, rows: Sequence[tuple[Any, ...]]
) -> list[NotificationRow]:
    """Makes rows of what the queries above give, with the newest actors of each."""
    if not rows:
        return []
    cursor = await connection.execute(
        "SELECT t.kind, t.subject_id, array(SELECT a.actor_id FROM notification_actors AS a"
        "  WHERE a.recipient_id = %s AND a.kind = t.kind AND a.subject_id = t.subject_id"
        "  AND a.standing AND NOT a.hidden ORDER BY a.id DESC LIMIT %s)"
        " FROM unnest(%s::smallint[], %s::bigint[]) AS t (kind, subject_id)",
        (user, ACTORS_NAMED_MAX, [row[1] for row in rows], [row[2] for row in rows]),
    )
    actors = {(row[0], row[1]): row[2] for row in await cursor.fetchall()}
    return [_row(row, actors[row[1], row[2]]) for row in rows]


def _row(row: tuple[Any, ...], actors: Sequence[int]) -> NotificationRow:
    head_id, kind, subject, actor_count, head_at, place = row
    return NotificationRow(head_id, Kind(kind), subject, actor_count, head_at, place, actors)

"""What becomes of old notifications: one that nothing has touched for `notification_keep_days` is
deleted with its actors, the oldest actors first. Its count stays exact all the while. And what
becomes of the boxes of accounts that were deleted: they are emptied, and stay empty."""

from datetime import datetime

from domain.ids import UserId
from domain.notification import Group, Kind
from storage.database import Pool

ACTORS_EACH = 5_000  # in one transaction, which holds up the recipient's other changes


async def fetch_old(pool: Pool, *, before: datetime, count: int) -> list[Group]:
    """Returns up to `count` notifications that nothing has touched since a time."""
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT recipient_id, kind, subject_id FROM notifications WHERE touched_at < %s"
            " ORDER BY touched_at LIMIT %s",
            (before, count),
        )
        return [Group(int(row[0]), Kind(row[1]), int(row[2])) for row in await cursor.fetchall()]


async def prune(pool: Pool, group: Group, *, before: datetime) -> bool:
    """Takes one bounded step at deleting an old notification; returns whether it is gone, or was
    touched again meanwhile. Steps of several processes do not get in each other's way."""
    values = {**group._asdict(), "kind": int(group.kind), "before": before, "limit": ACTORS_EACH}
    async with pool.connection() as connection, connection.transaction():
        cursor = await connection.execute(
            "SELECT read_to FROM notification_boxes WHERE user_id = %s FOR UPDATE",
            (UserId(group.recipient),),
        )
        row = await cursor.fetchone()
        cursor = await connection.execute(
            "SELECT head_id FROM notifications WHERE recipient_id = %(recipient)s"
            " AND kind = %(kind)s AND subject_id = %(subject)s AND touched_at < %(before)s",
            values,
        )
        group_row = await cursor.fetchone()
        if row is None or group_row is None:
            return True
        cursor = await connection.execute(
            "DELETE FROM notification_actors WHERE ctid = ANY(ARRAY("
            "  SELECT ctid FROM notification_actors WHERE recipient_id = %(recipient)s"
            "  AND kind = %(kind)s AND subject_id = %(subject)s ORDER BY id LIMIT %(limit)s))"
            " RETURNING standing AND NOT hidden",
            values,
        )
        deleted = [bool(one[0]) for one in await cursor.fetchall()]
        if len(deleted) == ACTORS_EACH:
            await connection.execute(
                "UPDATE notifications SET actor_count = actor_count - %(shown)s"
                " WHERE recipient_id = %(recipient)s AND kind = %(kind)s"
                " AND subject_id = %(subject)s",
                {**values, "shown": sum(deleted)},
            )
            return False
        await connection.execute(
            "DELETE FROM notifications WHERE recipient_id = %(recipient)s AND kind = %(kind)s"
            " AND subject_id = %(subject)s",
            values,
        )
        head = int(group_row[0])
        await connection.execute(
            "UPDATE notification_boxes SET unread_count = unread_count - %s,"
            " pruned_to = greatest(pruned_to, %s) WHERE user_id = %s",
            (int(head > int(row[0])), head, UserId(group.recipient)),
        )
        return True


async def empty_erased(pool: Pool) -> bool:
    """Takes one bounded step at emptying a box that was closed; returns whether there was one.
    Steps of several processes do not get in each other's way."""
    async with pool.connection() as connection, connection.transaction():
        cursor = await connection.execute(
            "SELECT user_id FROM notification_boxes WHERE erasure = 1"
            " ORDER BY user_id LIMIT 1 FOR UPDATE SKIP LOCKED"
        )
        row = await cursor.fetchone()
        if row is None:
            return False
        values = {"user": row[0], "limit": ACTORS_EACH}
        actors = await connection.execute(
            "DELETE FROM notification_actors WHERE ctid = ANY(ARRAY(SELECT ctid"
            "  FROM notification_actors WHERE recipient_id = %(user)s LIMIT %(limit)s))",
            values,
        )
        if actors.rowcount:
            return True
        groups = await connection.execute(
            "DELETE FROM notifications WHERE ctid = ANY(ARRAY(SELECT ctid"
            "  FROM notifications WHERE recipient_id = %(user)s LIMIT %(limit)s))",
            values,
        )
        if not groups.rowcount:
            await connection.execute(
                "UPDATE notification_boxes SET erasure = 2, unread_count = 0"
                " WHERE user_id = %(user)s",
                values,
            )
        return True

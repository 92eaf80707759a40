"""The boxes of recipients, while notifications change: each holds the last place that was given
out, how far was read, and the number of unread ones."""

from dataclasses import dataclass

from storage.database import Connection


@dataclass(slots=True)
class Box:
    """A locked box, and what changes of it."""

    last_id: int
    read_to: int
    erased: bool = False
    """Its owner deleted the account: nothing goes in."""
    next_id: int = 0
    written_id: int = 0
    unread: int = 0
    risen_to: int = 0

    def note_head(self, before: int, after: int) -> None:
        """Takes down that the head of one of its notifications moved."""
        self.unread += (after > self.read_to) - (before > self.read_to)
        if after > before:
            self.risen_to = max(self.risen_to, after)


async def lock(connection: Connection, recipients: set[int]) -> dict[int, Box]:
    """Holds boxes until the transaction ends, locked in the order of their ids; makes those that
    are missing."""
    ids = sorted(recipients)
    await connection.execute(
        "INSERT INTO notification_boxes (user_id)"
        " SELECT id FROM unnest(%s::bigint[]) AS id ORDER BY id ON CONFLICT DO NOTHING",
        (ids,),
    )
    cursor = await connection.execute(
        "SELECT user_id, last_id, read_to, erasure > 0 FROM notification_boxes"
        " WHERE user_id = ANY(%s) ORDER BY user_id FOR UPDATE",
        (ids,),
    )
    rows = await cursor.fetchall()
    return {
        int(row[0]): Box(int(row[1]), int(row[2]), bool(row[3]), next_id=int(row[1]))
        for row in rows
    }


async def close(connection: Connection, boxes: dict[int, Box], erased: set[int]) -> None:
    """Closes locked boxes for ever, and has what is in them taken away."""
    for user in erased:
        boxes[user].erased = True
    await connection.execute(
        "UPDATE notification_boxes SET erasure = 1 WHERE user_id = ANY(%s) AND erasure = 0",
        (list(erased),),
    )


async def write(connection: Connection, boxes: dict[int, Box]) -> None:
    """Writes what changed of locked boxes."""
    changed = {
        user: box for user, box in boxes.items() if box.unread or box.written_id > box.last_id
    }
    if changed:
        await connection.execute(
            "UPDATE notification_boxes AS b SET unread_count = b.unread_count + t.unread,"
            "  last_id = greatest(b.last_id, t.last_id)"
            " FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[])"
            "  AS t (user_id, unread, last_id)"
            " WHERE b.user_id = t.user_id",
            (
                list(changed),
                [box.unread for box in changed.values()],
                [box.written_id for box in changed.values()],
            ),
        )

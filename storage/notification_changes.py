"""Changes of notifications: what notification_worker writes, in one transaction for each batch.

State is a function of the newest event of each deed and relation, whatever the order in which the
events of different partitions come, and however often:
 * A deed or relation keeps the sequence of the event that it is by; an older event changes nothing.
 * A deed shows while it stands and no block or mute hides its actor; a notification shows while one
   of its deeds does and its tweet is not deleted. Its place is that of its newest deed that shows.
 * Every change holds the boxes of all the recipients that it concerns, locked in the order of their
   ids, so no two changes of one notification overlap and none wait for each other in a circle.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from domain import notification
from domain.notification import Changes, Group, Kind, Relation
from storage import notification_boxes
from storage.database import Connection
from storage.notification_boxes import Box


@dataclass(slots=True)
class _GroupChange:
    """How a group changes: by how many actors that show, and what it is where it is new."""

    shown: int
    first_id: int
    at: datetime


async def apply(connection: Connection, changes: Changes) -> dict[int, int]:
    """Writes changes in the caller's transaction; returns recipient -> place of the newest
    notification of those who have one that is new. Writing the same again changes nothing."""
    boxes = await notification_boxes.lock(connection, await _recipients(connection, changes))
    if changes.erased:
        await notification_boxes.close(connection, boxes, changes.erased)
    changes.leave_out({user for user, box in boxes.items() if box.erased})
    groups: dict[Group, _GroupChange] = {}
    pairs = await _write_relations(connection, changes)
    await _hide(connection, pairs, groups)
    await _write_deeds(connection, changes, boxes, groups)
    await _make_groups(connection, groups)
    await _delete_tweets(connection, changes, boxes)
    await _update_groups(connection, groups, boxes)
    await notification_boxes.write(connection, boxes)
    return {user: box.risen_to for user, box in boxes.items() if box.risen_to}


async def _recipients(connection: Connection, changes: Changes) -> set[int]:
    recipients = {deed.recipient for deed in changes.deeds} | changes.erased
    for relation in changes.relations:
        recipients.update(recipient for recipient, _ in notification.hides(relation))
    recipients.update(author for author, _ in changes.deleted.values())
    if changes.deleted:
        # Whom the deleted tweets mentioned, answered or quoted. The events of one tweet come by one
        # partition, so whoever is to be found stands there, or in this batch.
        cursor = await connection.execute(
            "SELECT DISTINCT recipient_id FROM notifications WHERE subject_id = ANY(%s)",
            (list(changes.deleted),),
        )
        recipients.update(int(row[0]) for row in await cursor.fetchall())
    return recipients


async def _write_relations(connection: Connection, changes: Changes) -> set[tuple[int, int]]:
    """Returns (recipient, actor) of whom may be shown now, or not any more, to whom."""
    if not changes.relations:
        return set()
    states = changes.relations.values()
    cursor = await connection.execute(
        "INSERT INTO notification_relations AS old (owner_id, other_id, kind, standing, sequence)"
        " SELECT * FROM"
        "  unnest(%s::bigint[], %s::bigint[], %s::smallint[], %s::boolean[], %s::bigint[])"
        " ON CONFLICT (owner_id, other_id, kind) DO UPDATE"
        " SET standing = excluded.standing, sequence = excluded.sequence"
        " WHERE excluded.sequence >= old.sequence"
        " AND (excluded.sequence, excluded.standing) <> (old.sequence, old.standing)"
        " RETURNING owner_id, other_id, kind",
        (
            [relation.owner for relation in changes.relations],
            [relation.other for relation in changes.relations],
            [int(relation.kind) for relation in changes.relations],
            [state.standing for state in states],
            [state.sequence for state in states],
        ),
    )
    changed = [
        Relation(int(row[0]), int(row[1]), notification.RelationKind(row[2]))
        for row in await cursor.fetchall()
    ]
    return {pair for relation in changed for pair in notification.hides(relation)}


async def _hide(
    connection: Connection, pairs: set[tuple[int, int]], groups: dict[Group, _GroupChange]
) -> None:
    """Hides or shows again what stands between recipients and actors."""
    if not pairs:
        return
    cursor = await connection.execute(
        "WITH pairs AS MATERIALIZED (SELECT recipient_id, actor_id,"
        "  EXISTS (SELECT FROM notification_relations AS r WHERE r.standing"
        "   AND r.owner_id = pair.recipient_id AND r.other_id = pair.actor_id)"
        "  OR EXISTS (SELECT FROM notification_relations AS r WHERE r.standing AND r.kind = 1"
        "   AND r.owner_id = pair.actor_id AND r.other_id = pair.recipient_id) AS hidden"
        "  FROM unnest(%s::bigint[], %s::bigint[]) AS pair (recipient_id, actor_id))"
        " UPDATE notification_actors AS a SET hidden = pairs.hidden FROM pairs"
        " WHERE a.recipient_id = pairs.recipient_id AND a.actor_id = pairs.actor_id"
        " AND a.hidden <> pairs.hidden"
        " RETURNING a.recipient_id, a.kind, a.subject_id, a.id, a.acted_at, a.standing, a.hidden",
        ([recipient for recipient, _ in pairs], [actor for _, actor in pairs]),
    )
    for recipient, kind, subject, place, at, standing, hidden in await cursor.fetchall():
        shown = int(standing) * (-1 if hidden else 1)
        _note(groups, Group(recipient, Kind(kind), subject), shown, place, at)


async def _write_deeds(
    connection: Connection,
    changes: Changes,
    boxes: dict[int, Box],
    groups: dict[Group, _GroupChange],
) -> None:
    """Writes deeds that are newer than what is known of them. A deed that stands anew gets the
    next place of its recipient's box."""
    if not changes.deeds:
        return
    places: list[int] = []
    for deed in changes.deeds:
        box = boxes[deed.recipient]
        box.next_id += 1
        places.append(box.next_id)
    states = changes.deeds.values()
    cursor = await connection.execute(
        "INSERT INTO notification_actors AS a (recipient_id, kind, subject_id, actor_id, id,"
        "  sequence, standing, hidden, acted_at)"
        " SELECT recipient_id, kind, subject_id, actor_id, id, sequence, standing,"
        "  EXISTS (SELECT FROM notification_relations AS r WHERE r.standing"
        "   AND r.owner_id = deed.recipient_id AND r.other_id = deed.actor_id)"
        "  OR EXISTS (SELECT FROM notification_relations AS r WHERE r.standing AND r.kind = 1"
        "   AND r.owner_id = deed.actor_id AND r.other_id = deed.recipient_id), acted_at"
        " FROM unnest(%s::bigint[], %s::smallint[], %s::bigint[], %s::bigint[], %s::bigint[],"
        "  %s::bigint[], %s::boolean[], %s::timestamptz[])"
        "  AS deed (recipient_id, kind, subject_id, actor_id, id, sequence, standing, acted_at)"
        " ON CONFLICT (recipient_id, kind, subject_id, actor_id) DO UPDATE"
        " SET standing = excluded.standing, sequence = excluded.sequence,"
        "  acted_at = excluded.acted_at,"
        "  id = CASE WHEN excluded.standing AND NOT a.standing THEN excluded.id ELSE a.id END"
        " WHERE excluded.sequence >= a.sequence"
        " AND (excluded.sequence, excluded.standing) <> (a.sequence, a.standing)"
        " RETURNING recipient_id, kind, subject_id, id, acted_at,"
        "  coalesce(old.standing AND NOT old.hidden, false), new.standing AND NOT new.hidden",
        (
            [deed.recipient for deed in changes.deeds],
            [int(deed.kind) for deed in changes.deeds],
            [deed.subject for deed in changes.deeds],
            [deed.actor for deed in changes.deeds],
            places,
            [state.sequence for state in states],
            [state.standing for state in states],
            [state.at for state in states],
        ),
    )
    for recipient, kind, subject, place, at, before, after in await cursor.fetchall():
        box = boxes[recipient]
        box.written_id = max(box.written_id, place)
        _note(groups, Group(recipient, Kind(kind), subject), after - before, place, at)


async def _make_groups(connection: Connection, groups: dict[Group, _GroupChange]) -> None:
    """Makes the groups that are new, still without actors."""
    if groups:
        await connection.execute(
            "INSERT INTO notifications (recipient_id, kind, subject_id, first_id, touched_at)"
            " SELECT * FROM unnest(%(recipients)s::bigint[], %(kinds)s::smallint[],"
            "  %(subjects)s::bigint[], %(first_ids)s::bigint[], %(touched)s::timestamptz[])"
            " ON CONFLICT DO NOTHING",
            _arrays(groups),
        )


async def _delete_tweets(connection: Connection, changes: Changes, boxes: dict[int, Box]) -> None:
    """Takes away what is told about deleted tweets, and leaves a mark for the likes and retweets
    of them that are still to come."""
    if not changes.deleted:
        return
    deleted = list(changes.deleted.items())
    marked = [
        (tweet, *of, kind)
        for tweet, of in deleted
        if not boxes[of[0]].erased
        for kind in notification.BY_TWEET
    ]
    await connection.execute(
        "INSERT INTO notifications (recipient_id, kind, subject_id, first_id, touched_at)"
        " SELECT recipient_id, kind, subject_id, 0, touched_at"
        " FROM unnest(%s::bigint[], %s::smallint[], %s::bigint[], %s::timestamptz[])"
        "  AS mark (recipient_id, kind, subject_id, touched_at)"
        " ON CONFLICT DO NOTHING",
        (
            [author for _, author, _, _ in marked],
            [int(kind) for _, _, _, kind in marked],
            [tweet for tweet, _, _, _ in marked],
            [at for _, _, at, _ in marked],
        ),
    )
    cursor = await connection.execute(
        "UPDATE notifications AS n SET gone = true, head_id = 0,"
        "  touched_at = greatest(n.touched_at, t.touched_at)"
        " FROM unnest(%s::bigint[], %s::timestamptz[]) AS t (subject_id, touched_at)"
        " WHERE n.subject_id = t.subject_id AND NOT n.gone"
        " RETURNING n.recipient_id, old.head_id",
        ([tweet for tweet, _ in deleted], [at for _, (_, at) in deleted]),
    )
    for recipient, head in await cursor.fetchall():
        boxes[recipient].note_head(head, 0)


async def _update_groups(
    connection: Connection, groups: dict[Group, _GroupChange], boxes: dict[int, Box]
) -> None:
    """Counts the actors of groups, and puts each group to the place of its newest one."""
    if not groups:
        return
    cursor = await connection.execute(
        "UPDATE notifications AS n SET actor_count = n.actor_count + t.shown,"
        "  touched_at = greatest(n.touched_at, t.touched_at), head_at = head.acted_at,"
        "  head_id = CASE WHEN n.gone THEN 0 ELSE coalesce(head.id, 0) END"
        " FROM unnest(%(recipients)s::bigint[], %(kinds)s::smallint[], %(subjects)s::bigint[],"
        "  %(shown)s::bigint[], %(touched)s::timestamptz[])"
        "  AS t (recipient_id, kind, subject_id, shown, touched_at)"
        " LEFT JOIN LATERAL (SELECT a.id, a.acted_at FROM notification_actors AS a"
        "  WHERE a.recipient_id = t.recipient_id AND a.kind = t.kind"
        "  AND a.subject_id = t.subject_id AND a.standing AND NOT a.hidden"
        "  ORDER BY a.id DESC LIMIT 1) AS head ON true"
        " WHERE n.recipient_id = t.recipient_id AND n.kind = t.kind"
        " AND n.subject_id = t.subject_id"
        " RETURNING n.recipient_id, old.head_id, new.head_id",
        _arrays(groups),
    )
    for recipient, before, after in await cursor.fetchall():
        boxes[recipient].note_head(before, after)


def _note(
    groups: dict[Group, _GroupChange], group: Group, shown: int, place: int, at: datetime
) -> None:
    change = groups.setdefault(group, _GroupChange(0, place, at))
    change.shown += shown
    change.first_id = min(change.first_id, place)
    change.at = max(change.at, at)


def _arrays(groups: dict[Group, _GroupChange]) -> dict[str, Sequence[object]]:
    changes = groups.values()
    return {
        "recipients": [group.recipient for group in groups],
        "kinds": [int(group.kind) for group in groups],
        "subjects": [group.subject for group in groups],
        "first_ids": [change.first_id for change in changes],
        "shown": [change.shown for change in changes],
        "touched": [change.at for change in changes],
    }

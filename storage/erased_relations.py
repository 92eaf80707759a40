"""The follows, blocks and mutes that an account that was deleted has left, to be taken away. Owned
by graph_server. The caller holds the rows of all accounts that it names."""

from collections.abc import Sequence
from enum import Enum
from typing import LiteralString

from domain.ids import UserId
from storage.database import Connection


class Kind(Enum):
    """Each kind of relation, from both ends: who the others are."""

    FOLLOWERS = "followers"
    FOLLOWEES = "followees"
    BLOCKED = "blocked"
    BLOCKERS = "blockers"
    MUTED = "muted"
    MUTERS = "muters"


_FETCH: dict[Kind, LiteralString] = {
    Kind.FOLLOWERS: "SELECT follower_id FROM follows WHERE followee_id = %s LIMIT %s",
    Kind.FOLLOWEES: "SELECT followee_id FROM follows WHERE follower_id = %s LIMIT %s",
    Kind.BLOCKED: "SELECT blocked_id FROM blocks WHERE blocker_id = %s LIMIT %s",
    Kind.BLOCKERS: "SELECT blocker_id FROM blocks WHERE blocked_id = %s LIMIT %s",
    Kind.MUTED: "SELECT muted_id FROM mutes WHERE muter_id = %s LIMIT %s",
    Kind.MUTERS: "SELECT muter_id FROM mutes WHERE muted_id = %s LIMIT %s",
}
_DELETE: dict[Kind, LiteralString] = {
    Kind.FOLLOWERS: "DELETE FROM follows WHERE followee_id = %s AND follower_id = ANY(%s)"
    " RETURNING follower_id",
    Kind.FOLLOWEES: "DELETE FROM follows WHERE follower_id = %s AND followee_id = ANY(%s)"
    " RETURNING followee_id",
    Kind.BLOCKED: "DELETE FROM blocks WHERE blocker_id = %s AND blocked_id = ANY(%s)"
    " RETURNING blocked_id",
    Kind.BLOCKERS: "DELETE FROM blocks WHERE blocked_id = %s AND blocker_id = ANY(%s)"
    " RETURNING blocker_id",
    Kind.MUTED: "DELETE FROM mutes WHERE muter_id = %s AND muted_id = ANY(%s) RETURNING muted_id",
    Kind.MUTERS: "DELETE FROM mutes WHERE muted_id = %s AND muter_id = ANY(%s) RETURNING muter_id",
}


async def fetch(connection: Connection, kind: Kind, user: UserId, *, count: int) -> list[UserId]:
    """Returns up to `count` accounts that stand in a relation to an account."""
    cursor = await connection.execute(_FETCH[kind], (user, count))
    return [UserId(row[0]) for row in await cursor.fetchall()]


async def delete(
    connection: Connection, kind: Kind, user: UserId, others: Sequence[UserId]
) -> list[UserId]:
    """Ends relations of a kind; returns those of the others that stood in one, in order of ids."""
    cursor = await connection.execute(_DELETE[kind], (user, list(others)))
    return sorted(UserId(row[0]) for row in await cursor.fetchall())

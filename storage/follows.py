"""Who follows whom. Owned by graph_server. Lists are in the order of `follows.id`."""

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg.rows import class_row

from domain.ids import UserId
from storage.database import Connection
from storage.users import UserRow


@dataclass(frozen=True, slots=True)
class ListedRow(UserRow):
    """An account in a list, and the id of the follow that put it there."""

    position: int


@dataclass(frozen=True, slots=True)
class RelationRow:
    """How a viewer stands to an account."""

    id: UserId
    following: bool
    followed_by: bool
    blocked: bool
    muted: bool


async def insert(
    connection: Connection, *, follow_id: int, follower: UserId, followee: UserId
) -> bool:
    """Follows; returns False where it was so already."""
    cursor = await connection.execute(
        "INSERT INTO follows (follower_id, followee_id, id) VALUES (%s, %s, %s)"
        " ON CONFLICT (follower_id, followee_id) DO NOTHING",
        (follower, followee, follow_id),
    )
    return cursor.rowcount == 1


async def delete(connection: Connection, *, follower: UserId, followee: UserId) -> bool:
    """Unfollows; returns False where nobody followed."""
    cursor = await connection.execute(
        "DELETE FROM follows WHERE follower_id = %s AND followee_id = %s", (follower, followee)
    )
    return cursor.rowcount == 1


async def fetch_followers(
    connection: Connection, user_id: UserId, *, below: int, count: int
) -> list[ListedRow]:
    """Returns up to `count` followers whose follow's id is under `below`, the newest first."""
    async with connection.cursor(row_factory=class_row(ListedRow)) as cursor:
        await cursor.execute(
            "SELECT u.id, username, display_name, bio, u.location, avatar_url, follower_count,"
            " following_count, tweet_count, tier, u.created_at, f.id AS position"
            " FROM follows f JOIN users u ON u.id = f.follower_id"
            " WHERE f.followee_id = %s AND f.id < %s AND u.erased_at IS NULL"
            " ORDER BY f.id DESC LIMIT %s",
            (user_id, below, count),
        )
        return await cursor.fetchall()


async def fetch_followees(
    connection: Connection, user_id: UserId, *, below: int, count: int
) -> list[ListedRow]:
    """Returns up to `count` followed accounts whose follow's id is under `below`, newest first."""
    async with connection.cursor(row_factory=class_row(ListedRow)) as cursor:
        await cursor.execute(
            "SELECT u.id, username, display_name, bio, u.location, avatar_url, follower_count,"
            " following_count, tweet_count, tier, u.created_at, f.id AS position"
            " FROM follows f JOIN users u ON u.id = f.followee_id"
            " WHERE f.follower_id = %s AND f.id < %s AND u.erased_at IS NULL"
            " ORDER BY f.id DESC LIMIT %s",
            (user_id, below, count),
        )
        return await cursor.fetchall()


async def fetch_relations(
    connection: Connection, viewer: UserId, user_ids: Sequence[int]
) -> dict[UserId, RelationRow]:
    """Returns how a viewer stands to each of the accounts."""
    async with connection.cursor(row_factory=class_row(RelationRow)) as cursor:
        await cursor.execute(
            "SELECT other AS id,"
            " EXISTS (SELECT FROM follows WHERE follower_id = %(viewer)s AND followee_id = other)"
            "  AS following,"
            " EXISTS (SELECT FROM follows WHERE follower_id = other AND followee_id = %(viewer)s)"
            "  AS followed_by,"
            " EXISTS (SELECT FROM blocks WHERE blocker_id = %(viewer)s AND blocked_id = other)"
            "  AS blocked,"
            " EXISTS (SELECT FROM mutes WHERE muter_id = %(viewer)s AND muted_id = other)"
            "  AS muted"
            " FROM unnest(%(others)s::bigint[]) AS other",
            {"viewer": viewer, "others": list(user_ids)},
        )
        return {row.id: row for row in await cursor.fetchall()}


async def fetch_follower_ids(
    connection: Connection, user_id: UserId, *, after: int, count: int
) -> list[int]:
    """Returns up to `count` ids of followers that are greater than `after`, rising."""
    cursor = await connection.execute(
        "SELECT follower_id FROM follows WHERE followee_id = %s AND follower_id > %s"
        " ORDER BY follower_id LIMIT %s",
        (user_id, after, count),
        binary=True,
    )
    return [int(row[0]) for row in await cursor.fetchall()]

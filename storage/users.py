"""Accounts. Owned by graph_server; tweet_server alone writes `tweet_count` and
`first_pulled_tweet_id`, in the transaction of a tweet. One that was deleted (storage/erasures.py)
is not found by any of these."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import AsyncCursor
from psycopg.rows import class_row

from domain.ids import UserId
from domain.tier import Tier
from domain.user import Profile, ProfileChange
from storage.database import Connection


@dataclass(frozen=True, slots=True)
class UserRow:
    """An account as others see it."""

    id: UserId
    username: str
    display_name: str
    bio: str
    location: str
    avatar_url: str
    follower_count: int
    following_count: int
    tweet_count: int
    tier: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class SummaryRow:
    """The short form of an account that stands on its tweets."""

    id: UserId
    username: str
    display_name: str


@dataclass(frozen=True, slots=True)
class CredentialsRow:
    """What signing in needs; the hash is None where an account has no password."""

    user_id: UserId
    password_hash: str | None


@dataclass(frozen=True, slots=True)
class LockedRow:
    """What a change needs of an account whose row it holds."""

    id: UserId
    follower_count: int
    tier: int


async def insert(
    connection: Connection, user_id: UserId, profile: Profile, password_hash: str
) -> UserRow | None:
    """Makes an account; returns None where the name is taken, also by a sign-up that runs now."""
    async with connection.cursor(row_factory=class_row(UserRow)) as cursor:
        await cursor.execute(
            "INSERT INTO users (id, username, display_name, bio, location, password_hash)"
            " VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (lower(username)) DO NOTHING"
            " RETURNING id, username, display_name, bio, location, avatar_url, follower_count,"
            " following_count, tweet_count, tier, created_at",
            (
                user_id,
                profile.username,
                profile.display_name,
                profile.bio,
                profile.location,
                password_hash,
            ),
        )
        return await cursor.fetchone()


async def update_profile(
    connection: Connection, user_id: UserId, change: ProfileChange
) -> UserRow | None:
    """Changes what `change` names; an empty display name becomes the username."""
    async with connection.cursor(row_factory=class_row(UserRow)) as cursor:
        await cursor.execute(
            "UPDATE users SET"
            " display_name = coalesce(nullif(coalesce(%s::text, display_name), ''), username),"
            " bio = coalesce(%s::text, bio), location = coalesce(%s::text, location),"
            " avatar_url = coalesce(%s::text, avatar_url)"
            " WHERE id = %s AND erased_at IS NULL"
            " RETURNING id, username, display_name, bio, location, avatar_url, follower_count,"
            " following_count, tweet_count, tier, created_at",
            (change.display_name, change.bio, change.location, change.avatar_url, user_id),
        )
        return await cursor.fetchone()


async def fetch_by_id(connection: Connection, user_id: UserId) -> UserRow | None:
    """Returns an account, or None."""
    async with connection.cursor(row_factory=class_row(UserRow)) as cursor:
        await cursor.execute(
            "SELECT id, username, display_name, bio, location, avatar_url, follower_count,"
            " following_count, tweet_count, tier, created_at FROM users"
            " WHERE id = %s AND erased_at IS NULL",
            (user_id,),
        )
        return await cursor.fetchone()


async def fetch_by_username(connection: Connection, username: str) -> UserRow | None:
    """Returns the account of that name, without regard to case, or None."""
    async with connection.cursor(row_factory=class_row(UserRow)) as cursor:
        await cursor.execute(
            "SELECT id, username, display_name, bio, location, avatar_url, follower_count,"
            " following_count, tweet_count, tier, created_at FROM users"
            ""
            " WHERE lower(username) = lower(%s) AND erased_at IS NULL",
            (username,),
        )
        return await cursor.fetchone()


async def fetch_credentials(connection: Connection, username: str) -> CredentialsRow | None:
    """Returns what signing in under that name needs, or None."""
    async with connection.cursor(row_factory=class_row(CredentialsRow)) as cursor:
        await cursor.execute(
            "SELECT id AS user_id, password_hash FROM users"
            " WHERE lower(username) = lower(%s) AND erased_at IS NULL",
            (username,),
        )
        return await cursor.fetchone()


async def fetch_password_hash(connection: Connection, user_id: UserId) -> str | None:
    """Returns the hash of an account's password; None where it has none, or is not there."""
    cursor = await connection.execute(
        "SELECT password_hash FROM users WHERE id = %s AND erased_at IS NULL", (user_id,)
    )
    row = await cursor.fetchone()
    return row[0] if row else None


async def fetch_by_ids(connection: Connection, user_ids: Sequence[int]) -> list[SummaryRow]:
    """Returns the short form of the accounts that exist, in no order."""
    async with connection.cursor(row_factory=class_row(SummaryRow)) as cursor:
        await cursor.execute(
            "SELECT id, username, display_name FROM users WHERE id = ANY(%s) AND erased_at IS NULL",
            (list(user_ids),),
        )
        return await cursor.fetchall()


async def fetch_full_by_ids(connection: Connection, user_ids: Sequence[int]) -> list[UserRow]:
    """Returns the accounts that exist, in no order."""
    async with connection.cursor(row_factory=class_row(UserRow)) as cursor:
        await cursor.execute(
            "SELECT id, username, display_name, bio, location, avatar_url, follower_count,"
            " following_count, tweet_count, tier, created_at FROM users"
            " WHERE id = ANY(%s) AND erased_at IS NULL",
            (list(user_ids),),
        )
        return await cursor.fetchall()


async def fetch_by_usernames(connection: Connection, usernames: Sequence[str]) -> list[SummaryRow]:
    """Returns the short form of the accounts of those names, without regard to case."""
    async with connection.cursor(row_factory=class_row(SummaryRow)) as cursor:
        await cursor.execute(
            "SELECT id, username, display_name FROM users"
            " WHERE lower(username) = ANY(%s) AND erased_at IS NULL",
            ([username.lower() for username in usernames],),
        )
        return await cursor.fetchall()


async def exists(connection: Connection, user_id: UserId) -> bool:
    """Whether there is such an account."""
    cursor: AsyncCursor[Any] = await connection.execute(
        "SELECT 1 FROM users WHERE id = %s AND erased_at IS NULL", (user_id,)
    )
    return await cursor.fetchone() is not None


async def lock(
    connection: Connection, user_ids: Sequence[UserId], *, erased_too: bool = False
) -> dict[UserId, LockedRow]:
    """Holds the rows of accounts until the transaction ends; leaves out who does not exist.

    Always in the order of ids, so that two who change each other at the same time do not wait for
    each other for ever.
    """
    async with connection.cursor(row_factory=class_row(LockedRow)) as cursor:
        await cursor.execute(
            "SELECT id, follower_count, tier FROM users"
            " WHERE id = ANY(%s) AND (erased_at IS NULL OR %s) ORDER BY id FOR NO KEY UPDATE",
            (list(user_ids), erased_too),
        )
        return {row.id: row for row in await cursor.fetchall()}


async def update_follower_count(
    connection: Connection, user_id: UserId, *, follower_count: int, tier: Tier
) -> None:
    """Sets an account's count of followers and its tier; the caller holds the row."""
    await connection.execute(
        "UPDATE users SET follower_count = %s, tier = %s WHERE id = %s",
        (follower_count, int(tier), user_id),
    )


async def take_from_following_counts(connection: Connection, user_ids: Sequence[UserId]) -> None:
    """Counts one followed account less for each of these; the caller holds their rows."""
    await connection.execute(
        "UPDATE users SET following_count = following_count - 1 WHERE id = ANY(%s)",
        (list(user_ids),),
    )


async def add_to_following_count(connection: Connection, user_id: UserId, delta: int) -> None:
    """Changes the count of the accounts that an account follows."""
    await connection.execute(
        "UPDATE users SET following_count = following_count + %s WHERE id = %s", (delta, user_id)
    )

"""Accounts that people deleted, until all that was theirs is gone (migration 0023). Made by
graph_server; graph_server and tweet_server each take away what they own, step by step, and say so.

Reads of tweets ask `being_erased` of authors, so that a tweet is gone when its account is, however
long taking it away may take. Nothing begins for an erased account: whoever writes holds its row.
"""

from typing import LiteralString

from domain.ids import UserId
from storage.database import Connection, Pool


def being_erased(author: LiteralString) -> LiteralString:
    """Returns the condition that an account was deleted and may have tweets that are not."""
    return "EXISTS (SELECT FROM tweet_erasures AS e WHERE e.user_id = " + author + ")"


async def begin(connection: Connection, user: UserId) -> None:
    """Hides an account, whose row is held, and reserves its name. No word of it is left in the row:
    what stands for the name is none that anybody can have."""
    await connection.execute(
        "INSERT INTO reserved_usernames (name_hash)"
        " SELECT sha256(convert_to(lower(username), 'UTF8')) FROM users WHERE id = %s"
        " ON CONFLICT DO NOTHING",
        (user,),
    )
    await connection.execute(
        "UPDATE users SET erased_at = now(), username = '~' || id, display_name = '', bio = '',"
        " location = '', avatar_url = '', password_hash = NULL WHERE id = %s",
        (user,),
    )
    await connection.execute("INSERT INTO relation_erasures (user_id) VALUES (%s)", (user,))
    await connection.execute("INSERT INTO tweet_erasures (user_id) VALUES (%s)", (user,))


async def is_reserved(connection: Connection, username: str) -> bool:
    """Whether an account that was deleted had this name, without regard to case."""
    cursor = await connection.execute(
        "SELECT FROM reserved_usernames WHERE name_hash = sha256(convert_to(lower(%s), 'UTF8'))",
        (username,),
    )
    return await cursor.fetchone() is not None


async def fetch_with_tweets(pool: Pool) -> set[UserId]:
    """Returns the deleted accounts of which tweets may be left."""
    async with pool.connection() as connection:
        cursor = await connection.execute("SELECT user_id FROM tweet_erasures")
        return {UserId(row[0]) for row in await cursor.fetchall()}


async def take_relations(connection: Connection) -> UserId | None:
    """Holds the erasure whose relations are to be taken on with, until the transaction ends: of
    those that nobody else holds, the one with the fewest steps so far, so that an account with a
    million followers holds up nobody. None where there is nothing to do."""
    cursor = await connection.execute(
        "UPDATE relation_erasures SET steps = steps + 1 WHERE user_id ="
        " (SELECT user_id FROM relation_erasures ORDER BY steps LIMIT 1 FOR UPDATE SKIP LOCKED)"
        " RETURNING user_id"
    )
    row = await cursor.fetchone()
    return UserId(row[0]) if row else None


async def end_relations(connection: Connection, user: UserId) -> None:
    """Says that no relation is left."""
    await connection.execute("DELETE FROM relation_erasures WHERE user_id = %s", (user,))


async def take_tweets(connection: Connection) -> UserId | None:
    """The same as `take_relations`, of tweets and likes."""
    cursor = await connection.execute(
        "UPDATE tweet_erasures SET steps = steps + 1 WHERE user_id ="
        " (SELECT user_id FROM tweet_erasures ORDER BY steps LIMIT 1 FOR UPDATE SKIP LOCKED)"
        " RETURNING user_id"
    )
    row = await cursor.fetchone()
    return UserId(row[0]) if row else None


async def end_tweets(connection: Connection, user: UserId) -> None:
    """Says that no tweet and no like is left."""
    await connection.execute("DELETE FROM tweet_erasures WHERE user_id = %s", (user,))

"""The tweets and likes that an account that was deleted has left, to be taken away. Owned by
tweet_server. The caller holds the account's row, so that nobody else changes what is here."""

from collections.abc import Mapping, Sequence

from psycopg.rows import class_row

from domain.ids import UserId
from storage.database import Connection
from storage.tweets import COLUMNS, CountChange, TweetRow


async def lock_account(connection: Connection, user: UserId) -> None:
    """Holds the account's row until the transaction ends."""
    await connection.execute("SELECT FROM users WHERE id = %s FOR NO KEY UPDATE", (user,))


async def fetch_liked(connection: Connection, user: UserId, *, count: int) -> list[tuple[int, int]]:
    """Returns up to `count` tweets that the account likes, with their authors, by id."""
    cursor = await connection.execute(
        "SELECT t.id, t.author_id FROM likes JOIN tweets AS t ON t.id = likes.tweet_id"
        " WHERE user_id = %s ORDER BY tweet_id LIMIT %s",
        (user, count),
    )
    return [(int(row[0]), int(row[1])) for row in await cursor.fetchall()]


async def delete_likes(connection: Connection, user: UserId, ids: Sequence[int]) -> None:
    """Takes likes back, without counting."""
    await connection.execute(
        "DELETE FROM likes WHERE user_id = %s AND tweet_id = ANY(%s)", (user, list(ids))
    )


async def fetch_living(connection: Connection, user: UserId, *, count: int) -> list[TweetRow]:
    """Returns the newest up to `count` of the account's tweets that are not deleted."""
    async with connection.cursor(row_factory=class_row(TweetRow)) as cursor:
        await cursor.execute(
            f"SELECT {COLUMNS} FROM tweets AS t WHERE author_id = %s AND t.deleted_at IS NULL"
            " ORDER BY id DESC LIMIT %s",
            (user, count),
        )
        return await cursor.fetchall()


async def lock(connection: Connection, ids: Sequence[int]) -> None:
    """Holds tweets until the transaction ends, locked in the order of their ids, as everywhere."""
    await connection.execute(
        "SELECT FROM tweets WHERE id = ANY(%s) ORDER BY id FOR NO KEY UPDATE", (list(ids),)
    )


async def change_counts(
    connection: Connection, changes: Mapping[int, CountChange]
) -> dict[int, int]:
    """Changes counts of tweets that are locked, deleted ones too; returns their new versions."""
    values = changes.values()
    cursor = await connection.execute(
        "UPDATE tweets AS t SET like_count = t.like_count + c.likes,"
        " retweet_count = t.retweet_count + c.retweets, reply_count = t.reply_count + c.replies,"
        " quote_count = t.quote_count + c.quotes, version = t.version + 1"
        " FROM unnest(%s::bigint[], %s::int[], %s::int[], %s::int[], %s::int[])"
        "  AS c (id, likes, retweets, replies, quotes)"
        " WHERE t.id = c.id RETURNING t.id, t.version",
        (
            list(changes),
            [change.likes for change in values],
            [change.retweets for change in values],
            [change.replies for change in values],
            [change.quotes for change in values],
        ),
    )
    return {int(row[0]): int(row[1]) for row in await cursor.fetchall()}


async def delete(connection: Connection, user: UserId, ids: Sequence[int]) -> dict[int, int]:
    """Deletes tweets of the account that are locked and not deleted, counts them off, and leaves
    no word of theirs in their rows; returns their new versions."""
    cursor = await connection.execute(
        "UPDATE tweets SET deleted_at = now(), version = version + 1, content = '',"
        " media_urls = '{}', hashtags = '{}', mentions = '{}', location = '', request_id = NULL"
        " WHERE id = ANY(%s) AND deleted_at IS NULL RETURNING id, version",
        (list(ids),),
    )
    versions = {int(row[0]): int(row[1]) for row in await cursor.fetchall()}
    await connection.execute(
        "UPDATE users SET tweet_count = tweet_count - %s WHERE id = %s", (len(versions), user)
    )
    return versions


async def empty_deleted(connection: Connection, user: UserId, *, count: int) -> int:
    """Leaves no word of up to `count` tweets that were deleted before; returns how many."""
    cursor = await connection.execute(
        "UPDATE tweets SET content = '', media_urls = '{}', hashtags = '{}', mentions = '{}',"
        " location = '', request_id = NULL WHERE id = ANY(ARRAY("
        "  SELECT id FROM tweets WHERE author_id = %s AND deleted_at IS NOT NULL"
        "  AND content <> '' LIMIT %s))",
        (user, count),
    )
    return cursor.rowcount

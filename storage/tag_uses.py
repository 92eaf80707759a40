"""Uses of hashtags in PostgreSQL, for the trend worker: what it counts after a start or a loss."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from storage.database import Pool
from storage.erasures import being_erased

LEAD_LOCK = 0x54726E64  # "Trnd": one worker counts at a time
PAGE_ROWS = 10_000


class TaggedTweet(NamedTuple):
    """A tweet with hashtags that is not deleted. A named tuple, because a worker reads tens of
    thousands a second."""

    id: int
    author_id: int
    location: str
    content: str
    hashtags: list[str]


async def fetch_page(pool: Pool, *, since_id: int, below: int) -> list[TaggedTweet]:
    """Returns the newest PAGE_ROWS tweets with tags and ids from `since_id` to under `below`."""
    async with (
        pool.connection() as connection,
        connection.cursor(row_factory=_row_maker, binary=True) as cursor,
    ):
        await cursor.execute(
            "SELECT id, author_id, location, content, hashtags FROM tweets"
            " WHERE id >= %s AND id < %s AND hashtags <> '{}' AND deleted_at IS NULL"
            f" AND NOT {being_erased('author_id')}"
            " ORDER BY id DESC LIMIT %s",
            (since_id, below, PAGE_ROWS),
        )
        return await cursor.fetchall()


async def fetch_by_ids(pool: Pool, ids: Sequence[int]) -> list[TaggedTweet]:
    """Returns those of the tweets that have tags and are not deleted, in no order."""
    async with (
        pool.connection() as connection,
        connection.cursor(row_factory=_row_maker, binary=True) as cursor,
    ):
        await cursor.execute(
            "SELECT id, author_id, location, content, hashtags FROM tweets"
            " WHERE id = ANY(%s) AND hashtags <> '{}' AND deleted_at IS NULL"
            f" AND NOT {being_erased('author_id')}",
            (list(ids),),
        )
        return await cursor.fetchall()


def _row_maker(_: object) -> Callable[[Sequence[Any]], TaggedTweet]:
    return TaggedTweet._make

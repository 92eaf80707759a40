"""Plain tweets of several authors in one transaction: a statement does for all of them what it
does for one, and two do all of it: each costs the server a wait at its connection. Plain tweets
refer to no other, so they change nobody's row but their authors'.

Lock order: only users rows, and none that another transaction holds, so nobody waits for anybody.
"""

import json
from collections.abc import Sequence
from typing import LiteralString

from domain.ids import UserId
from storage import outbox
from storage.database import Connection
from storage.tweets import STAMP_COLUMNS, AuthorStamp, TweetRow

_INSERT: LiteralString = (
    "INSERT INTO tweets (id, author_id, content, media_urls, hashtags, mentions, conversation_id,"
    " location, delivery, request_id, created_at)"
    " SELECT id, author_id, content, media_urls, hashtags, mentions, id, location, delivery,"
    " request_id, created_at FROM json_to_recordset(%s::json) AS posted (id bigint,"
    " author_id bigint, content text, media_urls text[], hashtags text[], mentions bigint[],"
    " location text, delivery smallint, request_id text, created_at timestamptz)"
)


async def count_free_authors(
    connection: Connection, authors: Sequence[UserId], requests: Sequence[tuple[UserId, str]]
) -> tuple[dict[UserId, AuthorStamp], set[tuple[UserId, str]]]:
    """Locks the rows of those accounts that are there and that nobody else has locked, and counts
    one tweet more for each. Returns their stamps, and which of these request ids the authors, where
    their rows are locked, used before. In a pipeline that is one round trip."""
    locked = await connection.execute(
        "UPDATE users SET tweet_count = tweet_count + 1 FROM (SELECT id FROM users"
        " WHERE id = ANY(%s) AND erased_at IS NULL FOR NO KEY UPDATE SKIP LOCKED) AS free"
        " WHERE users.id = free.id"
        f" RETURNING {STAMP_COLUMNS}",
        (list(authors),),
    )
    used = None
    if requests:
        # A statement of its own, behind the locks: it sees all that their last holders committed.
        used = await connection.execute(
            "SELECT author_id, request_id FROM tweets"
            " JOIN unnest(%s::bigint[], %s::text[]) AS asked (author_id, request_id)"
            " USING (author_id, request_id)",
            ([author for author, _ in requests], [request_id for _, request_id in requests]),
        )
    stamps = {stamp.author.id: stamp for stamp in map(AuthorStamp.of, await locked.fetchall())}
    rows = [] if used is None else await used.fetchall()
    return stamps, {(UserId(row[0]), str(row[1])) for row in rows}


async def take_back(connection: Connection, authors: Sequence[UserId]) -> None:
    """Takes back what was counted for authors who post nothing after all."""
    await connection.execute(
        "UPDATE users SET tweet_count = tweet_count - 1 WHERE id = ANY(%s)", (list(authors),)
    )


async def insert(
    connection: Connection,
    tweets: Sequence[tuple[TweetRow, str]],
    events: Sequence[bytes],
    *,
    wake: bool,
) -> None:
    """Inserts plain tweets, each with its request id or "", and the event of each; `wake` says
    whether to tell the relay (outbox.WAKE)."""
    # One parameter for all: lists of lists have no array type.
    rows = [
        {
            "id": row.id,
            "author_id": row.author_id,
            "content": row.content,
            "media_urls": row.media_urls,
            "hashtags": row.hashtags,
            "mentions": row.mentions,
            "location": row.location,
            "delivery": row.delivery,
            "request_id": request_id or None,
            "created_at": row.created_at.isoformat(),
        }
        for row, request_id in tweets
    ]
    await connection.execute(
        # The short one first: traces show how a statement begins.
        f"WITH told AS ({outbox.INSERT_ALL}), posted AS ({_INSERT})"
        f" SELECT {outbox.WAKE if wake else ''}",
        ([row.author_id for row, _ in tweets], list(events), json.dumps(rows, ensure_ascii=False)),
    )

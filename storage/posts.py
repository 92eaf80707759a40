"""Plain tweets of several authors in one transaction: a statement does for all of them what it
does for one. Plain tweets refer to no other, so they change nobody's row but their authors'.

Lock order: only users rows, and none that another transaction holds, so nobody waits for anybody.
"""

import json
from collections.abc import Sequence
from typing import LiteralString

from domain.ids import UserId
from storage import messages, outbox
from storage.messages import Connection, Statement
from storage.tweets import STAMP_COLUMNS, AuthorStamp, TweetRow

_LOCK: LiteralString = (
    "UPDATE users SET tweet_count = tweet_count + 1 FROM (SELECT id FROM users"
    " WHERE id = ANY($1::bigint[]) AND erased_at IS NULL FOR NO KEY UPDATE SKIP LOCKED) AS free"
    f" WHERE users.id = free.id RETURNING {STAMP_COLUMNS}"
)
_USED: LiteralString = (
    "SELECT author_id, request_id FROM tweets"
    " JOIN unnest($1::bigint[], $2::text[]) AS asked (author_id, request_id)"
    " USING (author_id, request_id)"
)
_TAKE_BACK: LiteralString = (
    "UPDATE users SET tweet_count = tweet_count - 1 WHERE id = ANY($1::bigint[])"
)
# The short one first: traces show how a statement begins.
_INSERT: LiteralString = (
    f"WITH told AS ({outbox.INSERT_ALL.format('$1', '$2')}),"
    " posted AS (INSERT INTO tweets (id, author_id, content, media_urls, hashtags, mentions,"
    " conversation_id, location, delivery, request_id, created_at)"
    " SELECT id, author_id, content, media_urls, hashtags, mentions, id, location, delivery,"
    " request_id, created_at FROM json_to_recordset($3::json) AS posted (id bigint,"
    " author_id bigint, content text, media_urls text[], hashtags text[], mentions bigint[],"
    " location text, delivery smallint, request_id text, created_at timestamptz)) SELECT "
)


async def begin(
    connection: Connection, authors: Sequence[UserId], requests: Sequence[tuple[UserId, str]]
) -> tuple[dict[UserId, AuthorStamp], set[tuple[UserId, str]]]:
    """Begins the transaction: locks the rows of those accounts that are there and that nobody else
    has locked, and counts one tweet more for each. Returns their stamps, and which of these request
    ids the authors, where their rows are locked, used before. One round trip."""
    statements = [messages.BEGIN, Statement(_LOCK, [list(authors)])]
    if requests:
        # A statement of its own, behind the locks: it sees all that their last holders committed.
        keys, values = zip(*requests, strict=True)
        statements.append(Statement(_USED, [list(keys), list(values)]))
    _, locked, *used = await connection.together(statements)
    stamps = {stamp.author.id: stamp for stamp in map(AuthorStamp.of, locked)}
    return stamps, {(UserId(row[0]), str(row[1])) for rows in used for row in rows}


async def commit(
    connection: Connection,
    tweets: Sequence[tuple[TweetRow, str]],
    events: Sequence[bytes],
    *,
    wake: bool,
    not_posted: Sequence[UserId],
) -> None:
    """Inserts plain tweets, each with its request id or "", and the event of each; takes back what
    was counted for those authors who post nothing after all; and commits. `wake` says whether to
    tell the relay (outbox.WAKE). One round trip."""
    statements: list[Statement] = []
    if not_posted:
        statements.append(Statement(_TAKE_BACK, [list(not_posted)]))
    if tweets:
        keys = [row.author_id for row, _ in tweets]
        query = _INSERT + (outbox.WAKE if wake else "")
        statements.append(Statement(query, [keys, list(events), _as_json(tweets)]))
    await connection.together([*statements, messages.COMMIT])


def _as_json(tweets: Sequence[tuple[TweetRow, str]]) -> str:
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
    return json.dumps(rows, ensure_ascii=False)

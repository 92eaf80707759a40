"""Whether PostgreSQL holds what was acknowledged, and whether every count equals a recount."""

from collections.abc import Iterator, Sequence
from typing import LiteralString

from storage.database import Connection
from tests.soak.model import Model, Relation

SHOWN_MAX = 5

_HELD: dict[str, LiteralString] = {
    "follow": "SELECT follower_id, followee_id FROM follows WHERE follower_id = ANY(%s)",
    "block": "SELECT blocker_id, blocked_id FROM blocks WHERE blocker_id = ANY(%s)",
    "mute": "SELECT muter_id, muted_id FROM mutes WHERE muter_id = ANY(%s)",
    "like": "SELECT user_id, tweet_id FROM likes WHERE user_id = ANY(%s)",
    "retweet": "SELECT author_id, retweet_of FROM tweets WHERE author_id = ANY(%s)"
    " AND retweet_of IS NOT NULL AND deleted_at IS NULL",
}

# Each selects what is counted wrong.
_RECOUNTS: dict[str, LiteralString] = {
    "followers": "SELECT id FROM users AS u WHERE id = ANY(%s) AND follower_count <>"
    " (SELECT count(*) FROM follows WHERE followee_id = u.id)",
    "following": "SELECT id FROM users AS u WHERE id = ANY(%s) AND following_count <>"
    " (SELECT count(*) FROM follows WHERE follower_id = u.id)",
    "tweets": "SELECT id FROM users AS u WHERE id = ANY(%s) AND tweet_count <>"
    " (SELECT count(*) FROM tweets WHERE author_id = u.id AND deleted_at IS NULL)",
    "likes": "SELECT id FROM tweets AS t WHERE author_id = ANY(%s) AND deleted_at IS NULL"
    " AND like_count <> (SELECT count(*) FROM likes WHERE tweet_id = t.id)",
    "retweets": "SELECT id FROM tweets AS t WHERE author_id = ANY(%s) AND deleted_at IS NULL"
    " AND retweet_count <> (SELECT count(*) FROM tweets AS r"
    "  WHERE r.retweet_of = t.id AND r.deleted_at IS NULL)",
    "replies": "SELECT id FROM tweets AS t WHERE author_id = ANY(%s) AND deleted_at IS NULL"
    " AND reply_count <> (SELECT count(*) FROM tweets AS r"
    "  WHERE r.reply_to = t.id AND r.deleted_at IS NULL)",
    "quotes": "SELECT id FROM tweets AS t WHERE author_id = ANY(%s) AND deleted_at IS NULL"
    " AND quote_count <> (SELECT count(*) FROM tweets AS q"
    "  WHERE q.quote_of = t.id AND q.deleted_at IS NULL)",
}


async def lost_writes(connection: Connection, model: Model) -> list[str]:
    """Returns acknowledged writes that the database does not show."""
    lost: list[str] = []
    known = dict(model.known_relations())
    for kind, statement in _HELD.items():
        of_kind = {relation: value for relation, value in known.items() if relation[0] == kind}
        actors = sorted({one for _, one, _ in of_kind})
        cursor = await connection.execute(statement, (actors,))
        held: set[Relation] = {(kind, row[0], row[1]) for row in await cursor.fetchall()}
        for relation, value in of_kind.items():
            if (relation in held) is not value:
                lost.append(f"{relation} should be {value}")
    cursor = await connection.execute(
        "SELECT id, author_id, deleted_at IS NOT NULL FROM tweets WHERE id = ANY(%s)",
        (list(model.authors),),
    )
    rows = {row[0]: row[1:] for row in await cursor.fetchall()}
    lost += _lost_tweets(model, rows)
    return lost


async def wrong_counts(connection: Connection, people: Sequence[int]) -> list[str]:
    """Returns counts of these accounts and their tweets that do not equal a recount."""
    wrong: list[str] = []
    for name, statement in _RECOUNTS.items():
        cursor = await connection.execute(statement, (list(people),))
        ids = [row[0] for row in await cursor.fetchall()]
        if ids:
            wrong.append(f"the count of {name} of {ids[:SHOWN_MAX]} is not a recount")
    return wrong


def _lost_tweets(model: Model, rows: dict[int, tuple[int, bool]]) -> Iterator[str]:
    for tweet, author in model.authors.items():
        if tweet not in rows or rows[tweet][0] != author:
            yield f"tweet {tweet} of {author} is not there"
        elif rows[tweet][1] and tweet not in model.deleting:
            yield f"tweet {tweet} of {author} is deleted, though nobody did it"
        elif tweet in model.deleted and not rows[tweet][1]:
            yield f"tweet {tweet} of {author} was deleted and is there"

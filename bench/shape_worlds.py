"""Worlds of any size for `make bench-shape`, written in bulk by SQL into one database.

A world replaces the one before. Accounts are numbered from 1; number n has the id n << 22, as
`chirp load --graph` gives them. Everything is made with the indexes dropped and rebuilt at the end,
and without the checks of foreign keys, which hold by construction.
"""

import csv
import lzma
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import LiteralString

from bench.world import POPULARITY, POPULARITY_HEAD
from domain.ids import EPOCH_MS, SEQUENCE_BITS, WORKER_BITS, UserId
from mesh.settings import Settings
from storage import bulk, valkey
from storage.database import Connection

ID_BITS = WORKER_BITS + SEQUENCE_BITS
FOLLOWS_PER_ACCOUNT = 10
TWEETS_PER_ACCOUNT = 5
TWEET_EVERY_MS = 40
MIXER = 48_271  # a prime: who is followed by many does not follow many
TIMEOUT = "SET statement_timeout = '400s'"
COPY_LINES = 50_000

Pair = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a world holds."""

    accounts: int
    reserved: int = 0
    """The last accounts, of whom no random follow is made: `more` says whom they follow."""
    follows: int = 0
    """Random ones among the others, by the power law of bench/world.py."""
    graph: Path | None = None
    """A graph file instead of random follows."""
    more: Iterable[Pair] = ()
    """Further follows, (follower, followee) by number; none may be there twice."""
    celebrities: int = 0
    """The last of the reserved accounts, whose tweets are pulled."""


def account_id(number: int) -> UserId:
    """Returns the id of an account."""
    return UserId(number << ID_BITS)


def law(accounts: int) -> dict[str, float]:
    """Returns what the statement below needs to draw ranks from 1 to `accounts`: of u, uniform in
    [0, 1), rank floor((low + u * span) ** power - head) + 1 comes as often as (rank + head) to the
    power -POPULARITY says."""
    power = 1 - POPULARITY
    low, high = POPULARITY_HEAD**power, (accounts + POPULARITY_HEAD) ** power
    return {"low": low, "span": high - low, "power": 1 / power, "head": POPULARITY_HEAD}


async def make(settings: Settings, plan: Plan) -> None:
    """Replaces the world, in PostgreSQL and in the cache. The servers must have been stopped."""
    async with bulk.connect(settings) as connection:
        await connection.execute(TIMEOUT)
        await connection.execute("SET session_replication_role = replica")
        await connection.execute("SET synchronous_commit = off")
        await connection.execute("SET maintenance_work_mem = '1GB'")
        await connection.execute("SET work_mem = '512MB'")
        await connection.execute(
            "TRUNCATE users, tweets, outbox, purges CASCADE"  # and all that refers to them
        )
        await _make_follows(connection, plan)
        await _make_users(connection, plan)
        await _make_tweets(connection, plan)
        await connection.execute("VACUUM ANALYZE users, follows, tweets")
        await connection.execute("CHECKPOINT")
    async with valkey.connect(settings.valkey_url, settings) as cache:
        await cache.flushall()


async def fetch_readers(
    settings: Settings, *, low: int, high: int, count: int, up_to: int
) -> list[UserId]:
    """Returns up to `count` random accounts, numbered up to `up_to`, that follow so many."""
    async with bulk.connect(settings) as connection:
        cursor = await connection.execute(
            "SELECT id FROM users WHERE following_count BETWEEN %s AND %s AND id <= %s"
            " ORDER BY hashint8(id) LIMIT %s",
            (low, high, account_id(up_to), count),
        )
        return [UserId(row[0]) for row in await cursor.fetchall()]


async def _make_follows(connection: Connection, plan: Plan) -> None:
    definitions = await _fetch_texts(
        connection,
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'follows_pkey'",
    )
    indexes = await _fetch_texts(
        connection,
        "SELECT indexdef FROM pg_indexes WHERE tablename = 'follows'"
        " AND indexname <> 'follows_pkey'",
    )
    await connection.execute("ALTER TABLE follows DROP CONSTRAINT follows_pkey")
    await connection.execute("DROP INDEX follows_by_followee, follows_by_follower")
    await connection.execute("CREATE TEMP TABLE drawn (follower bigint, followee bigint)")
    await connection.execute("SELECT setseed(0.25)")
    if plan.graph is not None:
        await _copy(connection, _read_graph(plan.graph))
    elif plan.follows:
        crowd = plan.accounts - plan.reserved
        await connection.execute(
            "INSERT INTO drawn SELECT DISTINCT 1 + (follower * %(mixer)s) %% %(accounts)s, followee"
            " FROM (SELECT least(%(accounts)s, 1 + floor((%(low)s + random() * %(span)s)"
            "   ^ %(power)s - %(head)s)::bigint) AS followee,"
            "  least(%(accounts)s, 1 + floor((%(low)s + random() * %(span)s)"
            "   ^ %(power)s - %(head)s)::bigint) AS follower"
            "  FROM generate_series(1, %(follows)s)) AS pairs",
            law(crowd) | {"accounts": crowd, "follows": plan.follows, "mixer": MIXER},
        )
    await _copy(connection, plan.more)
    await connection.execute(
        "INSERT INTO follows (follower_id, followee_id, id) SELECT follower << %(bits)s,"
        " followee << %(bits)s, row_number() OVER () FROM drawn WHERE follower <> followee",
        {"bits": ID_BITS},
    )
    for definition in definitions:
        await connection.execute(
            f"ALTER TABLE follows ADD CONSTRAINT follows_pkey {definition}".encode()
        )
    for index in indexes:
        await connection.execute(index.encode())


async def _make_users(connection: Connection, plan: Plan) -> None:
    await connection.execute(
        "INSERT INTO users (id, username, display_name, follower_count, following_count,"
        "  tweet_count, tier, first_pulled_tweet_id)"
        " SELECT number << %(bits)s, 'ego_' || number, 'ego_' || number,"
        "  coalesce(followers.count, 0), coalesce(followees.count, 0), %(tweets)s,"
        "  CASE WHEN number > %(pulled)s THEN 3 ELSE 1 END,"
        "  CASE WHEN number > %(pulled)s THEN 1 END"
        " FROM generate_series(1, %(accounts)s::bigint) AS number"
        " LEFT JOIN (SELECT followee, count(*) FROM drawn WHERE follower <> followee"
        "  GROUP BY followee) AS followers ON followers.followee = number"
        " LEFT JOIN (SELECT follower, count(*) FROM drawn WHERE follower <> followee"
        "  GROUP BY follower) AS followees ON followees.follower = number",
        {
            "bits": ID_BITS,
            "tweets": TWEETS_PER_ACCOUNT,
            "accounts": plan.accounts,
            "pulled": plan.accounts - plan.celebrities,
        },
    )
    await connection.execute("DROP TABLE drawn")


async def _make_tweets(connection: Connection, plan: Plan) -> None:
    (index,) = await _fetch_texts(
        connection, "SELECT indexdef FROM pg_indexes WHERE indexname = 'tweets_by_author'"
    )
    await connection.execute("DROP INDEX tweets_by_author")
    # The authors' order is another one in each round: who wrote last has nothing to do with rank.
    await connection.execute(
        "WITH placed AS (SELECT number, 1 + (number * %(mixer)s + number / %(accounts)s * 7919)"
        "   %% %(accounts)s AS author, (extract(epoch FROM now()) * 1000)::bigint"
        "   - (%(total)s - number + 1000) * %(every)s AS at_ms"
        "  FROM generate_series(0, %(total)s::bigint - 1) AS number)"
        " INSERT INTO tweets (id, author_id, content, conversation_id, delivery, created_at)"
        " SELECT (at_ms - %(epoch)s) << %(bits)s, author << %(bits)s,"
        "  repeat('a tweet of the usual length ', 4), (at_ms - %(epoch)s) << %(bits)s,"
        "  CASE WHEN author > %(pulled)s THEN 2 ELSE 1 END, to_timestamp(at_ms / 1000.0)"
        " FROM placed",
        {
            "mixer": MIXER,
            "accounts": plan.accounts,
            "total": plan.accounts * TWEETS_PER_ACCOUNT,
            "every": TWEET_EVERY_MS,
            "epoch": EPOCH_MS,
            "bits": ID_BITS,
            "pulled": plan.accounts - plan.celebrities,
        },
    )
    await connection.execute(index.encode())


async def _copy(connection: Connection, pairs: Iterable[Pair]) -> None:
    async with connection.cursor() as cursor, cursor.copy("COPY drawn FROM STDIN") as copy:
        lines: list[str] = []
        for follower, followee in pairs:
            lines.append(f"{follower}\t{followee}\n")
            if len(lines) == COPY_LINES:
                await copy.write("".join(lines))
                lines.clear()
        await copy.write("".join(lines))


def _read_graph(path: Path) -> Iterable[Pair]:
    with lzma.open(path, "rt") if path.suffix == ".xz" else path.open() as file:
        for follower, followee in csv.reader(file):
            yield int(follower), int(followee)


async def _fetch_texts(connection: Connection, query: LiteralString) -> list[str]:
    return [str(row[0]) for row in await (await connection.execute(query)).fetchall()]

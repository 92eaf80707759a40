"""The world that is measured: a follower graph, tweets, and viewers with their tokens.

The graph is the real one where its file is at hand, else a generated one of the same size. Account
by account, 24 tweets and one more for every 4 followers: about 2.4 million over the last days, in
an order that has nothing to do with their authors. So nearly everybody who follows anybody finds a
full page and more. One in 7 is a retweet, one in 14 a reply, one in 49 a quote; viewers like some
of what they see. Everything is random by fixed seeds.
"""

import os
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import LiteralString

from rich.console import Console
from rich.progress import Progress

from domain.ids import EPOCH_MS, SEQUENCE_BITS, WORKER_BITS, UserId
from mesh.settings import Settings
from mesh.tokens import TokenSigner
from ops import load_graph
from ops.load_graph import Loaded
from storage import bulk
from storage.database import Connection

_SHARED = Path(__file__).resolve().parent.parent.parent / "shared"
GRAPH = Path(os.environ.get("CHIRP_BENCH_DATA", _SHARED / "data" / "ego-twitter.csv.xz"))
"""The real graph's file, where it is at hand."""
# Low enough that the real graph has accounts that are pulled: 43 of them.
INFLUENCER_FOLLOWERS = 1_000
ACCOUNTS = 81_306  # as many as ego-Twitter has
FOLLOWS = 1_768_135
POPULARITY = 0.75  # weights fall with rank to this power; the first have about 3,000 followers
POPULARITY_HEAD = 20

TWEETS_BASE = 24
FOLLOWERS_PER_TWEET = 4
TWEET_EVERY_MS = 40
REFERRED_BACK = 2_000  # in steps of 7 tweets: a retweet, quote or reply is at most so far away
LIKED_PART = 0.05
VIEWERS = 2_000
TOKEN_LIFETIME_S = 3_600
SEED = 20_261_120

TEXT = (
    "a the we they city rain today morning coffee bus river match final score news about never"
    " always people know what happens next street music light old new photo from here there again"
    " going home late early train delayed thanks everyone great terrible maybe tomorrow winter"
)
WORDS = TEXT.split()


def at_hand(graph: Path, console: Console) -> Path | None:
    """Returns the graph's file, None where it is not there, and says so."""
    if graph.exists():
        return graph
    console.print(f"{graph} is not there: a power-law graph of the same size is generated instead")
    return None


@dataclass(frozen=True, slots=True)
class World:
    """What the measurements draw from."""

    accounts: Sequence[UserId]
    follower_counts: Sequence[int]
    """Of the accounts, in their order."""
    viewers: Sequence[UserId]
    tokens: Sequence[str]
    """Of the viewers, in their order."""
    entries: Sequence[int]
    """How many entries the home timelines of the viewers have, in no order."""
    tweets: int


async def load(settings: Settings, data: Path | None, progress: Progress) -> None:
    """Loads the world into an empty database. `data` is the graph's file, None for a made one."""
    file = data
    if file is None:
        file = settings.data / "generated-graph.csv"
        with file.open("w") as out:
            out.writelines(f"{one},{other}\n" for one, other in generated_graph())
    await load_graph.load(settings, file, progress, Loaded())
    task = progress.add_task("tweets", total=None)
    async with bulk.connect(settings) as connection:
        await _make_tweets(connection)
        # Now, or autovacuum would do it in the middle of a measurement.
        for table in ("tweets", "follows", "users"):
            await connection.execute(b"VACUUM ANALYZE " + table.encode())
        await connection.execute("CHECKPOINT")
    progress.update(task, total=1, completed=1)


async def describe(settings: Settings) -> World:
    """Draws viewers, who like some of what they see; returns the world that was loaded."""
    async with bulk.connect(settings) as connection:
        accounts = await _fetch(connection, "SELECT id, follower_count FROM users ORDER BY id")
        readers = await _fetch(
            connection, "SELECT id FROM users WHERE following_count > 0 ORDER BY id"
        )
        viewers = random.Random(SEED).sample(readers, VIEWERS)  # noqa: S311 -- not a secret
        cursor = await connection.execute(
            "SELECT viewer.tweet_count + sum(followee.tweet_count) FROM users AS viewer"
            " JOIN follows ON follower_id = viewer.id JOIN users AS followee"
            " ON followee.id = followee_id WHERE viewer.id = ANY(%s) GROUP BY viewer.id",
            ([viewer for (viewer,) in viewers],),
        )
        entries = [int(row[0]) for row in await cursor.fetchall()]
        ((tweets,),) = await _fetch(connection, "SELECT count(*) FROM tweets")
        users = [UserId(viewer) for (viewer,) in viewers]
        await _like(connection, users)
    return World(
        accounts=[UserId(account) for account, _ in accounts],
        follower_counts=[count for _, count in accounts],
        viewers=users,
        tokens=mint_tokens(settings, users),
        entries=entries,
        tweets=tweets,
    )


def generated_graph(
    accounts: int = ACCOUNTS, follows: int = FOLLOWS, seed: int = SEED
) -> Iterator[tuple[int, int]]:
    """Yields different pairs (follower, followee) of numbers from 1 on. Both degrees fall off by a
    power law, and who follows many need not be followed by many."""
    draw = random.Random(seed)  # noqa: S311 -- not a secret
    weights = list(
        accumulate((rank + POPULARITY_HEAD) ** -POPULARITY for rank in range(1, accounts + 1))
    )
    followees = range(1, accounts + 1)
    followers = list(followees)
    draw.shuffle(followers)
    seen: set[tuple[int, int]] = set()
    while len(seen) < follows:
        missing = follows - len(seen)
        for pair in zip(
            draw.choices(followers, cum_weights=weights, k=missing),
            draw.choices(followees, cum_weights=weights, k=missing),
            strict=True,
        ):
            if pair[0] != pair[1] and pair not in seen:
                seen.add(pair)
                yield pair


def mint_tokens(settings: Settings, users: Sequence[UserId]) -> list[str]:
    """Signs a token for each user."""
    signer = TokenSigner(settings)
    return [
        signer.sign_user(user, 0, lifetime_s=TOKEN_LIFETIME_S, now=time.time()) for user in users
    ]


async def _fetch(connection: Connection, query: LiteralString) -> list[tuple[int, ...]]:
    return await (await connection.execute(query)).fetchall()


async def _make_tweets(connection: Connection) -> None:
    """Makes tweets in the database, stamped by their authors' tiers."""
    text = " ".join(random.Random(SEED).choices(WORDS, k=200))  # noqa: S311
    async with connection.transaction():
        await connection.execute("SELECT setseed(0.5)")
        # Filled in one go at the end, an index takes a fraction of the time.
        cursor = await connection.execute(
            "SELECT indexdef FROM pg_indexes WHERE indexname = 'tweets_by_author'"
        )
        (index,) = await cursor.fetchone() or ("",)
        await connection.execute("DROP INDEX tweets_by_author")
        await connection.execute(
            "WITH drawn AS MATERIALIZED (SELECT users.id AS author, users.tier,"
            "  row_number() OVER (ORDER BY random()) AS number"
            "  FROM users, generate_series(1, %(base)s + users.follower_count / %(part)s)),"
            # What others refer to are tweets whose number is 6 modulo 7, and nothing but tweets.
            " placed AS MATERIALIZED (SELECT author, tier, number,"
            "  (extract(epoch FROM now()) * 1000)::bigint"
            "   - (count(*) OVER () - number + 1000) * %(every)s AS at_ms,"
            "  number - 7 * (random() * %(back)s)::int AS near FROM drawn),"
            " made AS MATERIALIZED (SELECT *, (at_ms - %(epoch)s) << %(bits)s AS id FROM placed)"
            " INSERT INTO tweets (id, author_id, content, conversation_id, delivery, created_at,"
            "  retweet_of, original_author_id, quote_of, reply_to, replied_author_id)"
            " SELECT t.id, t.author, CASE WHEN original.id IS NULL THEN"
            "  substr(%(text)s, 1 + (random() * 600)::int, 60 + (random() * 120)::int) ELSE '' END,"
            "  coalesce(parent.id, t.id), CASE WHEN t.tier > 1 THEN 2 ELSE 1 END,"
            "  to_timestamp(t.at_ms / 1000.0),"
            "  original.id, original.author, quoted.id, parent.id, parent.author"
            " FROM made AS t"
            " LEFT JOIN made AS original ON t.number %% 7 = 0 AND original.number = t.near - 1"
            " LEFT JOIN made AS quoted ON t.number %% 49 = 1 AND quoted.number = t.near - 2"
            " LEFT JOIN made AS parent ON t.number %% 14 = 3 AND parent.number = t.near - 4"
            " ORDER BY t.number ON CONFLICT DO NOTHING",  # nobody retweets a tweet twice
            {
                "base": TWEETS_BASE,
                "part": FOLLOWERS_PER_TWEET,
                "every": TWEET_EVERY_MS,
                "back": REFERRED_BACK,
                "epoch": EPOCH_MS,
                "bits": WORKER_BITS + SEQUENCE_BITS,
                "text": text,
            },
        )
        await connection.execute(
            "UPDATE tweets SET retweet_count = c.retweets, quote_count = c.quotes,"
            "  reply_count = c.replies"
            " FROM (SELECT target, count(retweet_of) AS retweets, count(quote_of) AS quotes,"
            "   count(reply_to) AS replies"
            "  FROM tweets, LATERAL (SELECT coalesce(retweet_of, quote_of, reply_to) AS target)"
            "  WHERE target IS NOT NULL GROUP BY target) AS c WHERE tweets.id = c.target"
        )
        await connection.execute(str(index).encode())
        await connection.execute(
            "UPDATE users SET tweet_count = t.count, first_pulled_tweet_id = t.first_pulled FROM"
            " (SELECT author_id, count(*) AS count, min(id) FILTER (WHERE delivery = 2)"
            "  AS first_pulled FROM tweets GROUP BY author_id) AS t WHERE users.id = t.author_id"
        )


async def _like(connection: Connection, viewers: Sequence[UserId]) -> None:
    async with connection.transaction():
        await connection.execute("SELECT setseed(0.5)")
        await connection.execute(
            "WITH liked AS (INSERT INTO likes (user_id, tweet_id, id)"
            " SELECT follower_id, newest.id, newest.id FROM follows, LATERAL (SELECT id FROM tweets"
            "  WHERE author_id = followee_id AND deleted_at IS NULL AND retweet_of IS NULL"
            "  ORDER BY id DESC LIMIT 3) AS newest"
            " WHERE follower_id = ANY(%s) AND random() < %s ON CONFLICT DO NOTHING"
            " RETURNING tweet_id)"
            " UPDATE tweets SET like_count = like_count + c.likes FROM"
            " (SELECT tweet_id, count(*) AS likes FROM liked GROUP BY tweet_id) AS c"
            " WHERE tweets.id = c.tweet_id",
            (viewers, LIKED_PART),
        )

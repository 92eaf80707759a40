"""The world that is measured: a follower graph, tweets, and viewers with their tokens.

The graph is the real one where its file is at hand, else a generated one of the same size. Account
by account, 22 tweets and one more for every 4 followers: about 2.2 million over the last days, in
an order that has nothing to do with their authors. So nearly everybody who follows anybody finds a
full page and more. Everything is random by fixed seeds.
"""

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from rich.progress import Progress

from domain.ids import EPOCH_MS, SEQUENCE_BITS, WORKER_BITS, UserId
from mesh.settings import Settings
from mesh.tokens import TokenSigner
from ops import load_graph
from ops.load_graph import Loaded
from storage import bulk
from storage.database import Connection

ACCOUNTS = 81_306  # as many as ego-Twitter has
FOLLOWS = 1_768_135
POPULARITY = 0.75  # weights fall with rank to this power; the first have about 3,000 followers
POPULARITY_HEAD = 20

TWEETS_BASE = 22
FOLLOWERS_PER_TWEET = 4
TWEET_EVERY_MS = 40
VIEWERS = 2_000
TOKEN_LIFETIME_S = 3_600
SEED = 20_261_120

WORDS = (
    "a the we they city rain today morning coffee bus river match final score news about never"
    " always people know what happens next street music light old new photo from here there again"
    " going home late early train delayed thanks everyone great terrible maybe tomorrow winter"
).split()


@dataclass(frozen=True, slots=True)
class World:
    """What the measurements draw from."""

    graph: str
    """What the graph is, for the table."""
    accounts: Sequence[UserId]
    follower_counts: Sequence[int]
    """Of the accounts, in their order."""
    viewers: Sequence[UserId]
    tokens: Sequence[str]
    """Of the viewers, in their order."""
    tweets: int


async def load(settings: Settings, data: Path | None, progress: Progress) -> World:
    """Loads the world into an empty database. `data` is the graph's file, None for a made one."""
    file = data
    if file is None:
        file = settings.data / "generated-graph.csv"
        with file.open("w") as out:
            out.writelines(f"{one},{other}\n" for one, other in generated_graph())
    loaded = Loaded()
    await load_graph.load(settings, file, progress, loaded)
    print("GRAPH", time.time())
    task = progress.add_task("tweets", total=None)
    async with bulk.connect(settings) as connection:
        tweets = await _make_tweets(connection)
        print("TW", time.time())
        # Now, or autovacuum would do it in the middle of a measurement.
        for table in ("tweets", "follows", "users"):
            await connection.execute(b"VACUUM ANALYZE " + table.encode())
        await connection.execute("CHECKPOINT")
        print("VAC", time.time())
        cursor = await connection.execute("SELECT id, follower_count FROM users ORDER BY id")
        rows = [(UserId(row[0]), int(row[1])) for row in await cursor.fetchall()]
        cursor = await connection.execute(
            "SELECT id FROM users WHERE following_count > 0 ORDER BY id"
        )
        readers = [UserId(row[0]) for row in await cursor.fetchall()]
    progress.update(task, total=1, completed=1)
    viewers = random.Random(SEED).sample(readers, VIEWERS)  # noqa: S311 -- not a secret
    name = "ego-Twitter" if data is not None else "a generated power-law graph"
    return World(
        graph=f"{name}, {loaded.accounts:,} accounts, {loaded.follows:,} follows",
        accounts=[account for account, _ in rows],
        follower_counts=[count for _, count in rows],
        viewers=viewers,
        tokens=mint_tokens(settings, viewers),
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
        signer.sign_user(user, number, lifetime_s=TOKEN_LIFETIME_S, now=time.time())
        for number, user in enumerate(users, start=1)
    ]


async def _make_tweets(connection: Connection) -> int:
    """Makes tweets in the database, stamped by their authors' tiers; returns how many."""
    text = " ".join(random.Random(SEED).choices(WORDS, k=2_000))  # noqa: S311
    async with connection.transaction():
        await connection.execute("SELECT setseed(0.5)")
        cursor = await connection.execute(
            "WITH drawn AS MATERIALIZED (SELECT users.id AS author, users.tier,"
            "  row_number() OVER (ORDER BY random()) AS number"
            "  FROM users, generate_series(1, %(base)s + users.follower_count / %(part)s)),"
            " placed AS (SELECT author, tier, number, (extract(epoch FROM now()) * 1000)::bigint"
            "  - (count(*) OVER () - number + 1000) * %(every)s AS at_ms FROM drawn)"
            " INSERT INTO tweets (id, author_id, content, conversation_id, delivery, created_at)"
            " SELECT (at_ms - %(epoch)s) << %(bits)s, author,"
            "  substr(%(text)s, 1 + (random() * 9000)::int, 60 + (random() * 120)::int),"
            "  (at_ms - %(epoch)s) << %(bits)s, CASE WHEN tier > 1 THEN 2 ELSE 1 END,"
            "  to_timestamp(at_ms / 1000.0) FROM placed ORDER BY number",
            {
                "base": TWEETS_BASE,
                "part": FOLLOWERS_PER_TWEET,
                "every": TWEET_EVERY_MS,
                "epoch": EPOCH_MS,
                "bits": WORKER_BITS + SEQUENCE_BITS,
                "text": text,
            },
        )
        await connection.execute(
            "UPDATE users SET tweet_count = t.count, first_pulled_tweet_id = t.first_pulled FROM"
            " (SELECT author_id, count(*) AS count, min(id) FILTER (WHERE delivery = 2)"
            "  AS first_pulled FROM tweets GROUP BY author_id) AS t WHERE users.id = t.author_id"
        )
    return cursor.rowcount

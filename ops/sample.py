"""The sample world: what `chirp up` fills an empty database with, so that a first look shows life.

1,000 people, 50,000 follows, 10,000 tweets of the last twelve hours with replies, mentions and
tags, of which one rises now. `ada` follows most; `grace`, `alan` and others of domain/sample_graph
are the most followed. Nobody has a password: `chirp token ada` gives a token.

All of it is one transaction, so there is never half a world. It has no events: the timelines of
people who did not exist before are in no cache, and the first read of each makes it; what they are
told of each other is written here (`sample_notifications.py`).
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random

from domain import fanout, sample_graph, sample_tweets, tweet
from domain.ids import SnowflakeGenerator, minted_at_ms
from domain.sample_graph import Person
from domain.sample_tweets import Said
from domain.tier import Thresholds, Tier
from mesh.settings import Settings
from ops import sample_notifications
from ops.load import progress_bar
from storage import bulk, valkey
from storage.bulk import AccountRow, FollowRow, TweetRow
from storage.database import Connection
from storage.timelines import TimelineStore
from storage.trends import TrendStore

SEED = 2024
PEOPLE = 1_000
FOLLOWS = 50_000
TWEETS = 10_000
HOUR_MS = 3_600_000
# People came first, then followed each other, then talked; all before now, so that no id is one
# that a server gives out from now on.
JOINED_FROM_MS, JOINED_TO_MS = 30 * 24 * HOUR_MS, 20 * 24 * HOUR_MS
FOLLOWED_FROM_MS, FOLLOWED_TO_MS = 20 * 24 * HOUR_MS, 24 * HOUR_MS
SPAN_MS = 12 * HOUR_MS
NEWEST_AGE_MS = 1_000


@dataclass(frozen=True, slots=True)
class _World:
    accounts: list[AccountRow]
    follows: list[FollowRow]
    said: list[Said]
    tweet_ids: list[int]


async def is_empty(settings: Settings) -> bool:
    """Whether there is no account and no tweet."""
    async with bulk.connect(settings) as connection:
        return await bulk.is_empty(connection)


async def make(settings: Settings, *, show_progress: bool) -> None:
    """Makes the sample world; changes nothing where somebody signed up meanwhile.

    The whole world or none: it may be interrupted at any time. Raises what PostgreSQL raises."""
    progress = progress_bar()
    progress.disable = not show_progress
    with progress:
        task = progress.add_task("sample world", total=6)
        # Two seconds of computing, which are nobody's while the stack already serves.
        world = await asyncio.to_thread(_imagine, time.time_ns() // 1_000_000)
        progress.advance(task)
        async with bulk.connect(settings) as connection, connection.transaction():
            await bulk.lock_accounts_table(connection)
            if not await bulk.is_empty(connection):
                return
            await _write(connection, world, settings, lambda: progress.advance(task))
        await _forget_cached(settings)
        async with bulk.connect(settings) as connection:
            await bulk.analyze(connection)
        progress.update(task, completed=6)


def _imagine(now_ms: int) -> _World:
    random = Random(SEED)  # noqa: S311 -- made up, and the same each time
    people = sample_graph.people(random, PEOPLE)
    pairs = sample_graph.follows(random, PEOPLE, FOLLOWS)
    said = sample_tweets.tweets(
        random,
        [person.username for person in people],
        count=TWEETS,
        span_s=(SPAN_MS - NEWEST_AGE_MS) / 1000,
    )
    # One worker's ids, in the order of time: no two are the same.
    ids = SnowflakeGenerator(0)
    joined = [ids.mint(at) for at in _times(now_ms - JOINED_FROM_MS, now_ms - JOINED_TO_MS, PEOPLE)]
    followed = _times(now_ms - FOLLOWED_FROM_MS, now_ms - FOLLOWED_TO_MS, FOLLOWS)
    # The most followed did not all come first.
    random.shuffle(joined)
    return _World(
        accounts=[_account(*both) for both in zip(joined, people, strict=True)],
        follows=[
            FollowRow(joined[one], joined[other], ids.mint(at))
            for (one, other), at in zip(pairs, followed, strict=True)
        ],
        said=said,
        tweet_ids=[ids.mint(now_ms - NEWEST_AGE_MS - round(one.age_s * 1000)) for one in said],
    )


async def _write(
    connection: Connection, world: _World, settings: Settings, step: Callable[[], None]
) -> None:
    thresholds = Thresholds(
        settings.influencer_followers, settings.celebrity_followers, settings.tier_hysteresis
    )
    await bulk.insert_accounts(connection, world.accounts)
    step()
    await bulk.insert_follows(connection, world.follows)
    await bulk.update_tiers(connection, thresholds)
    step()
    tiers = await bulk.fetch_tiers(connection)
    tweets = list(_tweets(world, tiers))
    await bulk.insert_tweets(connection, tweets)
    step()
    await sample_notifications.write(connection, world.follows, tweets)
    step()


def _tweets(world: _World, tiers: dict[int, Tier]) -> Iterator[TweetRow]:
    by_name = {account.username: account.id for account in world.accounts}
    conversations: list[int] = []
    for tweet_id, said in zip(world.tweet_ids, world.said, strict=True):
        author = world.accounts[said.author]
        draft = tweet.draft(
            content=said.content,
            media_urls=(),
            location=author.location,
            reply_to=0,
            quote_of=0,
            request_id="",
        )
        parent = said.reply_to
        conversations.append(tweet_id if parent is None else conversations[parent])
        yield TweetRow(
            id=tweet_id,
            author_id=author.id,
            content=draft.content,
            hashtags=draft.hashtags,
            mentions=[by_name[name] for name in draft.mentioned_names],
            reply_to=None if parent is None else world.tweet_ids[parent],
            replied_author_id=(
                None if parent is None else world.accounts[world.said[parent].author].id
            ),
            conversation_id=conversations[-1],
            location=draft.location,
            delivery=int(fanout.plan(tiers[author.id])),
            created_at=_at(tweet_id),
        )


async def _forget_cached(settings: Settings) -> None:
    async with valkey.connect(settings.valkey_url, settings) as cache:
        # A cache that served another database may know who is pulled there.
        store = TimelineStore(cache, settings)
        await valkey.best_effort("forgetting who is pulled", store.drop_pulled_token())
        # These tweets have no events: the trend worker is to count them from PostgreSQL.
        await valkey.best_effort("forgetting trends", TrendStore(cache).drop())


def _account(account: int, person: Person) -> AccountRow:
    return AccountRow(
        account, person.username, person.display_name, person.bio, person.location, _at(account)
    )


def _at(snowflake: int) -> datetime:
    return datetime.fromtimestamp(minted_at_ms(snowflake) / 1000, UTC)


def _times(start_ms: int, end_ms: int, count: int) -> list[int]:
    return [start_ms + (end_ms - start_ms) * place // count for place in range(count)]

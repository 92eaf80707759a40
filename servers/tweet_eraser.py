"""Takes away the tweets, retweets and likes of accounts that were deleted, in steps.

 1. A step holds one erasure, which no other replica takes meanwhile, the account's row, and the
    tweets that it concerns, in the order of ids as every change of tweets does.
 2. It takes back up to STEP_MAX likes, or deletes as many tweets. Counts, versions, purges and
    events are those of an unlike or a deletion: whoever follows the events sees no difference. What
    a deletion leaves in the row, this does not: no word stays, nor of what was deleted before.
 3. When a step finds nothing, the erasure's tweets are gone.

Each step is one transaction: after a crash the next one goes on with what is there.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence

from chirp.v1 import events_pb2

from domain.ids import UserId
from eventlog.outages import is_outage
from mesh import errors
from mesh.tasks import raise_if_cancelled
from servers import tweet_writer
from storage import erased_tweets, erasures, outbox, purges, tweet_cache
from storage.database import Connection, Pool
from storage.tweets import CountChange, TweetRow
from storage.valkey import Valkey, best_effort

STEP_MAX = 200  # tweets or likes in one transaction, which holds up to twice as many rows
REST_S = 0.5  # between two looks for something to do

log = logging.getLogger(__name__)


class TweetEraser:
    """Takes steps. Any number of replicas may run one."""

    def __init__(self, pool: Pool, cache: Valkey) -> None:
        self._pool = pool
        self._cache = cache

    async def run(self) -> None:
        """Takes steps until cancelled."""
        while True:
            try:
                while await self.step():
                    raise_if_cancelled()
            except Exception as error:  # noqa: BLE001 - whatever it is, it is tried again
                said = str(error) if is_outage(error) else errors.describe(error)
                log.warning("deleted accounts keep their tweets for now: %s", said)
            raise_if_cancelled()
            await asyncio.sleep(REST_S)

    async def step(self) -> bool:
        """Takes one step; returns whether there was anything to do. Raises what PostgreSQL raises;
        then nothing was done."""
        versions: Mapping[int, int] = {}
        async with self._pool.connection() as connection, connection.transaction():
            erased = await erasures.take_tweets(connection)
            if erased is None:
                return False
            await erased_tweets.lock_account(connection, erased)
            liked = await erased_tweets.fetch_liked(connection, erased, count=STEP_MAX)
            if liked:
                versions = await _unlike(connection, erased, liked)
            else:
                rows = await erased_tweets.fetch_living(connection, erased, count=STEP_MAX)
                if rows:
                    versions = await _delete(connection, erased, rows)
                elif not await erased_tweets.empty_deleted(connection, erased, count=STEP_MAX):
                    await _end(connection, erased)
        if versions:
            stale = {tweet: tweet_cache.stale(version) for tweet, version in versions.items()}
            await best_effort("caching a deletion", tweet_cache.put(self._cache, stale))
        return True


async def _unlike(
    connection: Connection, erased: UserId, liked: Sequence[tuple[int, int]]
) -> Mapping[int, int]:
    ids = [tweet for tweet, _ in liked]
    await erased_tweets.lock(connection, ids)
    await erased_tweets.delete_likes(connection, erased, ids)
    versions = await erased_tweets.change_counts(
        connection, {tweet: CountChange(likes=-1) for tweet in ids}
    )
    events: list[events_pb2.Event] = []
    for tweet, author in liked:
        event = tweet_writer.new_event()
        unliked = event.tweet_unliked
        unliked.user_id, unliked.tweet_id, unliked.author_id = erased, tweet, author
        unliked.changed.add(tweet_id=tweet, version=versions[tweet])
        events.append(event)
    await _tell(connection, erased, events, versions)
    return versions


async def _delete(
    connection: Connection, erased: UserId, rows: Sequence[TweetRow]
) -> Mapping[int, int]:
    changes: dict[int, CountChange] = {}
    for row in rows:
        for tweet, change in tweet_writer.count_changes(row, -1).items():
            changes[tweet] = changes.get(tweet, CountChange()).plus(change)
    ids = [row.id for row in rows]
    await erased_tweets.lock(connection, [*ids, *changes])
    versions = await erased_tweets.change_counts(connection, changes) if changes else {}
    versions |= await erased_tweets.delete(connection, erased, ids)
    events = [_deleted(row, versions) for row in rows]
    await _tell(connection, erased, events, versions)
    return versions


def _deleted(row: TweetRow, versions: Mapping[int, int]) -> events_pb2.Event:
    event = tweet_writer.new_event()
    deleted = event.tweet_deleted
    deleted.entry.CopyFrom(tweet_writer.entry_message(row))
    deleted.delivery = events_pb2.Delivery.ValueType(row.delivery)
    for tweet in (row.id, *tweet_writer.count_changes(row, -1)):
        if tweet in versions:
            deleted.changed.add(tweet_id=tweet, version=versions[tweet])
    return event


async def _end(connection: Connection, erased: UserId) -> None:
    await erasures.end_tweets(connection, erased)
    await purges.insert(connection, purges.Kind.ERASED, erased, 1)
    event = tweet_writer.new_event()
    event.user_erased.user_id = erased
    await _tell(connection, erased, [event], {})


async def _tell(
    connection: Connection,
    erased: UserId,
    events: Sequence[events_pb2.Event],
    versions: Mapping[int, int],
) -> None:
    # They concern different tweets: in which order they come plays no part.
    await outbox.insert_all(connection, [(erased, event.SerializeToString()) for event in events])
    for tweet, version in versions.items():
        await purges.insert(connection, purges.Kind.TWEET, tweet, version)

"""notification_worker: consumer group `notifications`. Owns notifications in PostgreSQL.

It takes a batch of events, says of each whom it concerns (domain/notification.py), and writes all
of it in one transaction (storage/notification_changes.py), together with an event for each account
that has something new: streams wake up by it. Handling a batch twice changes nothing, and neither
does replaying everything: state follows from the newest event of each thing, not from arrival.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import psycopg
import psycopg_pool
from chirp.v1 import events_pb2

from domain import notification
from domain.notification import Changes, Deed, Relation, RelationKind, State
from eventlog import runner
from eventlog.contract import Record
from mesh import server
from mesh.metrics import Sample
from mesh.server import Process
from mesh.settings import Settings
from mesh.tasks import raise_if_cancelled
from storage import database, notification_changes, notification_pruning, outbox
from storage.database import Pool

GROUP = "notifications"
PRUNE_EVERY_S = 60.0
PRUNE_EACH = 1_000
EMPTY_EVERY_S = 1.0

log = logging.getLogger(__name__)


class NotificationWorker:
    """Handles batches of events, and prunes what is old."""

    def __init__(
        self, pool: Pool, settings: Settings, clock: Callable[[], float] = time.time
    ) -> None:
        self._pool = pool
        self._keep = timedelta(days=settings.notification_keep_days)
        self._clock = clock

    async def handle(self, records: Sequence[Record]) -> None:
        """Writes what events say. Raises what PostgreSQL raises; then nothing is written."""
        changes = Changes()
        # What would be pruned at once must not come back by a replay.
        oldest = self._oldest()
        for record in records:
            event = events_pb2.Event.FromString(record.payload)
            at = datetime.fromtimestamp(event.occurred_at.ToMilliseconds() / 1000, UTC)
            if at >= oldest:
                _note(changes, event, at)
        if changes.empty:
            return
        async with self._pool.connection() as connection, connection.transaction():
            newest = await notification_changes.apply(connection, changes)
            for user, newest_id in newest.items():
                event = events_pb2.Event()
                event.occurred_at.FromMilliseconds(int(self._clock() * 1000))
                event.notifications_changed.user_id = user
                event.notifications_changed.newest_id = newest_id
                await outbox.insert(
                    connection, partition_key=user, payload=event.SerializeToString()
                )

    async def collect(self) -> list[Sample]:
        """Returns what its pool says."""
        return await database.collect(self._pool)

    async def prune(self) -> int:
        """Deletes notifications that are old, up to a bound; returns how many."""
        oldest = self._oldest()
        old = await notification_pruning.fetch_old(self._pool, before=oldest, count=PRUNE_EACH)
        for group in old:
            while not await notification_pruning.prune(self._pool, group, before=oldest):
                raise_if_cancelled()
        return len(old)

    async def keep_pruning(self) -> None:
        """Prunes now and then, until cancelled."""
        while True:
            try:
                while await self.prune() == PRUNE_EACH:
                    raise_if_cancelled()
            except (psycopg.Error, psycopg_pool.PoolTimeout) as error:
                log.warning("old notifications stay for now: %s", error)
            raise_if_cancelled()
            await asyncio.sleep(PRUNE_EVERY_S)

    async def keep_emptying(self) -> None:
        """Empties the boxes of accounts that were deleted, until cancelled."""
        while True:
            try:
                while await notification_pruning.empty_erased(self._pool):
                    raise_if_cancelled()
            except (psycopg.Error, psycopg_pool.PoolTimeout) as error:
                log.warning("notifications of deleted accounts stay for now: %s", error)
            raise_if_cancelled()
            await asyncio.sleep(EMPTY_EVERY_S)

    def _oldest(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC) - self._keep


def _note(changes: Changes, event: events_pb2.Event, at: datetime) -> None:
    """Takes down what an event says."""
    stands, gone = (State(standing, event.sequence, at) for standing in (True, False))
    match event.WhichOneof("kind"):
        case "tweet_created":
            changes.note_deeds(_of_tweet(event.tweet_created), stands)
        case "tweet_deleted":
            entry = event.tweet_deleted.entry
            if entry.original_id:
                changes.note_deeds(_of_retweet(entry), gone)
            else:
                changes.deleted[entry.tweet_id] = entry.author_id, at
        case "tweet_liked":
            changes.note_deeds(_of_like(event.tweet_liked), stands)
        case "tweet_unliked":
            changes.note_deeds(_of_like(event.tweet_unliked), gone)
        case "user_followed":
            changes.note_deeds(_of_follow(event.user_followed), stands)
        case "user_unfollowed":
            changes.note_deeds(_of_follow(event.user_unfollowed), gone)
        case "user_blocked":
            changes.note_relation(_relation(event.user_blocked, RelationKind.BLOCK), stands)
        case "user_unblocked":
            changes.note_relation(_relation(event.user_unblocked, RelationKind.BLOCK), gone)
        case "user_muted":
            changes.note_relation(_relation(event.user_muted, RelationKind.MUTE), stands)
        case "user_unmuted":
            changes.note_relation(_relation(event.user_unmuted, RelationKind.MUTE), gone)
        case "user_erased":
            changes.erased.add(event.user_erased.user_id)
        case _:
            pass


def _of_tweet(created: events_pb2.TweetCreated) -> list[Deed]:
    entry = created.entry
    if entry.original_id:
        return _of_retweet(entry)
    return notification.of_tweet(
        tweet=entry.tweet_id,
        author=entry.author_id,
        replied_author=entry.replied_author_id,
        quoted_author=created.quoted_author_id,
        mentions=created.mentions,
        refused_mentions=created.refused_mentions,
    )


def _of_retweet(entry: events_pb2.TimelineEntry) -> list[Deed]:
    return notification.of_retweet(
        original=entry.original_id, original_author=entry.original_author_id, actor=entry.author_id
    )


def _of_like(like: events_pb2.TweetLiked | events_pb2.TweetUnliked) -> list[Deed]:
    return notification.of_like(tweet=like.tweet_id, author=like.author_id, actor=like.user_id)


def _of_follow(follow: events_pb2.UserFollowed | events_pb2.UserUnfollowed) -> list[Deed]:
    return notification.of_follow(follower=follow.follower_id, followee=follow.followee_id)


def _relation(
    event: events_pb2.UserBlocked
    | events_pb2.UserUnblocked
    | events_pb2.UserMuted
    | events_pb2.UserUnmuted,
    kind: RelationKind,
) -> Relation:
    return Relation(event.user_id, event.other_id, kind)


@asynccontextmanager
async def open_worker(settings: Settings) -> AsyncGenerator[NotificationWorker]:
    """Opens the handler of the group."""
    async with database.open_pool(settings, size_max=2) as pool:
        yield NotificationWorker(pool, settings)


@asynccontextmanager
async def open_process(settings: Settings) -> AsyncGenerator[Process]:
    """Opens the worker's process."""
    async with (
        open_worker(settings) as worker,
        runner.open_runner(settings, GROUP, worker) as group,
    ):
        yield Process(
            loops=[group.run, worker.keep_pruning, worker.keep_emptying],
            collectors=[*group.collectors, worker.collect],
        )


if __name__ == "__main__":
    server.main("notification_worker", open_process)

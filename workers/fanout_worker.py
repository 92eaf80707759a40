"""fanout_worker: consumer group `fanout`. Owns the timelines in Valkey.

It takes a batch of events, turns each into changes for the shards it concerns, and applies every
shard's changes at the same time. It decides nothing: the way was stamped on the tweet when it
committed. Applying a batch twice changes nothing; lists hold candidates, readers apply the rules.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import numpy as np
from chirp.v1 import events_pb2, graph_pb2, graph_pb2_grpc

from domain.fanout import shard_of
from domain.ids import TweetId, UserId
from domain.timeline import Entry
from eventlog import runner
from eventlog.contract import Record
from mesh import catalogue, clients, server
from mesh.metrics import Sample
from mesh.server import Process
from mesh.settings import Settings
from mesh.tokens import ServiceIdentity
from storage import caches, timelines, tweet_cache, valkey, valkey_cluster
from storage.follower_lists import by_shard
from storage.followers import Change, FollowerStore
from storage.gathering import Ids
from storage.timelines import TimelineStore
from storage.valkey import Valkey
from storage.windows import encode
from workers.fanout_batch import Aside, Batch, Freshness, OnceEach

NAME = "fanout_worker"
GROUP = "fanout"


class FanoutWorker:
    """Handles batches of events. `deliveries` counts the entries inserted since the start."""

    def __init__(
        self,
        *,
        cache: Valkey,
        followers: FollowerStore,
        timelines: TimelineStore,
        directory: "graph_pb2_grpc.FollowerDirectoryServiceAsyncStub",
        settings: Settings,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._cache = cache
        self._followers = followers
        self._timelines = timelines
        self._directory = directory
        self._settings = settings
        self._shards = settings.timeline_shards
        self._clock = clock
        self._freshness = Freshness()
        self.deliveries = 0

    async def handle(self, records: Sequence[Record]) -> None:
        """Applies events. Raises FencedOut where a newer owner of a partition was here, and what
        Valkey and graph_server raise when they are away."""
        batch = Batch(self._shards)
        aside = Aside()
        for record in records:
            event = events_pb2.Event.FromString(record.payload)
            kind = event.WhichOneof("kind")
            self._add(batch, record, event, kind)
            aside.note(event, kind)
        await self._set_aside(aside)
        load = OnceEach(self._load)
        # All are awaited, also when one fails: nothing of this batch may run beside its repetition.
        applied = await asyncio.gather(
            *(
                self._followers.apply(
                    shard=shard,
                    fences=batch.fences,
                    changes=changes,
                    load=lambda author, shard=shard: load(author, shard),
                )
                for shard, changes in enumerate(batch.shards)
                if changes
            ),
            return_exceptions=True,
        )
        for outcome in applied:
            if isinstance(outcome, BaseException):
                raise outcome
            self.deliveries += outcome
        self._freshness.observe(aside.posted, self._clock())
        if aside.erased:
            # Behind the changes, which may ask for the account's followers once more.
            await caches.drop_erased(self._cache, self._settings, sorted(aside.erased))

    async def collect(self) -> list[Sample]:
        """Returns what was delivered, and how fresh it was."""
        put_in = self._followers.put_in
        return [
            Sample(catalogue.DELIVERIES, put_in["push"], ("normal", "pushed")),
            Sample(catalogue.DELIVERIES, put_in["push_active"], ("influencer", "pushed")),
            Sample(catalogue.DELIVERIES, put_in["recent"], ("celebrity", "pulled")),
            *await self._freshness.collect(),
        ]

    async def _set_aside(self, aside: Aside) -> None:
        """Does what needs no order: tells caches what is stale."""
        if aside.stale:
            await tweet_cache.put(self._cache, aside.stale)
        if aside.first_pulled:
            await self._timelines.drop_pulled_token()
        for viewer in aside.dropped:
            await self._timelines.drop(viewer)
        for viewer in aside.marked:
            await self._timelines.drop_marks(viewer)

    def _add(self, batch: Batch, record: Record, event: events_pb2.Event, kind: str | None) -> None:
        match kind:
            case "tweet_created":
                created = event.tweet_created
                self._add_entry(batch, record, created.entry, created.delivery, added=True)
            case "tweet_deleted":
                deleted = event.tweet_deleted
                self._add_entry(batch, record, deleted.entry, deleted.delivery, added=False)
            case "user_followed":
                followed = event.user_followed
                self._add_follow(
                    batch, record, "follow", followed.follower_id, followed.followee_id
                )
            case "user_unfollowed":
                gone = event.user_unfollowed
                self._add_follow(batch, record, "unfollow", gone.follower_id, gone.followee_id)
            case _:
                pass

    def _add_entry(
        self,
        batch: Batch,
        record: Record,
        entry: events_pb2.TimelineEntry,
        delivery: int,
        *,
        added: bool,
    ) -> None:
        author, argument = UserId(entry.author_id), encode(_entry(entry))
        home = batch.of_shard(record, shard_of(author, self._shards))
        home.append(Change("timeline" if added else "untimeline", author, argument))
        if delivery == events_pb2.DELIVERY_PULL:
            home.append(Change("recent" if added else "unrecent", author, argument))
            return
        active = delivery == events_pb2.DELIVERY_PUSH_ACTIVE
        op = ("push_active" if active else "push") if added else "remove"
        change = Change(op, author, argument)
        for changes in batch.shards:
            changes.append(change)

    def _add_follow(
        self, batch: Batch, record: Record, op: str, follower: int, followee: int
    ) -> None:
        shard = shard_of(UserId(follower), self._shards)
        change = Change(op, UserId(followee), str(follower).encode())
        batch.of_shard(record, shard).append(change)

    async def _load(self, author: UserId) -> list[Ids]:
        """Asks graph_server for all followers; returns them by shard. What it answers may be ahead
        of the events in hand, which then change nothing when they come."""
        pages: list[Ids] = []
        after = 0
        while True:
            answer = await self._directory.ListFollowerIds(
                graph_pb2.ListFollowerIdsRequest(user_id=author, after_id=after),
            )
            pages.append(np.fromiter(answer.ids, np.int64, len(answer.ids)))
            if not answer.has_more:
                return by_shard(np.concatenate(pages), self._shards)
            after = answer.ids[-1]


def _entry(message: events_pb2.TimelineEntry) -> Entry:
    other = message.original_author_id or message.replied_author_id
    return (
        TweetId(message.tweet_id),
        UserId(message.author_id),
        TweetId(message.original_id),
        UserId(other),
    )


@asynccontextmanager
async def open_worker(settings: Settings) -> AsyncGenerator[FanoutWorker]:
    """Opens the handler of the group."""
    async with AsyncExitStack() as stack:
        cache = await stack.enter_async_context(valkey.connect(settings.valkey_url, settings))
        hot = await stack.enter_async_context(
            valkey_cluster.open_hot(settings.valkey_url, settings.valkey_timeout_s)
        )
        # A worker of a new release brings its functions along; where Valkey is away, the first call
        # that misses them loads them.
        await valkey.best_effort("loading functions", timelines.load_functions(cache))
        await valkey.best_effort("loading functions", tweet_cache.load_functions(cache))
        identity = ServiceIdentity(settings, NAME)
        channel = await stack.enter_async_context(
            clients.channel(
                settings,
                settings.graph_target,
                "chirp.v1.FollowerDirectoryService",
                identity=identity,
            )
        )
        yield FanoutWorker(
            cache=cache,
            followers=FollowerStore(hot, cache, settings),
            timelines=TimelineStore(cache, settings),
            directory=graph_pb2_grpc.FollowerDirectoryServiceStub(channel),
            settings=settings,
        )


@asynccontextmanager
async def open_process(settings: Settings) -> AsyncGenerator[Process]:
    """Opens the worker's process."""
    async with (
        open_worker(settings) as worker,
        runner.open_runner(settings, GROUP, worker, batch=settings.fanout_batch) as group,
    ):
        yield Process(loops=[group.run], collectors=[*group.collectors, worker.collect])


if __name__ == "__main__":
    server.main(NAME, open_process)

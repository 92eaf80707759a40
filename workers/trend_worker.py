"""trend_worker: consumer group `trends`. Counts the uses of hashtags, ranks them, and publishes the
lists in the cache; answers TrendCountService.

The counts of two hours are in this process's memory, exact and compact (domain/trend_window.py).
They are a set of uses and a set of removals, so that an event may come late, twice or in any order;
and all of it can be made again from PostgreSQL, where a tweet and its event committed together:

 1. One worker counts, the others stand by: it holds a lock in PostgreSQL, and joins the group.
 2. When it owns all partitions, it notes their fences and begins with an empty window. From then on
    every event goes into the window.
 3. It reads the tweets of the last two hours into the same window. What was handled before is
    committed, so it is read; what was not comes with the log. Either way nothing is lost, and what
    comes both ways counts once.
 4. Every second it ranks, and publishes what changed under its fence.
 5. Where a fence changed, another may have handled events that we never saw; where the published
    version is gone, the cache was lost, or somebody wrote tweets without events: 2 again.

A crash anywhere leads to 2. So the position in the log needs no store of its own: what a position
stands for is in PostgreSQL before the log has it (docs/decisions/0010).
"""

import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

from chirp.v1 import events_pb2, trend_pb2

from domain import trend_pressure, tweet
from domain.errors import Unavailable
from domain.ids import MAX_ID, first_id_at
from domain.trend import WORLD, Order
from domain.trend_rank import Lists, TrendRanker
from domain.trend_window import MINUTE_MS, MINUTES, TrendWindow
from eventlog import deadletters, runner
from eventlog.contract import Record
from eventlog.group_metrics import GroupMetrics
from eventlog.valkey_streams import open_log
from mesh import catalogue, rpc, server
from mesh.metrics import Sample
from mesh.rpc import Call
from mesh.server import Process
from mesh.settings import Settings
from mesh.tokens import TokenVerifier
from storage import database, tag_uses, trends, valkey
from storage.database import Pool
from storage.tag_uses import TaggedTweet
from storage.trends import NO_VERSION, FencedOut, Lost, Moved, TrendStore
from workers import trend_lead

GROUP = "trends"

log = logging.getLogger(__name__)


class TrendWorker:
    """Handles events, ranks and publishes. `handle` and `refresh` are for one task each."""

    def __init__(
        self,
        pool: Pool,
        store: TrendStore,
        settings: Settings,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.pool = pool
        self._store = store
        self._settings = settings
        self._clock = clock
        self._fences: Mapping[int, int] = {}
        self._window: TrendWindow | None = None
        self._counted = False
        self._version = NO_VERSION
        self._published: dict[str, Lists] = {}
        self._set_window(None)
        self.dropped_uses = 0
        """Uses that were dropped under pressure since the start."""

    @property
    def counting(self) -> bool:
        """Whether the window is whole."""
        return self._counted

    async def handle(self, records: Sequence[Record]) -> None:
        """Takes events into the window. Before there is one they are let go: they are in
        PostgreSQL, which is read when there is."""
        if self._window is None:
            return
        tagged: list[int] = []
        for record in records:
            tagged += take(self._window, record.payload)
        if not tagged:
            return
        # Events bear no words. What is not found was deleted since, and its removal is on its way.
        rows = await tag_uses.fetch_by_ids(self.pool, tagged)
        # Into the window that there is now: one that began meanwhile reads the same tweets.
        self._add(rows)

    async def refresh(self, owned: Mapping[int, int]) -> None:
        """Ranks and publishes; counts anew first where that is needed. `owned` are the partitions
        that this worker owns, with their fences. Raises outages."""
        if len(owned) < self._settings.eventlog_partitions:
            self._set_window(None)
            return
        if not self._counted or owned != self._fences:
            await self._count_again(owned)
        try:
            await self._publish(self._rank())
        except Lost as error:
            log.warning("counting again: %s", error)
            await self._count_again(owned)
            await self._publish(self._rank())
        except FencedOut as error:
            log.warning("stops counting: %s", error)
            self.stop()

    async def collect(self) -> list[Sample]:
        """Returns what was dropped."""
        return [Sample(catalogue.TREND_USES_DROPPED, self.dropped_uses)]

    def stop(self) -> None:
        """Forgets everything: somebody else counts from here on."""
        self._set_window(None)

    async def GetTrendCounts(
        self, request: trend_pb2.GetTrendCountsRequest, call: Call
    ) -> trend_pb2.GetTrendCountsResponse:
        """Answers the counts of one tag at one place."""
        if self._window is None or not self._counted:
            raise Unavailable("trends are being counted; try again")
        now_ms = self._now_ms()
        self._window.fold(now_ms // MINUTE_MS)
        buckets, authors = self._ranker.explain(request.location, request.name)
        tag = self._window.spellings.tag(request.name)
        answer = trend_pb2.GetTrendCountsResponse(
            buckets=buckets,
            authors=authors,
            tag=request.name if tag is None else self._window.spellings.most_used(tag),
        )
        answer.as_of.FromMilliseconds(now_ms)
        return answer

    def _add(self, rows: Sequence[TaggedTweet]) -> None:
        if self._window is not None:
            for row in rows:
                spelled = tweet.spellings(row.content, row.hashtags)
                tags = zip(row.hashtags, spelled, strict=True)
                self._window.add(row.id, row.author_id, row.location, tags)

    def _set_window(self, window: TrendWindow | None) -> None:
        self._window = window
        self._counted = False
        self._ranker = TrendRanker(window or TrendWindow(places_max=1), self._settings.trend_rules)

    async def _count_again(self, owned: Mapping[int, int]) -> None:
        window = TrendWindow(places_max=self._settings.trend_places_max)
        self._set_window(window)
        self._fences = dict(owned)
        self._version, self._published = NO_VERSION, {}
        started = time.monotonic()
        now_ms = self._now_ms()
        window.fold(now_ms // MINUTE_MS)
        since_id = first_id_at((now_ms // MINUTE_MS - MINUTES + 1) * MINUTE_MS)
        below, rows = MAX_ID, 0
        while page := await tag_uses.fetch_page(self.pool, since_id=since_id, below=below):
            self._add(page)
            self._fold(now_ms // MINUTE_MS)
            below, rows = page[-1].id, rows + len(page)
        self._counted = True
        log.info("counted %d tweets again in %.1f s", rows, time.monotonic() - started)

    def _rank(self) -> dict[str, Lists]:
        self._fold(self._now_ms() // MINUTE_MS)
        return self._ranker.rank()

    def _fold(self, minute: int) -> None:
        assert self._window is not None, "only what there is is folded"
        self._window.fold(minute)
        if self._window.size > self._settings.trend_uses_max:
            dropped = trend_pressure.relieve(
                self._window, self._ranker.rank(), self._settings.trend_uses_max
            )
            self.dropped_uses += dropped.uses
            log.warning(
                "more than CHIRP_TREND_USES_MAX: dropped %d tags and %d minutes with %d uses",
                dropped.tags, dropped.minutes, dropped.uses,
            )  # fmt: skip

    async def _publish(self, ranked: dict[str, Lists]) -> None:
        try:
            await self._publish_changes(ranked)
        except Moved:
            self._version, self._published = NO_VERSION, {}
            await self._publish_changes(ranked)

    async def _publish_changes(self, ranked: dict[str, Lists]) -> None:
        changed = {
            place: _serialise(lists)
            for place, lists in ranked.items()
            if self._published.get(place) != lists
        }
        changed.update({place: b"" for place in self._published if place not in ranked})
        # The world first: it answers for all that is not there yet.
        ordered = dict(sorted(changed.items(), key=lambda item: item[0] != WORLD))
        self._version = await self._store.publish(
            ordered, after=self._version, fence=self._fences[0], as_of_ms=self._now_ms()
        )
        self._published = ranked

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)


def take(window: TrendWindow, payload: bytes) -> list[int]:
    """Takes one event (a serialised chirp.v1.Event) into a window; returns the tweet whose hashtags
    are to be looked up, if it is about one."""
    event = events_pb2.Event.FromString(payload)
    match event.WhichOneof("kind"):
        case "tweet_created":
            created = event.tweet_created
            names = created.hashtags  # in events of earlier releases
            if created.tagged:
                return [created.entry.tweet_id]
            if names:
                spelled = created.hashtag_spellings or names
                window.add(
                    created.entry.tweet_id,
                    created.entry.author_id,
                    created.location,
                    zip(names, spelled, strict=True),
                )
        case "tweet_deleted":
            window.remove(event.tweet_deleted.entry.tweet_id)
        case _:
            pass
    return []


def _serialise(lists: Lists) -> bytes:
    return trend_pb2.TrendLists(
        score=_messages(lists, Order.SCORE), rising=_messages(lists, Order.RISING)
    ).SerializeToString()


def _messages(lists: Lists, order: Order) -> list[trend_pb2.Trend]:
    return [
        trend_pb2.Trend(
            rank=rank,
            tag=listed.tag,
            name=listed.name,
            score=listed.score,
            count=listed.count,
            velocity=listed.velocity,
            authors=listed.authors,
            surprise=listed.surprise,
        )
        for rank, listed in enumerate(lists[order], start=1)
    ]


@asynccontextmanager
async def open_worker(settings: Settings) -> AsyncGenerator[TrendWorker]:
    """Opens the handler of the group."""
    async with (
        database.open_pool(settings, size_max=3) as pool,
        valkey.connect(settings.valkey_url, settings) as cache,
    ):
        # A worker of a new release brings its functions along.
        await valkey.best_effort("loading functions", trends.load_functions(cache))
        yield TrendWorker(pool, TrendStore(cache), settings)


@asynccontextmanager
async def serving(settings: Settings, worker: TrendWorker) -> AsyncGenerator[Process]:
    """Opens the process of a worker."""
    async with (
        database.open_pool(settings, size_max=1) as pool,
        open_log(settings) as event_log,
        deadletters.open_letters(settings, GROUP) as letters,
    ):
        # Not the member's own: also while none leads, all tell how far the group is.
        metrics = GroupMetrics(GROUP, event_log, letters)
        descriptor = trend_pb2.DESCRIPTOR.services_by_name["TrendCountService"]
        lead = trend_lead.TrendLead(
            pool,
            lambda: runner.open_runner(settings, GROUP, worker, metrics=metrics),
            worker,
            settings,
        )
        yield Process(
            services=[
                rpc.bind(
                    descriptor,
                    worker,
                    TokenVerifier(settings),
                    is_ready=lambda: worker.counting,
                )
            ],
            loops=[lead.run],
            collectors=[
                metrics.collect,
                metrics.collect_standing,
                worker.collect,
                lambda: database.collect(pool, worker.pool),
            ],
        )


@asynccontextmanager
async def open_process(settings: Settings) -> AsyncGenerator[Process]:
    """Opens the worker's process."""
    async with open_worker(settings) as worker, serving(settings, worker) as process:
        yield process


if __name__ == "__main__":
    server.main("trend_worker", open_process)

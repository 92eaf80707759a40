"""timeline_server: TimelineService and TimelineUpkeepService. Owns nothing; reads timelines and
rebuilds lost ones."""

import logging
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

from chirp.v1 import timeline_pb2, tweet_pb2_grpc, user_pb2_grpc

from eventlog.valkey_streams import open_log
from mesh import clients, rpc, server
from mesh.server import Process
from mesh.settings import Settings
from mesh.streams import Streams
from mesh.tokens import ServiceIdentity
from servers.explain_service import ExplainService
from servers.home_skeleton import HomeSkeleton
from servers.home_source import Source
from servers.home_streams import HomeStreams
from servers.home_watches import Watches
from servers.log_tail import LogTail
from servers.purge_feed import PurgeFeed
from servers.quick_pages import QuickPages
from servers.rate_limits import RateLimits
from servers.session_verifier import SessionVerifier
from servers.short_form import ShortTimelines
from servers.stream_marks import StreamMarks
from servers.timeline_service import TimelineService
from servers.tweet_hydrator import TweetHydrator
from servers.tweet_presenter import TweetPresenter
from servers.upkeep_service import UpkeepService
from servers.user_names import UserNames
from servers.viewer_marks import ViewerMarks
from servers.viewers import Viewers
from storage import database, valkey, valkey_cluster
from storage import upkeep as upkeep_rows
from storage.rates import RateStore
from storage.timelines import TimelineStore
from storage.valkey_connection import READS_GATHER_TURNS

NAME = "timeline_server"
BEGIN_S = 2.0  # a stream waits so long for a server that has just started

log = logging.getLogger(__name__)


@asynccontextmanager
async def open_process(settings: Settings) -> AsyncGenerator[Process]:
    """Opens what the server needs, and binds its service."""
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(database.open_pool(settings))
        await database.require_fact(pool, "timeline_shards", str(settings.timeline_shards))
        cache = await stack.enter_async_context(valkey.connect(settings.valkey_url, settings))
        hot = await stack.enter_async_context(
            valkey_cluster.open_hot(
                settings.valkey_url, settings.valkey_timeout_s, gather_turns=READS_GATHER_TURNS
            )
        )
        identity = ServiceIdentity(settings, NAME)
        to_graph = await stack.enter_async_context(
            clients.channel(
                settings, settings.graph_target, "chirp.v1.UserDirectoryService", identity=identity
            )
        )
        to_tweets = await stack.enter_async_context(
            clients.channel(
                settings, settings.tweet_target, "chirp.v1.TweetRecordService", identity=identity
            )
        )
        feed = PurgeFeed(pool, settings)
        names = UserNames(user_pb2_grpc.UserDirectoryServiceStub(to_graph), settings)
        to_records = tweet_pb2_grpc.TweetRecordServiceStub(to_tweets)
        hydrator = TweetHydrator(hot, to_records, settings, feed.erased)
        timelines = TimelineStore(cache, settings)
        viewers = Viewers(pool, timelines, feed, settings)
        for cached in (names, hydrator, viewers):
            feed.listen(cached.on_purge, cached.forget_all)
        skeleton = HomeSkeleton(
            pool=pool, hot=hot, timelines=timelines, viewers=viewers, settings=settings
        )
        explaining = ExplainService(
            pool=pool, skeleton=skeleton, timelines=timelines, viewers=viewers, settings=settings
        )
        presenter = TweetPresenter(names, feed)
        marks = ViewerMarks(to_records, timelines, settings)
        service = TimelineService(
            pool=pool,
            skeleton=skeleton,
            hydrator=hydrator,
            presenter=presenter,
            marks=marks,
            feed=feed,
            quick=QuickPages(
                skeleton=skeleton,
                hydrator=hydrator,
                names=names,
                marks=marks,
                feed=feed,
                settings=settings,
            ),
        )
        event_log = await stack.enter_async_context(open_log(settings))
        tail = LogTail(event_log.reader(), event_log.partitions, keep=settings.stream_memory)
        watches = Watches(viewers.load_without_cache)
        feed.listen(watches.on_purge, watches.spoil_all)
        streaming = HomeStreams(
            source=Source(
                tail,
                event_log.reader(),
                queue_max=settings.stream_buffer_max,
                resume_s=settings.stream_resume_hours * 3_600,
            ),
            watches=watches,
            hydrator=hydrator,
            presenter=presenter,
            names=names,
            marks=StreamMarks(to_records),
            feed=feed,
            partitions=event_log.partitions,
            begin_s=BEGIN_S * settings.deadline_factor,
        )
        tail.prepare(streaming.prepare)
        tail.listen(streaming.on_seen, streaming.on_begin)
        upkeep = UpkeepService(skeleton, timelines)
        rates = RateLimits(RateStore(hot, cache), settings)
        streams = Streams(settings)
        verifier = SessionVerifier(pool, feed, settings, streams)
        descriptors = timeline_pb2.DESCRIPTOR.services_by_name
        yield Process(
            services=[
                rpc.bind(
                    descriptors["TimelineService"],
                    (service, ShortTimelines(service.GetHomeTimeline), explaining, streaming),
                    verifier,
                    streams,
                    rates=rates,
                ),
                rpc.bind(descriptors["TimelineUpkeepService"], upkeep, verifier),
            ],
            loops=[feed.run, tail.run, rates.run],
            collectors=[
                rates.collect,
                feed.collect,
                names.collect,
                hydrator.collect,
                viewers.collect,
                skeleton.counts.collect,
                lambda: database.collect(pool),
                lambda: upkeep_rows.collect(pool),
            ],
        )
        # bench/__main__.py reads these lines.
        for what, hits, misses, size in (
            ("tweets", hydrator.hits, hydrator.misses, hydrator.size),
            ("names", names.hits, names.misses, names.size),
            ("relations", viewers.asked - viewers.loaded, viewers.loaded, viewers.size),
        ):
            rate = hits / max(1, hits + misses)
            log.info("cache: %s: %.2f %% of %d found, %s", what, 100 * rate, hits + misses, size)


if __name__ == "__main__":
    server.main(NAME, open_process)

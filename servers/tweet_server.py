"""tweet_server: TweetService and TweetRecordService. Owns tweets and likes."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

from chirp.v1 import graph_pb2_grpc, tweet_pb2, user_pb2_grpc

from mesh import clients, rpc, server
from mesh.server import Process
from mesh.settings import Settings
from mesh.tokens import ServiceIdentity
from servers import group_commit
from servers.announcer import Announcer
from servers.engagement_service import EngagementService
from servers.group_commit import GroupCommit
from servers.purge_feed import PurgeFeed
from servers.rate_limits import RateLimits
from servers.session_verifier import SessionVerifier
from servers.short_form import ShortTweets
from servers.thread_service import ThreadService
from servers.tweet_eraser import TweetEraser
from servers.tweet_presenter import TweetPresenter
from servers.tweet_reader import TweetReader
from servers.tweet_record_service import TweetRecordService
from servers.tweet_service import TweetService
from servers.user_names import UserNames
from storage import database, snowflakes, valkey, valkey_cluster
from storage.rates import RateStore
from storage.timelines import TimelineStore

NAME = "tweet_server"


@asynccontextmanager
async def open_process(settings: Settings) -> AsyncGenerator[Process]:
    """Opens what the server needs, and binds its services."""
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(database.open_pool(settings))
        # Groups follow one another, so they have one connection of this, whose backend's caches are
        # warm; of the pool above each would have another (docs/decisions/0013-group-commit.md).
        posting = await stack.enter_async_context(
            database.open_pool(
                settings, size_max=group_commit.TRANSACTIONS_MAX, idle_s=group_commit.IDLE_S
            )
        )
        await database.require_fact(pool, "timeline_shards", str(settings.timeline_shards))
        cache = await stack.enter_async_context(valkey.connect(settings.valkey_url, settings))
        hot = await stack.enter_async_context(
            valkey_cluster.open_hot(settings.valkey_url, settings.valkey_timeout_s)
        )
        ids = await stack.enter_async_context(snowflakes.lease(pool))
        identity = ServiceIdentity(settings, NAME)
        to_users, to_blocks = [
            await stack.enter_async_context(
                clients.channel(settings, settings.graph_target, service, identity=identity)
            )
            for service in ("chirp.v1.UserDirectoryService", "chirp.v1.BlockDirectoryService")
        ]
        directory = user_pb2_grpc.UserDirectoryServiceStub(to_users)
        feed = PurgeFeed(pool, settings)
        names = UserNames(directory, settings)
        feed.listen(names.on_purge, names.forget_all)
        reader = TweetReader(
            pool,
            TweetPresenter(names, feed),
            graph_pb2_grpc.BlockDirectoryServiceStub(to_blocks),
        )
        announcer = Announcer(TimelineStore(cache, settings), cache, hot)
        tweets = TweetService(
            pool=pool,
            ids=ids,
            group_commit=GroupCommit(posting, ids),
            reader=reader,
            announcer=announcer,
            directory=directory,
        )
        engagement = EngagementService(
            pool=pool,
            ids=ids,
            reader=reader,
            announcer=announcer,
            directory=directory,
        )
        threads = ThreadService(pool, reader)
        records = TweetRecordService(pool=pool, cache=cache)
        verifier = SessionVerifier(pool, feed, settings)
        rates = RateLimits(RateStore(hot, cache), settings)
        services = tweet_pb2.DESCRIPTOR.services_by_name
        yield Process(
            services=[
                rpc.bind(
                    services["TweetService"],
                    (tweets, ShortTweets(tweets.CreateTweet), engagement, threads),
                    verifier,
                    rates=rates,
                ),
                rpc.bind(services["TweetRecordService"], records, verifier),
            ],
            loops=[feed.run, TweetEraser(pool, cache).run, rates.run],
            collectors=[
                rates.collect,
                feed.collect,
                names.collect,
                lambda: database.collect(pool, posting),
            ],
        )


if __name__ == "__main__":
    server.main(NAME, open_process)

"""tweet_server: TweetService and TweetRecordService. Owns tweets and likes."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

from chirp.v1 import tweet_pb2, user_pb2_grpc

from mesh import clients, rpc, server
from mesh.server import Process
from mesh.settings import Settings
from mesh.tokens import TokenVerifier
from servers.purge_feed import PurgeFeed
from servers.tweet_service import TweetRecordService, TweetService
from servers.user_names import UserNames
from storage import database, snowflakes, valkey
from storage.timelines import TimelineStore


@asynccontextmanager
async def open_process(settings: Settings) -> AsyncGenerator[Process]:
    """Opens what the server needs, and binds its services."""
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(database.open_pool(settings))
        await database.require_fact(pool, "timeline_shards", str(settings.timeline_shards))
        cache = await stack.enter_async_context(valkey.connect(settings.valkey_url, settings))
        ids = await stack.enter_async_context(snowflakes.lease(pool))
        channel = await stack.enter_async_context(
            clients.channel(settings, settings.graph_target, "chirp.v1.UserDirectoryService")
        )
        directory = user_pb2_grpc.UserDirectoryServiceStub(channel)
        metadata = clients.service_metadata(settings)
        feed = PurgeFeed(pool, settings)
        names = UserNames(directory, metadata, settings)
        feed.listen(names.on_purge, names.forget_all)
        verifier = TokenVerifier(settings)
        tweets = TweetService(
            pool=pool,
            ids=ids,
            timelines=TimelineStore(cache, settings),
            cache=cache,
            directory=directory,
            names=names,
            feed=feed,
            metadata=metadata,
        )
        services = tweet_pb2.DESCRIPTOR.services_by_name
        yield Process(
            services=[
                rpc.bind(services["TweetService"], tweets, verifier),
                rpc.bind(
                    services["TweetRecordService"],
                    TweetRecordService(pool=pool, cache=cache),
                    verifier,
                ),
            ],
            loops=[feed.run],
        )


if __name__ == "__main__":
    server.main("tweet_server", open_process)

"""trend_server: TrendService. Owns nothing; reads what trend_worker published in the cache, and of
PostgreSQL only whether sessions stand. Its health is SERVING from the first lists on, so that
nobody is sent to a server that has none."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

from chirp.v1 import trend_pb2, trend_pb2_grpc

from mesh import clients, rpc, server
from mesh.server import Process
from mesh.settings import Settings
from mesh.streams import Streams
from mesh.tokens import ServiceIdentity
from servers.purge_feed import PurgeFeed
from servers.rate_limits import open_rate_limits
from servers.session_verifier import SessionVerifier
from servers.trend_book import TrendBook
from servers.trend_service import TrendService
from storage import database, valkey
from storage.trends import TrendStore

NAME = "trend_server"
SESSIONS_POOL = 2  # the database is asked about sessions only, each once


@asynccontextmanager
async def open_process(settings: Settings) -> AsyncGenerator[Process]:
    """Opens what the server needs, and binds its service."""
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(database.open_pool(settings, size_max=SESSIONS_POOL))
        cache = await stack.enter_async_context(valkey.connect(settings.valkey_url, settings))
        identity = ServiceIdentity(settings, NAME)
        to_worker = await stack.enter_async_context(
            clients.channel(
                settings,
                settings.trend_count_target,
                "chirp.v1.TrendCountService",
                identity=identity,
            )
        )
        rates = await stack.enter_async_context(open_rate_limits(settings, cache))
        rules = settings.trend_rules
        book = TrendBook(TrendStore(cache), rules, settings)
        service = TrendService(
            book,
            trend_pb2_grpc.TrendCountServiceStub(to_worker),
            rules,
        )
        feed, streams = PurgeFeed(pool, settings), Streams(settings)
        # The first call should find something, where there is anything to find.
        await valkey.best_effort("reading trends", book.poll())
        descriptor = trend_pb2.DESCRIPTOR.services_by_name["TrendService"]
        yield Process(
            services=[
                rpc.bind(
                    descriptor,
                    service,
                    SessionVerifier(pool, feed, settings, streams),
                    streams,
                    is_ready=book.is_ready,
                    rates=rates,
                )
            ],
            loops=[book.run, feed.run, rates.run],
            collectors=[rates.collect, feed.collect, lambda: database.collect(pool)],
        )


if __name__ == "__main__":
    server.main(NAME, open_process)

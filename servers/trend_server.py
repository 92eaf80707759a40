"""trend_server: TrendService. Owns nothing; reads what trend_worker published in the cache. Its
health is SERVING from the first lists on, so that nobody is sent to a server that has none."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

from chirp.v1 import trend_pb2, trend_pb2_grpc

from mesh import clients, rpc, server
from mesh.server import Process
from mesh.settings import Settings
from mesh.streams import Streams
from mesh.tokens import TokenVerifier
from servers.rate_limits import open_rate_limits
from servers.trend_book import TrendBook
from servers.trend_service import TrendService
from storage import valkey
from storage.trends import TrendStore


@asynccontextmanager
async def open_process(settings: Settings) -> AsyncGenerator[Process]:
    """Opens what the server needs, and binds its service."""
    async with AsyncExitStack() as stack:
        cache = await stack.enter_async_context(valkey.connect(settings.valkey_url, settings))
        to_worker = await stack.enter_async_context(
            clients.channel(settings, settings.trend_count_target, "chirp.v1.TrendCountService")
        )
        rates = await stack.enter_async_context(open_rate_limits(settings, cache))
        rules = settings.trend_rules
        book = TrendBook(TrendStore(cache), rules, settings)
        service = TrendService(
            book,
            trend_pb2_grpc.TrendCountServiceStub(to_worker),
            clients.service_metadata(settings),
            rules,
        )
        # The first call should find something, where there is anything to find.
        await valkey.best_effort("reading trends", book.poll())
        descriptor = trend_pb2.DESCRIPTOR.services_by_name["TrendService"]
        yield Process(
            services=[
                rpc.bind(
                    descriptor,
                    service,
                    TokenVerifier(settings),
                    Streams(settings),
                    is_ready=book.is_ready,
                    rates=rates,
                )
            ],
            loops=[book.run, rates.run],
            collectors=[rates.collect],
        )


if __name__ == "__main__":
    server.main("trend_server", open_process)

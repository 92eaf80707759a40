"""notification_server: NotificationService. Reads what notification_worker keeps, and writes how
far it was read."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

from chirp.v1 import graph_pb2_grpc, notification_pb2, user_pb2_grpc

from eventlog.valkey_streams import open_log
from mesh import clients, rpc, server
from mesh.server import Process
from mesh.settings import Settings
from mesh.streams import Streams
from mesh.tokens import ServiceIdentity
from servers.log_tail import LogTail
from servers.notification_presenter import NotificationPresenter
from servers.notification_service import NotificationService
from servers.notification_streams import NotificationStreams
from servers.purge_feed import PurgeFeed
from servers.rate_limits import open_rate_limits
from servers.session_verifier import SessionVerifier
from storage import database, valkey

NAME = "notification_server"


@asynccontextmanager
async def open_process(settings: Settings) -> AsyncGenerator[Process]:
    """Opens what the server needs, and binds its service."""
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(database.open_pool(settings))
        identity = ServiceIdentity(settings, NAME)
        cache = await stack.enter_async_context(valkey.connect(settings.valkey_url, settings))
        rates = await stack.enter_async_context(open_rate_limits(settings, cache))
        to_graph = await stack.enter_async_context(
            clients.channel(
                settings, settings.graph_target, "chirp.v1.UserDirectoryService", identity=identity
            )
        )
        to_blocks = await stack.enter_async_context(
            clients.channel(
                settings, settings.graph_target, "chirp.v1.BlockDirectoryService", identity=identity
            )
        )
        event_log = await stack.enter_async_context(open_log(settings))
        presenter = NotificationPresenter(user_pb2_grpc.UserDirectoryServiceStub(to_graph))
        tail = LogTail(event_log.reader(), event_log.partitions, keep=0)
        streaming = NotificationStreams(
            pool, presenter, graph_pb2_grpc.BlockDirectoryServiceStub(to_blocks), tail
        )
        servicers = (NotificationService(pool, presenter), streaming)
        descriptor = notification_pb2.DESCRIPTOR.services_by_name["NotificationService"]
        feed, streams = PurgeFeed(pool, settings), Streams(settings)
        verifier = SessionVerifier(pool, feed, settings, streams)
        yield Process(
            services=[rpc.bind(descriptor, servicers, verifier, streams, rates=rates)],
            loops=[feed.run, tail.run, rates.run],
            collectors=[rates.collect, feed.collect, lambda: database.collect(pool)],
        )


if __name__ == "__main__":
    server.main(NAME, open_process)

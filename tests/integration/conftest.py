"""Servers in process, on free ports, behind real gRPC channels."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import grpc
import pytest_asyncio

from mesh import server, vitals
from mesh.server import Opener
from mesh.settings import Settings
from servers import graph_server
from tests.integration.accounts import Accounts, open_accounts

Serve = Callable[[Opener], Awaitable[grpc.aio.Channel]]


@pytest_asyncio.fixture
async def serve(settings: Settings) -> AsyncGenerator[Serve]:
    """`await serve(tweet_server.open_process)` runs a process as its main() does; its channel.

    A test that needs servers that call each other opens them itself, with `serving_process`.
    """
    async with AsyncExitStack() as stack:

        async def start(opener: Opener) -> grpc.aio.Channel:
            port = await stack.enter_async_context(serving_process(settings, opener))
            return await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))

        yield start


@pytest_asyncio.fixture
async def accounts(settings: Settings, serve: Serve) -> AsyncGenerator[Accounts]:
    """A graph server with its stubs, and accounts at hand."""
    channel = await serve(graph_server.open_process)
    async with open_accounts(settings, channel) as opened:
        yield opened


@asynccontextmanager
async def serving_process(settings: Settings, opener: Opener) -> AsyncGenerator[int]:
    """Runs a server or worker in this process, loops and metrics included; yields its port."""
    async with opener(settings) as process:
        loops = [asyncio.create_task(run()) for run in process.loops]
        try:
            async with (
                vitals.told(settings.metrics_listen, process.services, process.collectors),
                server.serving(settings, process.services) as serving,
            ):
                yield serving.port
        finally:
            for loop in loops:
                loop.cancel()
            for result in await asyncio.gather(*loops, return_exceptions=True):
                if isinstance(result, Exception):
                    raise result

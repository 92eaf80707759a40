"""A thousand home streams on one timeline server, read until it drains and then at another one."""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import psycopg
from chirp.v1 import timeline_pb2, timeline_pb2_grpc

from domain.ids import UserId
from mesh.settings import Settings
from mesh.tokens import TokenSigner
from tests.e2e.chirp_up import command_line

ACCOUNTS, STREAMS_EACH = 50, 20
CHANNELS = 4
WITHIN_S = 60.0


@dataclass
class Reader:
    """One stream, and the one that goes on where it ended."""

    token: str
    got: list[int] = field(default_factory=list[int])
    resume_token: str = ""
    reason: str = ""

    async def read(self, stub: Any, begun: asyncio.Event, *, until: Sequence[int] = ()) -> None:
        """Reads until the end, or until there is nothing more to come."""
        call = stub.StreamHomeTimeline(
            timeline_pb2.StreamHomeTimelineRequest(resume_token=self.resume_token),
            metadata=(("authorization", f"Bearer {self.token}"),),
        )
        async for message in call:
            begun.set()
            if message.HasField("end"):
                self.reason, self.resume_token = message.end.reason, message.end.resume_token
                break
            self.resume_token = message.resume_token
            if message.HasField("item"):
                self.got.append(message.item.id)
            if until and len(self.got) >= len(until):
                call.cancel()
                break


async def make_readers(settings: Settings, author: int) -> list[Reader]:
    """Makes accounts that follow the author, and readers for them."""
    signer = TokenSigner(settings)
    readers: list[Reader] = []
    async with await psycopg.AsyncConnection.connect(settings.database_url) as connection:
        for number in range(ACCOUNTS):
            user = UserId(5_000_000 + number)
            await connection.execute(
                "INSERT INTO users (id, username, display_name) VALUES (%s, %s, 'reader')",
                (user, f"reader_{number}"),
            )
            await connection.execute(
                "INSERT INTO follows (follower_id, followee_id, id) VALUES (%s, %s, %s)",
                (user, author, number + 1),
            )
            token = signer.sign_user(user, 0, lifetime_s=600, now=time.time())
            readers += [Reader(token) for _ in range(STREAMS_EACH)]
    return readers


@asynccontextmanager
async def stubs(port: int) -> AsyncGenerator[list[Any]]:
    """Stubs on some channels to one server."""
    async with AsyncExitStack() as stack:
        yield [
            timeline_pb2_grpc.TimelineServiceStub(
                await stack.enter_async_context(
                    # Channels of the same options share one connection otherwise.
                    grpc.aio.insecure_channel(
                        f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)]
                    )
                )
            )
            for _ in range(CHANNELS)
        ]


async def read_all(
    readers: Sequence[Reader], port: int, begun: asyncio.Event, *, until: Sequence[int] = ()
) -> None:
    """Has all readers read; sets `begun` when each has its first message."""
    async with asyncio.timeout(WITHIN_S), stubs(port) as opened:
        events = [asyncio.Event() for _ in readers]
        tasks = [
            asyncio.create_task(reader.read(opened[n % CHANNELS], events[n], until=until))
            for n, reader in enumerate(readers)
        ]
        for event in events:
            await event.wait()
        begun.set()
        await asyncio.gather(*tasks)


async def until_gone(process_id: int) -> float:
    """Waits until a process has ended; returns how long it took."""
    began = time.monotonic()
    while command_line(process_id):
        assert time.monotonic() < began + WITHIN_S
        await asyncio.sleep(0.01)
    return time.monotonic() - began

"""A reader of home streams for tests: one call, read message by message."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from chirp.v1 import timeline_pb2, tweet_pb2

from tests.integration.accounts import Account

DEADLINE_S = 20.0
Message = timeline_pb2.StreamHomeTimelineResponse


class HomeReader:
    """Reads a stream. `token` is that of the last message that had one."""

    def __init__(self, call: Any, token: str) -> None:
        self.call = call
        self.token = token
        self.catch_ups = 0

    async def read(self) -> Message:
        """Returns the next message."""
        async with asyncio.timeout(DEADLINE_S):
            message = await self.call.read()
        assert isinstance(message, Message), await self.call.code()
        if message.HasField("end"):
            self.token = message.end.resume_token
        else:
            assert message.resume_token
            self.token = message.resume_token
        self.catch_ups += message.HasField("catching_up")
        return message

    async def begin(self) -> None:
        """Reads what a stream begins with."""
        message = await self.read()
        assert message.HasField("heartbeat"), message

    async def items(self, count: int) -> list[tweet_pb2.Tweet]:
        """Returns so many items; heartbeats and catching up may come between."""
        found: list[tweet_pb2.Tweet] = []
        deadline = time.monotonic() + DEADLINE_S  # a silent stream beats
        while len(found) < count:
            assert time.monotonic() < deadline, f"only {len(found)} of {count} came: {found}"
            message = await self.read()
            assert not message.HasField("end"), message
            if message.HasField("item"):
                found.append(message.item)
        return found

    async def ids(self, count: int) -> list[int]:
        """Returns the ids of so many items."""
        return [tweet.id for tweet in await self.items(count)]

    async def end(self) -> str:
        """Reads on to the end; returns the reason."""
        while True:
            message = await self.read()
            if message.HasField("end"):
                return message.end.reason


@asynccontextmanager
async def reading(
    stub: Any, viewer: Account, token: str = "", *, begin: bool = True
) -> AsyncGenerator[HomeReader]:
    """Opens a stream, and reads its first heartbeat."""
    call = stub.StreamHomeTimeline(
        timeline_pb2.StreamHomeTimelineRequest(resume_token=token), metadata=viewer.metadata
    )
    reader = HomeReader(call, token)
    try:
        if begin:
            await reader.begin()
        yield reader
    finally:
        call.cancel()

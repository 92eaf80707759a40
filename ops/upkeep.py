"""Making materialised timelines anew: what `chirp verify --repair` and `chirp rebuild` share."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import grpc
from chirp.v1 import timeline_pb2, timeline_pb2_grpc

from domain.ids import UserId
from mesh import clients
from mesh.access import COMMAND_LINE
from mesh.settings import Settings
from mesh.tokens import ServiceIdentity

SERVICE = "chirp.v1.TimelineUpkeepService"


class Rebuilder:
    """Asks timeline_server to rebuild home timelines."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = timeline_pb2_grpc.TimelineUpkeepServiceStub(channel)

    async def rebuild(self, viewer: UserId) -> bool:
        """Rebuilds one, while it is read; returns whether there was one. Raises ConnectionError
        where timeline_server does not do it in spite of tries."""
        try:
            answer = await self._stub.RebuildHomeTimeline(
                timeline_pb2.RebuildHomeTimelineRequest(user_id=viewer)
            )
        except grpc.aio.AioRpcError as error:
            raise ConnectionError(
                f"timeline_server answers {error.code().name}: {error.details()}"
            ) from error
        return answer.rebuilt


@asynccontextmanager
async def open_rebuilder(settings: Settings) -> AsyncGenerator[Rebuilder]:
    """Opens a channel to the timeline servers."""
    identity = ServiceIdentity(settings, COMMAND_LINE)
    async with clients.channel(
        settings, settings.timeline_target, SERVICE, identity=identity
    ) as channel:
        yield Rebuilder(channel)

"""TimelineUpkeepService: rebuilding materialised timelines while people read them."""

from chirp.v1 import timeline_pb2

from domain.errors import InvalidArgument
from domain.ids import UserId
from mesh.rpc import Call
from servers.home_skeleton import HomeSkeleton
from storage.timelines import MARK_LIFETIME_S, TimelineStore


class UpkeepService:
    """Answers chirp.v1.TimelineUpkeepService.

    A window is dropped and made again, not changed in place: the protocol of rebuilds already holds
    that nothing pushed meanwhile is lost, and whoever reads while there is no window is answered
    from the database."""

    def __init__(self, skeleton: HomeSkeleton, timelines: TimelineStore) -> None:
        self._skeleton = skeleton
        self._timelines = timelines

    async def RebuildHomeTimeline(
        self, request: timeline_pb2.RebuildHomeTimelineRequest, call: Call
    ) -> timeline_pb2.RebuildHomeTimelineResponse:
        """Rebuilds one timeline, and keeps it no longer than it was to be kept: nobody read it."""
        if request.user_id < 1:
            raise InvalidArgument.of("userId", "must be an account's id")
        user = UserId(request.user_id)
        keep_s = await self._timelines.drop_window(user)
        if not keep_s:
            return timeline_pb2.RebuildHomeTimelineResponse(rebuilt=False)
        await self._skeleton.rebuild(user)
        # So little is left of the mark of another's rebuild, which says nothing of the window.
        if keep_s > MARK_LIFETIME_S:
            await self._timelines.keep_for(user, keep_s)
        return timeline_pb2.RebuildHomeTimelineResponse(rebuilt=True)

"""FollowerDirectoryService: follower ids in bulk, for fan-out."""

from chirp.v1 import graph_pb2

from domain.errors import InvalidArgument
from domain.ids import UserId
from mesh.rpc import Call
from storage import follows
from storage.database import Pool

PAGE_MAX = 100_000  # ids; 1 MB on the wire, a quarter of what a message may hold


class FollowerDirectoryService:
    """Answers chirp.v1.FollowerDirectoryService."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def ListFollowerIds(
        self, request: graph_pb2.ListFollowerIdsRequest, call: Call
    ) -> graph_pb2.ListFollowerIdsResponse:
        """Lists the followers of an account; an unknown account has none."""
        if request.user_id < 1:
            raise InvalidArgument.of("userId", "must be an account's id")
        async with self._pool.connection() as connection:
            ids = await follows.fetch_follower_ids(
                connection, UserId(request.user_id), after=request.after_id, count=PAGE_MAX + 1
            )
        return graph_pb2.ListFollowerIdsResponse(ids=ids[:PAGE_MAX], has_more=len(ids) > PAGE_MAX)

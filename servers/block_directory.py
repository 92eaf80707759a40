"""BlockDirectoryService: who blocks and mutes whom, for Chirp's own services."""

from chirp.v1 import graph_pb2

from domain.errors import InvalidArgument
from domain.ids import UserId
from mesh.rpc import Call
from storage import blocks, mutes
from storage.database import Pool

OTHERS_MAX = 1_000


class BlockDirectoryService:
    """Answers chirp.v1.BlockDirectoryService."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def BatchGetBlocks(
        self, request: graph_pb2.BatchGetBlocksRequest, call: Call
    ) -> graph_pb2.BatchGetBlocksResponse:
        """Tells what stands between an account and others; unknown accounts have no part in it."""
        if request.user_id < 1:
            raise InvalidArgument.of("userId", "must be an account's id")
        if not 1 <= len(request.other_ids) <= OTHERS_MAX:
            raise InvalidArgument.of("otherIds", f"must be 1 to {OTHERS_MAX}")
        user_id = UserId(request.user_id)
        async with self._pool.connection() as connection:
            return graph_pb2.BatchGetBlocksResponse(
                blocked_ids=await blocks.fetch_between(connection, user_id, request.other_ids),
                muted_ids=await mutes.fetch_muted(connection, user_id, request.other_ids),
            )

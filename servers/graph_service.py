"""GraphService: who follows, blocks and mutes whom. `servers/relations.py` changes it."""

from collections.abc import Sequence

from chirp.v1 import graph_pb2, user_pb2

from domain import paging, user
from domain.errors import InvalidArgument, SelfBlock, SelfFollow, SelfMute, UserNotFound
from domain.ids import MAX_ID, UserId
from mesh.rpc import Call
from servers.relations import Relations
from servers.user_message import present
from storage import follows, users
from storage.database import Connection, Pool
from storage.follows import ListedRow


class GraphService:
    """Answers chirp.v1.GraphService. Each change answers the other account as it is afterwards."""

    def __init__(self, pool: Pool, relations: Relations) -> None:
        self._pool = pool
        self._relations = relations

    async def FollowUser(self, request: graph_pb2.FollowUserRequest, call: Call) -> user_pb2.User:
        """Follows; changes and tells nothing where it was so already."""
        followee = _other(request.id, call, SelfFollow)
        await self._relations.follow(call, followee)
        return await self._answer(followee, call)

    async def UnfollowUser(
        self, request: graph_pb2.UnfollowUserRequest, call: Call
    ) -> user_pb2.User:
        """Unfollows; changes and tells nothing where it was so already."""
        followee = _other(request.id, call, SelfFollow)
        await self._relations.unfollow(call, followee)
        return await self._answer(followee, call)

    async def BlockUser(self, request: graph_pb2.BlockUserRequest, call: Call) -> user_pb2.User:
        """Blocks and ends both follows; changes and tells nothing where it was so already."""
        other = _other(request.id, call, SelfBlock)
        await self._relations.block(call, other)
        return await self._answer(other, call)

    async def UnblockUser(self, request: graph_pb2.UnblockUserRequest, call: Call) -> user_pb2.User:
        """Unblocks; changes and tells nothing where it was so already."""
        other = _other(request.id, call, SelfBlock)
        await self._relations.unblock(call, other)
        return await self._answer(other, call)

    async def MuteUser(self, request: graph_pb2.MuteUserRequest, call: Call) -> user_pb2.User:
        """Mutes; changes and tells nothing where it was so already."""
        other = _other(request.id, call, SelfMute)
        await self._relations.mute(call, other)
        return await self._answer(other, call)

    async def UnmuteUser(self, request: graph_pb2.UnmuteUserRequest, call: Call) -> user_pb2.User:
        """Unmutes; changes and tells nothing where it was so already."""
        other = _other(request.id, call, SelfMute)
        await self._relations.unmute(call, other)
        return await self._answer(other, call)

    async def ListFollowers(
        self, request: graph_pb2.ListFollowersRequest, call: Call
    ) -> graph_pb2.ListFollowersResponse:
        """Lists followers, the newest first."""
        limit = paging.limit(request.limit if request.HasField("limit") else None)
        below = paging.decode_cursor(request.cursor) or MAX_ID
        user_id = UserId(user.check_id(request.id))
        async with self._pool.connection() as connection:
            await _require_user(connection, user_id)
            rows = await follows.fetch_followers(connection, user_id, below=below, count=limit + 1)
            listed = await _present_all(connection, rows[:limit], call)
        has_more = len(rows) > limit
        return graph_pb2.ListFollowersResponse(
            users=listed, next_cursor=_next_cursor(rows, limit), has_more=has_more
        )

    async def ListFollowing(
        self, request: graph_pb2.ListFollowingRequest, call: Call
    ) -> graph_pb2.ListFollowingResponse:
        """Lists followed accounts, the newest follow first."""
        limit = paging.limit(request.limit if request.HasField("limit") else None)
        below = paging.decode_cursor(request.cursor) or MAX_ID
        user_id = UserId(user.check_id(request.id))
        async with self._pool.connection() as connection:
            await _require_user(connection, user_id)
            rows = await follows.fetch_followees(connection, user_id, below=below, count=limit + 1)
            listed = await _present_all(connection, rows[:limit], call)
        has_more = len(rows) > limit
        return graph_pb2.ListFollowingResponse(
            users=listed, next_cursor=_next_cursor(rows, limit), has_more=has_more
        )

    async def _answer(self, user_id: UserId, call: Call) -> user_pb2.User:
        async with self._pool.connection() as connection:
            row = await users.fetch_by_id(connection, user_id)
            if row is None:
                raise UserNotFound("no such account")
            relations = await follows.fetch_relations(connection, call.caller, [user_id])
        return present(row, relations[user_id])


def _other(user_id: int, call: Call, own: type[InvalidArgument]) -> UserId:
    if user_id == call.caller:
        raise own.of("id", "must not be your own")
    return UserId(user.check_id(user_id))


async def _require_user(connection: Connection, user_id: UserId) -> None:
    if not await users.exists(connection, user_id):
        raise UserNotFound("no such account")


async def _present_all(
    connection: Connection, rows: Sequence[ListedRow], call: Call
) -> list[user_pb2.User]:
    if call.user_id is None or not rows:
        return [present(row, None) for row in rows]
    relations = await follows.fetch_relations(connection, call.user_id, [row.id for row in rows])
    return [present(row, relations[row.id]) for row in rows]


def _next_cursor(rows: Sequence[ListedRow], limit: int) -> str:
    return paging.encode_cursor(rows[limit - 1].position) if len(rows) > limit else ""

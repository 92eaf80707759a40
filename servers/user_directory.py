"""UserDirectoryService: accounts, their short forms and names, for Chirp's own services."""

from chirp.v1 import user_pb2

from domain import user
from domain.errors import InvalidArgument
from domain.ids import UserId
from mesh.rpc import Call
from servers.user_message import present, present_summary
from storage import follows, users
from storage.database import Pool

IDS_MAX = 1_000
USERNAMES_MAX = 100


class UserDirectoryService:
    """Answers chirp.v1.UserDirectoryService."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def BatchGetUserSummaries(
        self, request: user_pb2.BatchGetUserSummariesRequest, call: Call
    ) -> user_pb2.BatchGetUserSummariesResponse:
        """Gets the short form of the accounts that exist."""
        if not 1 <= len(request.ids) <= IDS_MAX:
            raise InvalidArgument.of("ids", f"must be 1 to {IDS_MAX}")
        async with self._pool.connection() as connection:
            rows = await users.fetch_by_ids(connection, request.ids)
        return user_pb2.BatchGetUserSummariesResponse(users=[present_summary(row) for row in rows])

    async def BatchGetUsers(
        self, request: user_pb2.BatchGetUsersRequest, call: Call
    ) -> user_pb2.BatchGetUsersResponse:
        """Gets the accounts that exist, as the viewer sees them."""
        if not 1 <= len(request.ids) <= IDS_MAX:
            raise InvalidArgument.of("ids", f"must be 1 to {IDS_MAX}")
        if request.viewer_id < 0:
            raise InvalidArgument.of("viewerId", "must be an account's id, or 0")
        async with self._pool.connection() as connection:
            rows = await users.fetch_full_by_ids(connection, request.ids)
            if not request.viewer_id:
                return user_pb2.BatchGetUsersResponse(users=[present(row, None) for row in rows])
            relations = await follows.fetch_relations(
                connection, UserId(request.viewer_id), [row.id for row in rows]
            )
        return user_pb2.BatchGetUsersResponse(
            users=[present(row, relations[row.id]) for row in rows]
        )

    async def ResolveUsernames(
        self, request: user_pb2.ResolveUsernamesRequest, call: Call
    ) -> user_pb2.ResolveUsernamesResponse:
        """Gets the accounts of the names that exist; what cannot be a name does not."""
        if not 1 <= len(request.usernames) <= USERNAMES_MAX:
            raise InvalidArgument.of("usernames", f"must be 1 to {USERNAMES_MAX}")
        names = [name for name in request.usernames if user.is_username(name)]
        if not names:
            return user_pb2.ResolveUsernamesResponse()
        async with self._pool.connection() as connection:
            rows = await users.fetch_by_usernames(connection, names)
        return user_pb2.ResolveUsernamesResponse(users=[present_summary(row) for row in rows])

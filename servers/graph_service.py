"""GraphService: who follows whom.

A follow changes two accounts' rows. In one transaction:
 1. both rows are locked in the order of ids: no two calls wait for each other, and the followee's
    events take their place in the outbox in the order of their commits;
 2. the follow is written, and nothing more is done where it was so already;
 3. followee's count and tier, follower's count, and the event.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence

import redis.exceptions
from chirp.v1 import events_pb2, graph_pb2, user_pb2

from domain import paging, user
from domain.errors import SelfFollow, Unauthenticated, UserNotFound
from domain.ids import MAX_ID, UserId
from domain.tier import Thresholds, Tier, next_tier
from mesh.rpc import Call
from servers.user_message import present
from servers.user_service import require_session
from storage import follows, outbox, users
from storage.database import Connection, Pool
from storage.follows import ListedRow
from storage.snowflakes import IdMinter
from storage.users import LockedRow

log = logging.getLogger(__name__)


class GraphService:
    """Answers chirp.v1.GraphService. `drop_timeline` is told whose follows have changed."""

    def __init__(
        self,
        pool: Pool,
        ids: IdMinter,
        thresholds: Thresholds,
        drop_timeline: Callable[[UserId], Awaitable[object]],
        clock: Callable[[], float],
    ) -> None:
        self._pool = pool
        self._ids = ids
        self._thresholds = thresholds
        self._drop_timeline = drop_timeline
        self._clock = clock

    async def FollowUser(self, request: graph_pb2.FollowUserRequest, call: Call) -> user_pb2.User:
        """Follows; changes and tells nothing where it was so already."""
        return await self._change(_other(request.id, call), call, following=True)

    async def UnfollowUser(
        self, request: graph_pb2.UnfollowUserRequest, call: Call
    ) -> user_pb2.User:
        """Unfollows; changes and tells nothing where it was so already."""
        return await self._change(_other(request.id, call), call, following=False)

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

    async def _change(self, followee: UserId, call: Call, *, following: bool) -> user_pb2.User:
        async with self._pool.connection() as connection, connection.transaction():
            changed = await self._write(connection, followee, call, following=following)
        if changed:
            await self._forget_timeline(call.caller)
        async with self._pool.connection() as connection:
            row = await users.fetch_by_id(connection, followee)
            if row is None:
                raise UserNotFound("no such account")
            relations = await follows.fetch_relations(connection, call.caller, [followee])
        return present(row, relations[followee])

    async def _write(
        self, connection: Connection, followee: UserId, call: Call, *, following: bool
    ) -> bool:
        follower = call.caller
        await require_session(connection, call)
        locked = await users.lock_pair(connection, follower, followee)
        if followee not in locked:
            raise UserNotFound("no such account")
        if follower not in locked:
            raise Unauthenticated("the account of this token is gone")
        if following:
            # Minted while the rows are held: the lists' order is the order of the commits.
            follow_id = self._ids.mint()
            changed = await follows.insert(
                connection, follow_id=follow_id, follower=follower, followee=followee
            )
        else:
            changed = await follows.delete(connection, follower=follower, followee=followee)
        if changed:
            delta = 1 if following else -1
            await self._count(connection, locked[followee], delta)
            await users.add_to_following_count(connection, follower, delta)
            event = self._event(follower, followee, following=following)
            await outbox.insert(
                connection, partition_key=followee, payload=event.SerializeToString()
            )
        return changed

    async def _count(self, connection: Connection, followee: LockedRow, delta: int) -> None:
        follower_count = followee.follower_count + delta
        tier = next_tier(Tier(followee.tier), follower_count, self._thresholds)
        await users.update_follower_count(
            connection, followee.id, follower_count=follower_count, tier=tier
        )

    async def _forget_timeline(self, viewer: UserId) -> None:
        # The event does it too, a little later; this makes the follow show at the next read.
        try:
            await self._drop_timeline(viewer)
        except (redis.exceptions.RedisError, OSError, TimeoutError) as error:
            log.warning("a timeline was not dropped, its cache is away: %s", error)

    def _event(self, follower: UserId, followee: UserId, *, following: bool) -> events_pb2.Event:
        event = events_pb2.Event()
        event.occurred_at.FromMilliseconds(int(self._clock() * 1000))
        kind = event.user_followed if following else event.user_unfollowed
        kind.follower_id = follower
        kind.followee_id = followee
        return event


def _other(user_id: int, call: Call) -> UserId:
    if user_id == call.caller:
        raise SelfFollow.of("id", "must not be your own")
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

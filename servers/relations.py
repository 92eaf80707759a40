"""The transactions of follows, blocks and mutes.

1. The rows of the accounts that a change concerns are held, locked in the order of ids: no two
   calls wait for each other, and the events of an account take their places in the outbox in the
   order of their commits. A follow, an unfollow and a block concern both accounts; an unblock, a
   mute and an unmute concern the caller. A follow and a block that come at the same time therefore
   see each other, whichever is first.
2. The relation is written; where it was so already, nothing more is done.
3. In the same transaction: counts, tiers and their history, events, and whose timelines the
   servers' caches must forget.
4. After the commit these timelines are dropped from the cache. Where it is away, the events do it.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from chirp.v1 import events_pb2

from domain.errors import Blocked, Unauthenticated, UserNotFound
from domain.ids import UserId
from domain.tier import Thresholds, Tier, next_tier
from mesh import traces
from mesh.rpc import Call
from servers.user_service import require_session
from storage import blocks, follows, mutes, outbox, purges, tier_changes, users
from storage.database import Connection, Pool
from storage.snowflakes import IdMinter
from storage.users import LockedRow
from storage.valkey import best_effort


@dataclass(frozen=True, slots=True)
class Change:
    """A transaction that holds the rows of the accounts that it concerns."""

    connection: Connection
    held: dict[UserId, LockedRow]
    viewers: set[UserId] = field(default_factory=set[UserId])
    """Whose home timeline is another afterwards."""


class Relations:
    """Changes what holds between the caller and another account. Every method is idempotent, and
    raises UserNotFound where there is no such account; `drop_timeline` may fail as Valkey does."""

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

    async def follow(self, call: Call, followee: UserId) -> None:
        """Follows. Raises Blocked where one of the two blocks the other."""
        follower = call.caller
        async with self._change(call, followee, holds_both=True) as change:
            connection = change.connection
            if await blocks.exists_between(connection, follower, followee):
                raise Blocked("one of the two accounts blocks the other")
            # Minted while the rows are held: the lists' order is the order of the commits.
            follow_id = self._ids.mint()
            if await follows.insert(
                connection, follow_id=follow_id, follower=follower, followee=followee
            ):
                await self._count(change, follower, followee, +1)
                event = events_pb2.UserFollowed(follower_id=follower, followee_id=followee)
                await self._tell(connection, followee, events_pb2.Event(user_followed=event))
                change.viewers.add(follower)

    async def unfollow(self, call: Call, followee: UserId) -> None:
        """Unfollows."""
        async with self._change(call, followee, holds_both=True) as change:
            if await self._end_follow(change, call.caller, followee):
                change.viewers.add(call.caller)

    async def block(self, call: Call, other: UserId) -> None:
        """Blocks, and ends the follows in both directions."""
        user = call.caller
        async with self._change(call, other, holds_both=True) as change:
            if await blocks.insert(change.connection, blocker=user, blocked=other):
                await self._end_follow(change, user, other)
                await self._end_follow(change, other, user)
                event = events_pb2.UserBlocked(user_id=user, other_id=other)
                await self._tell(change.connection, user, events_pb2.Event(user_blocked=event))
                change.viewers.update((user, other))

    async def unblock(self, call: Call, other: UserId) -> None:
        """Takes a block back; the follows that it ended stay so."""
        user = call.caller
        async with self._change(call, other, holds_both=False) as change:
            if await blocks.delete(change.connection, blocker=user, blocked=other):
                event = events_pb2.UserUnblocked(user_id=user, other_id=other)
                await self._tell(change.connection, user, events_pb2.Event(user_unblocked=event))
                change.viewers.update((user, other))

    async def mute(self, call: Call, other: UserId) -> None:
        """Mutes."""
        user = call.caller
        async with self._change(call, other, holds_both=False) as change:
            if await mutes.insert(change.connection, muter=user, muted=other):
                event = events_pb2.UserMuted(user_id=user, other_id=other)
                await self._tell(change.connection, user, events_pb2.Event(user_muted=event))
                change.viewers.add(user)

    async def unmute(self, call: Call, other: UserId) -> None:
        """Unmutes."""
        user = call.caller
        async with self._change(call, other, holds_both=False) as change:
            if await mutes.delete(change.connection, muter=user, muted=other):
                event = events_pb2.UserUnmuted(user_id=user, other_id=other)
                await self._tell(change.connection, user, events_pb2.Event(user_unmuted=event))
                change.viewers.add(user)

    @asynccontextmanager
    async def _change(
        self, call: Call, other: UserId, *, holds_both: bool
    ) -> AsyncGenerator[Change]:
        """Steps 1, the end of 3, and 4."""
        async with self._pool.connection() as connection, connection.transaction():
            await require_session(connection, call)
            concerned = [call.caller, other] if holds_both else [call.caller]
            held = await users.lock(connection, concerned)
            if other not in held and (holds_both or not await users.exists(connection, other)):
                raise UserNotFound("no such account")
            if call.caller not in held:
                raise Unauthenticated("the account of this token is gone")
            change = Change(connection, held)
            yield change
            for viewer in sorted(change.viewers):
                await purges.insert(connection, purges.Kind.VIEWER, viewer)
        await asyncio.gather(
            *(
                best_effort("dropping a timeline", self._drop_timeline(viewer))
                for viewer in change.viewers
            )
        )

    async def _end_follow(self, change: Change, follower: UserId, followee: UserId) -> bool:
        if not await follows.delete(change.connection, follower=follower, followee=followee):
            return False
        await self._count(change, follower, followee, -1)
        event = events_pb2.UserUnfollowed(follower_id=follower, followee_id=followee)
        await self._tell(change.connection, followee, events_pb2.Event(user_unfollowed=event))
        return True

    async def _count(self, change: Change, follower: UserId, followee: UserId, delta: int) -> None:
        # At most once for each followee in a transaction: `held` is what its row said before.
        before = change.held[followee]
        follower_count, tier = before.follower_count + delta, Tier(before.tier)
        reached = next_tier(tier, follower_count, self._thresholds)
        await users.update_follower_count(
            change.connection, followee, follower_count=follower_count, tier=reached
        )
        await users.add_to_following_count(change.connection, follower, delta)
        if reached is not tier:
            await tier_changes.insert(
                change.connection,
                followee,
                from_tier=tier,
                to_tier=reached,
                follower_count=follower_count,
            )

    async def _tell(self, connection: Connection, key: UserId, event: events_pb2.Event) -> None:
        event.occurred_at.FromMilliseconds(int(self._clock() * 1000))
        event.trace = traces.current()
        await outbox.insert(connection, partition_key=key, payload=event.SerializeToString())

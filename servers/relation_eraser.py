"""Takes away the follows, blocks and mutes of accounts that were deleted, in steps.

 1. A step holds one erasure, which no other replica takes meanwhile, and the rows of the
    accounts that it concerns, in the order of ids as every change of relations does.
 2. It ends up to STEP_MAX relations of one kind. Counts, tiers, events, purges and dropped
    timelines are those of an unfollow, an unblock or an unmute: whoever follows the events sees no
    difference.
 3. When a step finds nothing, the erasure's relations are gone.

Each step is one transaction: after a crash the next one goes on with what is there.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from chirp.v1 import events_pb2

from domain.ids import UserId
from domain.tier import Thresholds, Tier, next_tier
from eventlog.outages import is_outage
from mesh import errors
from mesh.tasks import raise_if_cancelled
from storage import erased_relations, erasures, outbox, purges, tier_changes, users
from storage.database import Connection, Pool
from storage.erased_relations import Kind
from storage.users import LockedRow
from storage.valkey import best_effort

STEP_MAX = 200  # relations in one transaction, which holds the rows of so many accounts
REST_S = 0.5  # between two looks for something to do

log = logging.getLogger(__name__)


class RelationEraser:
    """Takes steps. Any number of replicas may run one."""

    def __init__(
        self,
        pool: Pool,
        thresholds: Thresholds,
        drop_timeline: Callable[[UserId], Awaitable[object]],
        clock: Callable[[], float],
    ) -> None:
        self._pool = pool
        self._thresholds = thresholds
        self._drop_timeline = drop_timeline
        self._clock = clock

    async def run(self) -> None:
        """Takes steps until cancelled."""
        while True:
            try:
                while await self.step():
                    raise_if_cancelled()
            except Exception as error:  # noqa: BLE001 - whatever it is, it is tried again
                said = str(error) if is_outage(error) else errors.describe(error)
                log.warning("deleted accounts keep their relations for now: %s", said)
            raise_if_cancelled()
            await asyncio.sleep(REST_S)

    async def step(self) -> bool:
        """Takes one step; returns whether there was anything to do. Raises what PostgreSQL raises;
        then nothing was done."""
        viewers: Sequence[UserId] = ()
        async with self._pool.connection() as connection, connection.transaction():
            erased = await erasures.take_relations(connection)
            if erased is None:
                return False
            for kind in Kind:
                others = await erased_relations.fetch(connection, kind, erased, count=STEP_MAX)
                if others:
                    viewers = await self._end(connection, kind, erased, others)
                    break
            else:
                await erasures.end_relations(connection, erased)
                event = events_pb2.UserErased(user_id=erased)
                await self._tell(connection, [(erased, events_pb2.Event(user_erased=event))])
            for viewer in viewers:
                await purges.insert(connection, purges.Kind.VIEWER, viewer)
        await asyncio.gather(
            *(best_effort("dropping a timeline", self._drop_timeline(viewer)) for viewer in viewers)
        )
        return True

    async def _end(
        self, connection: Connection, kind: Kind, erased: UserId, others: Sequence[UserId]
    ) -> list[UserId]:
        """Returns whose home timeline may be another afterwards."""
        held = await users.lock(connection, [erased, *others], erased_too=True)
        ended = await erased_relations.delete(connection, kind, erased, others)
        events: list[tuple[UserId, events_pb2.Event]] = []
        match kind:
            case Kind.FOLLOWERS:
                await users.take_from_following_counts(connection, ended)
                await self._count_followers(connection, held[erased], -len(ended))
                events = [(erased, _unfollowed(other, erased)) for other in ended]
            case Kind.FOLLOWEES:
                await users.add_to_following_count(connection, erased, -len(ended))
                for other in ended:
                    await self._count_followers(connection, held[other], -1)
                events = [(other, _unfollowed(erased, other)) for other in ended]
            case Kind.BLOCKED:
                events = [(erased, _unblocked(erased, other)) for other in ended]
            case Kind.BLOCKERS:
                events = [(other, _unblocked(other, erased)) for other in ended]
            case Kind.MUTED:
                events = [(erased, _unmuted(erased, other)) for other in ended]
            case Kind.MUTERS:
                events = [(other, _unmuted(other, erased)) for other in ended]
        await self._tell(connection, events)
        return ended

    async def _count_followers(
        self, connection: Connection, before: LockedRow, change: int
    ) -> None:
        count, tier = before.follower_count + change, Tier(before.tier)
        reached = next_tier(tier, count, self._thresholds)
        await users.update_follower_count(connection, before.id, follower_count=count, tier=reached)
        if reached is not tier:
            await tier_changes.insert(
                connection, before.id, from_tier=tier, to_tier=reached, follower_count=count
            )

    async def _tell(
        self, connection: Connection, events: Sequence[tuple[UserId, events_pb2.Event]]
    ) -> None:
        now_ms = int(self._clock() * 1000)
        for _, event in events:
            event.occurred_at.FromMilliseconds(now_ms)
        # Those of one key concern different others: in which order they come plays no part.
        await outbox.insert_all(
            connection, [(key, event.SerializeToString()) for key, event in events]
        )


def _unfollowed(follower: UserId, followee: UserId) -> events_pb2.Event:
    event = events_pb2.UserUnfollowed(follower_id=follower, followee_id=followee)
    return events_pb2.Event(user_unfollowed=event)


def _unblocked(user: UserId, other: UserId) -> events_pb2.Event:
    return events_pb2.Event(user_unblocked=events_pb2.UserUnblocked(user_id=user, other_id=other))


def _unmuted(user: UserId, other: UserId) -> events_pb2.Event:
    return events_pb2.Event(user_unmuted=events_pb2.UserUnmuted(user_id=user, other_id=other))

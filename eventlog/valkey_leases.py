"""The partitions that a member of a consumer group owns, on the Valkey engine.

How partitions are shared, without anybody in charge:
 1. Every member beats its heart in the group's sorted set, a sixth of a lease apart; who is silent
    for a lease is taken off.
 2. The members in order, each may hold partitions / members, the first ones one more. A member
    that holds more gives the surplus up; one that holds less takes what is free.
 3. Joining, leaving and giving up wake the others through the group's notice stream, which every
    poll reads beside its partitions.
 4. A dead member's leases run out by Valkey's clock; what it still does under them is refused.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, cast

import redis.exceptions

from eventlog import client, positions, scripts
from eventlog.client import Call, Valkey
from eventlog.outages import raise_if_cancelled
from eventlog.positions import StreamId

BEATS_PER_LEASE = 6
# Two members that start together take from the same free ones; each round settles most of them.
TAKE_ROUNDS = 3

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Held:
    """A partition that we own until `until` (our clock, counted from before Valkey was asked)."""

    fence: int
    read: StreamId
    committed: StreamId
    until: float
    paused_until: float = 0.0


class Leases:
    """What one member owns. `balance` is to be called again from `balance_at` (our clock) on."""

    def __init__(
        self, valkey: Valkey, group: str, member: str, *, partitions: int, lease_ms: int
    ) -> None:
        self._valkey = valkey
        self._group = group
        self._partitions = partitions
        self._lease_ms = lease_ms
        self._beat_s = lease_ms / 1000 / BEATS_PER_LEASE
        self._joined = False
        self.token = f"{member}/{uuid.uuid4().hex}"
        """The member's name in Valkey; no two are the same."""
        self.held: dict[int, Held] = {}
        self.balance_at = 0.0

    @asynccontextmanager
    async def beating(self) -> AsyncGenerator[None]:
        """Beats the heart inside; on leaving, hands over. A log that is away is no error here."""
        beat = asyncio.create_task(self._beat_on())
        try:
            yield
        finally:
            beat.cancel()
            with suppress(asyncio.CancelledError):
                await beat
            try:
                await self._leave()
            except (redis.exceptions.RedisError, OSError) as error:
                log.warning("group %s: left without a word, leases run out: %s", self._group, error)

    async def _beat_on(self) -> None:
        while True:
            raise_if_cancelled()
            await asyncio.sleep(self._beat_s)
            try:
                if self._joined:
                    await self._members()
                    await self._renew()
            except (redis.exceptions.RedisError, OSError) as error:
                # The lease says how long this may go on; poll tells the caller.
                log.debug("group %s: heart beat missed: %s", self._group, error)

    async def _renew(self) -> None:
        ours = list(self.held.items())
        asked_at = time.monotonic()
        replies = await self._lease([partition for partition, _ in ours], take=False)
        lost: dict[int, Held] = {}
        for (partition, held), (code, fence, _) in zip(ours, replies, strict=True):
            if code == b"OWNED" and int(fence) == held.fence:
                held.until = asked_at + self._lease_ms / 1000
            else:
                lost[partition] = held
        self.drop(lost)

    async def balance(self) -> None:
        """Gives up what is too much, and takes what is free, up to the own share."""
        members = await self._members()
        if not self._joined:
            await client.notify(self._valkey, self._group)
            self._joined = True
        # Each time, since a lost log forgets it.
        await cast(Any, self._valkey).sadd(scripts.GROUPS_KEY, self._group)
        await self._renew()
        rank = members.index(self.token)
        share, more = divmod(self._partitions, len(members))
        quota = share + (rank < more)
        if len(self.held) > quota:
            await self._give_up(sorted(self.held)[quota:])
        # Members begin at different places, so that they seldom want the same one.
        begin = rank * share
        for _ in range(TAKE_ROUNDS):
            if len(self.held) >= quota or not await self._take_free(begin, quota):
                break
        self.balance_at = time.monotonic() + self._beat_s

    async def _take_free(self, begin: int, quota: int) -> bool:
        """Takes free partitions up to the quota; returns whether there were any."""
        others = [
            (begin + step) % self._partitions
            for step in range(self._partitions)
            if (begin + step) % self._partitions not in self.held
        ]
        found = await self._lease(others, take=False)
        free = [p for p, (code, _, _) in zip(others, found, strict=True) if code != b"OTHER"]
        wanted = free[: quota - len(self.held)]
        asked_at = time.monotonic()
        replies = await self._lease(wanted, take=True)
        for partition, (code, fence, position) in zip(wanted, replies, strict=True):
            if code == b"OWNED":
                committed = positions.parse(position.decode())
                until = asked_at + self._lease_ms / 1000
                self.held[partition] = Held(int(fence), committed, committed, until)
        return bool(wanted)

    async def _give_up(self, partitions: Sequence[int]) -> None:
        calls: list[Call] = []
        for partition in partitions:
            held = self.held.pop(partition)
            key = scripts.group_key(partition, self._group)
            calls.append((scripts.RELEASE, (key,), (self.token, held.fence)))
        if calls:
            await client.run_all(self._valkey, calls)
            await client.notify(self._valkey, self._group)

    async def _leave(self) -> None:
        if not self._joined:
            return
        await cast(Any, self._valkey).zrem(scripts.members_key(self._group), self.token)
        await self._give_up(list(self.held))
        await client.notify(self._valkey, self._group)

    async def _members(self) -> list[str]:
        key = scripts.members_key(self._group)
        found = await client.run(self._valkey, scripts.MEMBERS, (key,), self.token, self._lease_ms)
        return [member.decode() for member in found]

    async def _lease(
        self, partitions: Sequence[int], *, take: bool
    ) -> list[tuple[bytes, bytes, bytes]]:
        if not partitions:
            return []
        calls: list[Call] = [
            (
                scripts.LEASE,
                (scripts.group_key(partition, self._group),),
                (self.token, self._lease_ms, int(take)),
            )
            for partition in partitions
        ]
        return await client.run_all(self._valkey, calls)

    def forget_expired(self, now: float) -> None:
        """Forgets what is no longer owned."""
        self.drop({p: held for p, held in self.held.items() if held.until <= now})

    def drop(self, lost: Mapping[int, Held]) -> None:
        """Forgets what was lost."""
        # Only what we speak of: it may have been taken again meanwhile, under a new fence.
        gone = [partition for partition, held in lost.items() if self.held.get(partition) is held]
        for partition in gone:
            del self.held[partition]
        if gone:
            log.warning("group %s: lost the leases of partitions %s", self._group, gone)

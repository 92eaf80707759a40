"""A member of a consumer group on the Valkey engine.

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
from eventlog.contract import LeaseLost, Record
from eventlog.outages import raise_if_cancelled
from eventlog.positions import StreamId

BEATS_PER_LEASE = 6
# Two members that start together take from the same free ones; each round settles most of them.
TAKE_ROUNDS = 3

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Held:
    """A partition that we own until `until` (our clock, counted from before Valkey was asked)."""

    fence: int
    read: StreamId
    committed: StreamId
    until: float
    paused_until: float = 0.0


class ValkeyConsumer:
    """The Valkey engine of `contract.Consumer`; made by `ValkeyStreams.consumer`."""

    def __init__(
        self, valkey: Valkey, group: str, member: str, *, partitions: int, lease_ms: int
    ) -> None:
        self._valkey = valkey
        self._group = group
        self._token = f"{member}/{uuid.uuid4().hex}"
        self._partitions = partitions
        self._lease_ms = lease_ms
        self._beat_s = lease_ms / 1000 / BEATS_PER_LEASE
        self._held: dict[int, _Held] = {}
        self._notice = "0-0"
        self._balance_at = 0.0
        self._joined = False

    async def poll(self, max_records: int, wait_ms: int) -> list[Record]:
        """See Consumer."""
        deadline = time.monotonic() + wait_ms / 1000
        while True:
            raise_if_cancelled()
            if time.monotonic() >= self._balance_at:
                await self._balance()
            now = time.monotonic()
            self._forget_expired(now)
            readable = [p for p, held in self._held.items() if held.paused_until <= now]
            wake_at = min(
                deadline,
                self._balance_at,
                *(held.paused_until for held in self._held.values() if held.paused_until > now),
            )
            block_ms = min(int((wake_at - now) * 1000), client.POLL_WAIT_MS_MAX)
            records = await self._read(readable, max_records, block_ms)
            if records or time.monotonic() >= deadline:
                return records
            if block_ms < 1:
                # Less than Valkey can wait for: let others run instead of asking in a circle.
                await asyncio.sleep(0.001)

    async def commit(self, partition: int, position: str) -> None:
        """See Consumer."""
        held = self._held.get(partition)
        if held is None:
            raise LeaseLost(f"partition {partition} is not ours")
        done = await client.run(
            self._valkey,
            scripts.COMMIT,
            (scripts.group_key(partition, self._group),),
            self._token,
            held.fence,
            position,
        )
        if not done:
            self._drop({partition: held})
            raise LeaseLost(f"the lease of partition {partition} went to another")
        held.committed = positions.parse(position)

    def pause(self, partition: int, for_ms: int) -> None:
        """See Consumer."""
        held = self._held.get(partition)
        if held is not None:
            held.paused_until = time.monotonic() + for_ms / 1000
            held.read = held.committed

    def owned(self) -> Mapping[int, int]:
        """See Consumer."""
        self._forget_expired(time.monotonic())
        return {partition: held.fence for partition, held in self._held.items()}

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
        ours = list(self._held.items())
        asked_at = time.monotonic()
        replies = await self._lease([partition for partition, _ in ours], take=False)
        lost: dict[int, _Held] = {}
        for (partition, held), (code, fence, _) in zip(ours, replies, strict=True):
            if code == b"OWNED" and int(fence) == held.fence:
                held.until = asked_at + self._lease_ms / 1000
            else:
                lost[partition] = held
        self._drop(lost)

    async def _balance(self) -> None:
        members = await self._members()
        if not self._joined:
            await client.notify(self._valkey, self._group)
            self._joined = True
        # Each time, since a lost log forgets it.
        await cast(Any, self._valkey).sadd(scripts.GROUPS_KEY, self._group)
        await self._renew()
        rank = members.index(self._token)
        share, more = divmod(self._partitions, len(members))
        quota = share + (rank < more)
        if len(self._held) > quota:
            await self._give_up(sorted(self._held)[quota:])
        # Members begin at different places, so that they seldom want the same one.
        begin = rank * share
        for _ in range(TAKE_ROUNDS):
            if len(self._held) >= quota or not await self._take_free(begin, quota):
                break
        self._balance_at = time.monotonic() + self._beat_s

    async def _take_free(self, begin: int, quota: int) -> bool:
        """Takes free partitions up to the quota; returns whether there were any."""
        others = [
            (begin + step) % self._partitions
            for step in range(self._partitions)
            if (begin + step) % self._partitions not in self._held
        ]
        found = await self._lease(others, take=False)
        free = [p for p, (code, _, _) in zip(others, found, strict=True) if code != b"OTHER"]
        wanted = free[: quota - len(self._held)]
        asked_at = time.monotonic()
        replies = await self._lease(wanted, take=True)
        for partition, (code, fence, position) in zip(wanted, replies, strict=True):
            if code == b"OWNED":
                committed = positions.parse(position.decode())
                until = asked_at + self._lease_ms / 1000
                self._held[partition] = _Held(int(fence), committed, committed, until)
        return bool(wanted)

    async def _give_up(self, partitions: Sequence[int]) -> None:
        calls: list[Call] = []
        for partition in partitions:
            held = self._held.pop(partition)
            key = scripts.group_key(partition, self._group)
            calls.append((scripts.RELEASE, (key,), (self._token, held.fence)))
        if calls:
            await client.run_all(self._valkey, calls)
            await client.notify(self._valkey, self._group)

    async def _leave(self) -> None:
        if not self._joined:
            return
        await cast(Any, self._valkey).zrem(scripts.members_key(self._group), self._token)
        await self._give_up(list(self._held))
        await client.notify(self._valkey, self._group)

    async def _read(self, readable: list[int], max_records: int, block_ms: int) -> list[Record]:
        names = {scripts.stream_key(partition): partition for partition in readable}
        asked = {partition: self._held[partition] for partition in readable}
        begin: dict[str, str] = {
            name: positions.render(asked[partition].read) for name, partition in names.items()
        }
        begin[scripts.notice_key(self._group)] = self._notice
        # Valkey counts by stream. An equal part for each keeps a busy one from crowding out others.
        count = max(1, -(-max_records // max(1, len(readable))))
        reply = cast(
            list[tuple[bytes, list[tuple[bytes, dict[bytes, bytes]]]]],
            await cast(Any, self._valkey).xread(
                begin, count=count, block=block_ms if block_ms > 0 else None
            ),
        )
        now = time.monotonic()
        records: list[Record] = []
        reached: list[tuple[_Held, StreamId]] = []
        for name, entries in reply:
            partition = names.get(name.decode())
            if partition is None:
                self._notice = entries[-1][0].decode()
                self._balance_at = 0.0
                continue
            held = self._held.get(partition)
            # Lost, or lost and taken again, while we waited.
            if held is None or held is not asked[partition] or held.until <= now:
                continue
            at = held.read
            for stream_id, fields in entries[: max_records - len(records)]:
                found = positions.parse(stream_id.decode())
                if not positions.follows_without_hole(at, found):
                    await self._report_hole(partition, at, found)
                at = found
                records.append(_record(partition, held.fence, stream_id, fields))
            reached.append((held, at))
        # Last, with no await before the return: a poll that fails or is cancelled skips nothing.
        for held, at in reached:
            held.read = at
        return records

    async def _report_hole(self, partition: int, before: StreamId, found: StreamId) -> None:
        log.error(
            "group %s missed records of partition %d between %s and %s: the log was trimmed or"
            " deleted; the relay is asked to send what the outbox still has",
            self._group,
            partition,
            positions.render(before),
            positions.render(found),
        )
        key = scripts.head_key(partition)
        epoch = await cast(Any, self._valkey).hget(key, "epoch")
        # A hole in what was before the last refill is filled already.
        if epoch is not None and int(epoch) == found[0]:
            await cast(Any, self._valkey).hset(key, "refill", "1")

    async def _members(self) -> list[str]:
        key = scripts.members_key(self._group)
        found = await client.run(self._valkey, scripts.MEMBERS, (key,), self._token, self._lease_ms)
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
                (self._token, self._lease_ms, int(take)),
            )
            for partition in partitions
        ]
        return await client.run_all(self._valkey, calls)

    def _forget_expired(self, now: float) -> None:
        self._drop({p: held for p, held in self._held.items() if held.until <= now})

    def _drop(self, lost: Mapping[int, _Held]) -> None:
        # Only what we speak of: it may have been taken again meanwhile, under a new fence.
        gone = [partition for partition, held in lost.items() if self._held.get(partition) is held]
        for partition in gone:
            del self._held[partition]
        if gone:
            log.warning("group %s: lost the leases of partitions %s", self._group, gone)


def _record(partition: int, fence: int, stream_id: bytes, fields: dict[bytes, bytes]) -> Record:
    return Record(
        partition,
        stream_id.decode(),
        int(fields[scripts.FIELD_KEY]),
        fields[scripts.FIELD_PAYLOAD],
        fence,
    )

"""A member of a consumer group on the Valkey engine: reads what it owns, and commits."""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, cast

from eventlog import client, positions, scripts
from eventlog.client import Call, Valkey
from eventlog.contract import Record
from eventlog.outages import raise_if_cancelled
from eventlog.positions import StreamId
from eventlog.valkey_leases import Held, Leases

log = logging.getLogger(__name__)


class ValkeyConsumer:
    """The Valkey engine of `contract.Consumer`; made by `ValkeyStreams.consumer`."""

    def __init__(
        self, valkey: Valkey, group: str, member: str, *, partitions: int, lease_ms: int
    ) -> None:
        self._valkey = valkey
        self._group = group
        self._leases = Leases(valkey, group, member, partitions=partitions, lease_ms=lease_ms)
        self._notice = "0-0"

    async def poll(self, max_records: int, wait_ms: int) -> list[Record]:
        """See Consumer."""
        deadline = time.monotonic() + wait_ms / 1000
        while True:
            raise_if_cancelled()
            if time.monotonic() >= self._leases.balance_at:
                await self._leases.balance()
            now = time.monotonic()
            self._leases.forget_expired(now)
            readable = [p for p, held in self._leases.held.items() if held.paused_until <= now]
            wake_at = min(
                deadline,
                self._leases.balance_at,
                *(
                    held.paused_until
                    for held in self._leases.held.values()
                    if held.paused_until > now
                ),
            )
            block_ms = min(int((wake_at - now) * 1000), client.POLL_WAIT_MS_MAX)
            records = await self._read(readable, max_records, block_ms)
            if records or time.monotonic() >= deadline:
                return records
            if block_ms < 1:
                # Less than Valkey can wait for: let others run instead of asking in a circle.
                await asyncio.sleep(0.001)

    async def commit(self, at: Mapping[int, str]) -> Sequence[int]:
        """See Consumer."""
        ours = {p: held for p, held in self._leases.held.items() if p in at}
        calls: list[Call] = [
            (
                scripts.COMMIT,
                (scripts.group_key(partition, self._group),),
                (self._leases.token, held.fence, at[partition]),
            )
            for partition, held in ours.items()
        ]
        replies = await client.run_all(self._valkey, calls)
        done = {partition for partition, reply in zip(ours, replies, strict=True) if reply}
        for partition in done:
            ours[partition].committed = positions.parse(at[partition])
        self._leases.drop({p: held for p, held in ours.items() if p not in done})
        return [partition for partition in at if partition not in done]

    def pause(self, partition: int, for_ms: int) -> None:
        """See Consumer."""
        held = self._leases.held.get(partition)
        if held is not None:
            held.paused_until = time.monotonic() + for_ms / 1000
            held.read = held.committed

    def owned(self) -> Mapping[int, int]:
        """See Consumer."""
        self._leases.forget_expired(time.monotonic())
        return {partition: held.fence for partition, held in self._leases.held.items()}

    def beating(self) -> AbstractAsyncContextManager[None]:
        """Beats the heart inside; see Leases."""
        return self._leases.beating()

    async def _read(self, readable: list[int], max_records: int, block_ms: int) -> list[Record]:
        names = {scripts.stream_key(partition): partition for partition in readable}
        asked = {partition: self._leases.held[partition] for partition in readable}
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
        reached: list[tuple[Held, StreamId]] = []
        for name, entries in reply:
            partition = names.get(name.decode())
            if partition is None:
                self._notice = entries[-1][0].decode()
                self._leases.balance_at = 0.0
                continue
            held = self._leases.held.get(partition)
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


def _record(partition: int, fence: int, stream_id: bytes, fields: dict[bytes, bytes]) -> Record:
    return Record(
        partition,
        stream_id.decode(),
        int(fields[scripts.FIELD_KEY]),
        fields[scripts.FIELD_PAYLOAD],
        fence,
    )

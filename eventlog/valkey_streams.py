"""The event log on one Valkey: a stream per partition (`scripts.py` has keys and scripts).

Durability is Valkey's append-only file, synced each second: a crash may lose the last second. The
writer notices by the counts in its `tail` and starts the log over, so nothing is lost for good.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

from eventlog import client, scripts
from eventlog.client import Call, Valkey
from eventlog.contract import EventLogError, Fenced, LogLost, Outgoing, RecordsMissed, partition_of
from eventlog.positions import StreamId, parse
from eventlog.valkey_consumer import ValkeyConsumer
from eventlog.valkey_reader import ValkeyReader
from mesh.settings import Settings

# A delayed earlier try can slip in between two appends only as often as there were tries.
APPEND_TRIES_MAX = 5


@dataclass(slots=True)
class _Head:
    epoch: int = 0
    count: int = 0


class ValkeyStreams:
    """The Valkey engine of `contract.EventLog`. Constructing it does no I/O."""

    def __init__(self, valkey: Valkey, settings: Settings) -> None:
        self._valkey = valkey
        self._settings = settings
        self._heads: list[_Head] | None = None

    @property
    def partitions(self) -> int:
        """See EventLog."""
        return self._settings.eventlog_partitions

    @property
    def tail(self) -> str:
        """See EventLog: epoch-count of each partition."""
        return ",".join(f"{head.epoch}-{head.count}" for head in self._heads or ())

    async def claim(self, *, fence: int, tail: str) -> None:
        """See EventLog."""
        found = await self._take_heads(fence, start_over=False)
        known = [_Head(*parse(part)) for part in tail.split(",") if part]
        if len(known) != self.partitions:
            raise LogLost("the writer knows of no log with so many partitions")
        for partition, head in enumerate(known):
            _check_reach(partition, found[partition], head)
        self._heads = found

    async def start_over(self, *, fence: int) -> None:
        """See EventLog."""
        self._heads = await self._take_heads(fence, start_over=True)

    async def append(self, records: Sequence[Outgoing], *, fence: int) -> None:
        """See EventLog. One round trip for all partitions, one atomic call for each."""
        if self._heads is None:
            await self._adopt(fence)
        waiting: dict[int, list[str | bytes | int]] = {}
        for record in records:
            partition = partition_of(record.key, self.partitions)
            waiting.setdefault(partition, []).extend((record.key, record.payload))
        for _ in range(APPEND_TRIES_MAX):
            waiting = await self._append_once(waiting, fence)
            if not waiting:
                return
        raise EventLogError("another writer appends under our fence")

    async def check(self) -> None:
        """See EventLog."""
        pipeline = cast(Any, self._valkey.pipeline(transaction=False))
        for partition in range(self.partitions):
            pipeline.hmget(scripts.head_key(partition), "epoch", "n", "refill")
        known = list(self._heads or ())
        found = await pipeline.execute()
        for partition, (head, (epoch, count, _)) in enumerate(zip(known, found, strict=False)):
            _check_reach(partition, _Head(int(epoch or 0), int(count or 0)), head)
        if any(refill for _, _, refill in found):
            raise RecordsMissed("a consumer met a hole")

    @asynccontextmanager
    async def consumer(self, group: str, member: str) -> AsyncGenerator[ValkeyConsumer]:
        """See EventLog."""
        consumer = ValkeyConsumer(
            self._valkey,
            client.check_group(group),
            member,
            partitions=self.partitions,
            lease_ms=self._settings.lease_ms,
        )
        async with consumer.beating():
            yield consumer

    def reader(self) -> ValkeyReader:
        """See EventLog."""
        return ValkeyReader(self._valkey, self.partitions)

    async def rewind(self, group: str) -> None:
        """See EventLog."""
        client.check_group(group)
        calls: list[Call] = [
            (scripts.REWIND, (scripts.group_key(partition, group),), ())
            for partition in range(self.partitions)
        ]
        await client.run_all(self._valkey, calls)
        await client.notify(self._valkey, group)

    async def lag(self, group: str) -> dict[int, int]:
        """See EventLog."""
        client.check_group(group)
        pipeline = cast(Any, self._valkey.pipeline(transaction=False))
        for partition in range(self.partitions):
            pipeline.hmget(scripts.head_key(partition), "epoch", "n")
            pipeline.hget(scripts.group_key(partition, group), "position")
            pipeline.xrevrange(scripts.stream_key(partition), count=1)
            pipeline.xlen(scripts.stream_key(partition))
        replies = await pipeline.execute()
        lags: dict[int, int] = {}
        for partition in range(self.partitions):
            head, position, newest, length = replies[4 * partition : 4 * partition + 4]
            lags[partition] = _behind(
                (int(head[0] or 0), int(head[1] or 0)),
                parse(position.decode()) if position else (0, 0),
                parse(newest[0][0].decode()) if newest else (0, 0),
                int(length),
            )
        return lags

    async def backlog(self) -> int:
        """See EventLog."""
        valkey = cast(Any, self._valkey)
        highest = 0
        for name in await valkey.smembers(scripts.GROUPS_KEY):
            group = name.decode()
            if await valkey.exists(scripts.members_key(group)):
                highest = max(highest, *(await self.lag(group)).values())
        return highest

    async def _adopt(self, fence: int) -> None:
        # Where nothing was ever written, a first epoch begins.
        found = await self._take_heads(fence, start_over=False)
        if any(head.epoch == 0 for head in found):
            found = await self._take_heads(fence, start_over=True)
        self._heads = found

    async def _take_heads(self, fence: int, *, start_over: bool) -> list[_Head]:
        calls: list[Call] = [
            (scripts.CLAIM, (scripts.head_key(partition),), (fence, int(start_over)))
            for partition in range(self.partitions)
        ]
        replies = await client.run_all(self._valkey, calls)
        if any(code == b"FENCED" for code, _, _ in replies):
            raise Fenced("a writer with a higher fence has taken over")
        return [_Head(int(epoch), int(count)) for _, epoch, count in replies]

    async def _append_once(
        self, waiting: dict[int, list[str | bytes | int]], fence: int
    ) -> dict[int, list[str | bytes | int]]:
        """Returns what is to be tried again, behind what slipped in."""
        assert self._heads is not None
        retention = self._settings.eventlog_retention_records
        calls: list[Call] = []
        for partition, pairs in waiting.items():
            head = self._heads[partition]
            keys = (scripts.stream_key(partition), scripts.head_key(partition))
            calls.append((scripts.APPEND, keys, (head.epoch, fence, head.count, retention, *pairs)))
        # Or a consumer that waits would wake for the first partition, and again for the others.
        replies = await client.run_all(self._valkey, calls, seen_at_once=len(calls) > 1)
        again: dict[int, list[str | bytes | int]] = {}
        codes: set[bytes] = set()
        for (partition, pairs), (code, count) in zip(waiting.items(), replies, strict=True):
            codes.add(code)
            if code in (b"OK", b"MOVED"):
                self._heads[partition].count = int(count)
            if code == b"MOVED":
                again[partition] = pairs
        if b"FENCED" in codes:
            raise Fenced("a writer with a higher fence has taken over")
        if b"LOST" in codes:
            raise LogLost("the log holds less than was appended")
        return again


@asynccontextmanager
async def open_log(settings: Settings) -> AsyncGenerator[ValkeyStreams]:
    """Opens the event log that the settings name; connects on first use."""
    async with client.connect(settings) as valkey:
        yield ValkeyStreams(valkey, settings)


def _check_reach(partition: int, found: _Head, known: _Head) -> None:
    if found.epoch != known.epoch or found.count < known.count:
        raise LogLost(
            f"partition {partition} is at {found.epoch}-{found.count},"
            f" its writer knows {known.epoch}-{known.count}"
        )


def _behind(head: StreamId, position: StreamId, newest: StreamId, length: int) -> int:
    if position >= newest:
        return 0
    if position[0] == head[0]:
        return head[1] - position[1]
    return length

"""Runs a consumer group's handler: poll, handle, commit.

What becomes of a batch:
 1. The handler takes all of it; then each partition is committed.
 2. An outage (`outages.is_outage`) is waited out: the same records again, for ever, less and less
    often. Records whose partition was lost meanwhile are left to their new owner. What takes longer
    than a minute comes again in halves.
 3. Any other error: record by record, in order. One that fails three times becomes a dead letter,
    and the rest goes on.
 4. Where the dead letters are full, the partition stops before that record and it is tried again
    and again, until it succeeds or someone makes room. Other partitions go on.
 5. A lost lease: what is in hand is dropped; the new owner begins behind the last commit.
"""

import asyncio
import logging
import os
import socket
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager

from eventlog import client
from eventlog.contract import Consumer, EventLog, Handler, Record
from eventlog.deadletters import DeadLetters, describe
from eventlog.group_metrics import GroupMetrics
from eventlog.outages import Backoff, is_outage, raise_if_cancelled
from eventlog.valkey_streams import ValkeyStreams
from mesh import traces
from mesh.metrics import Collector
from mesh.settings import Settings

POLL_WAIT_MS = 500
RECORD_TRIES_MAX = 3
# Three tries of one record hold its worker up by less than a third of a second.
RECORD_BACKOFF_FIRST_S = 0.05
# A handler bounds its own calls; this is for one that does not, or has more work than fits. Counts
# as an outage.
HANDLE_TIMEOUT_S = 60.0
FULL_PAUSE_MS = 5_000
REDRIVE_LOOK_S = 0.25

log = logging.getLogger(__name__)


class _TookTooLong(TimeoutError):
    """A handler was not done in time."""


class Runner:
    """One member of a group at work. `run` works until cancelled; `step` is one turn of it."""

    def __init__(
        self,
        event_log: EventLog,
        consumer: Consumer,
        handler: Handler,
        letters: DeadLetters,
        *,
        group: str,
        batch: int,
        metrics: GroupMetrics | None = None,
    ) -> None:
        self._event_log = event_log
        self._consumer = consumer
        self._handler = handler
        self._letters = letters
        self._group = group
        self._batch = batch
        self._redrive_look_at = 0.0
        self._metrics = metrics or GroupMetrics(group, event_log, letters)
        self.collectors: Sequence[Collector] = (
            self._metrics.collect,
            self._metrics.collect_standing,
        )
        """What this member tells of its group."""

    async def run(self) -> None:
        """Works until cancelled. Outages of the log itself are waited out, too; what is neither
        an outage nor the handler's error is raised."""
        backoff = Backoff()
        while True:
            raise_if_cancelled()
            try:
                await self.step(POLL_WAIT_MS)
                backoff.reset()
            except Exception as error:
                if not is_outage(error):
                    raise
                if backoff.fresh:
                    log.warning("group %s waits for the log: %s", self._group, describe(error))
                await backoff.wait()

    async def step(self, wait_ms: int = 0) -> int:
        """Polls once, handles and commits; returns how many records came. Raises outages of the
        log; nothing is skipped then."""
        await self._redrive()
        records = await self._consumer.poll(self._batch, wait_ms)
        if not records:
            return 0
        try:
            await self._work(records)
        except BaseException:
            # Poll has gone past these records; without a commit they are to come again.
            for partition in {record.partition for record in records}:
                self._consumer.pause(partition, 0)
            raise
        return len(records)

    def owned(self) -> Mapping[int, int]:
        """The partitions that this member owns now, each with its fence."""
        return self._consumer.owned()

    async def lag(self) -> Mapping[int, int]:
        """Records per partition that the whole group has not committed."""
        return await self._event_log.lag(self._group)

    async def _work(self, records: Sequence[Record]) -> None:
        try:
            await self._handle(records)
        except Exception as error:
            if is_outage(error):
                raise
            log.warning(
                "group %s: a batch of %d failed, now record by record: %s",
                self._group, len(records), describe(error),
            )  # fmt: skip
            for partition, run in _by_partition(records).items():
                await self._work_one_by_one(partition, run)
            return
        await self._commit(
            {partition: run[-1].position for partition, run in _by_partition(records).items()}
        )

    async def _work_one_by_one(self, partition: int, records: Sequence[Record]) -> None:
        done: str | None = None
        for record in records:
            if not await self._handled_or_buried(record):
                break
            done = record.position
        if done is not None:
            await self._commit({partition: done})
        if done != records[-1].position:
            self._consumer.pause(partition, FULL_PAUSE_MS)

    async def _handled_or_buried(self, record: Record) -> bool:
        """Whether the record is done with; False where it failed and the letters are full."""
        backoff = Backoff(RECORD_BACKOFF_FIRST_S)
        for tries in range(1, RECORD_TRIES_MAX + 1):
            try:
                await self._handle([record])
                return True
            except Exception as error:
                if is_outage(error):
                    raise
                if tries < RECORD_TRIES_MAX:
                    await backoff.wait()
                    continue
                where = f"partition {record.partition} at {record.position}"
                if await self._letters.bury(record, error, tries):
                    log.exception("group %s: dead letter, %s", self._group, where)
                    return True
                log.exception(
                    "group %s STOPS %s: the record fails and the dead letters are full;"
                    " re-drive or discard some (chirp deadletters)", self._group, where,
                )  # fmt: skip
        return False

    async def _handle(self, records: Sequence[Record]) -> None:
        backoff = Backoff()
        left: list[Record] = list(records)
        at_once = len(left)
        while left:
            raise_if_cancelled()
            try:
                await self._handle_in_time(left[:at_once])
                del left[:at_once]
                backoff.reset()
                continue
            except Exception as error:
                if not is_outage(error):
                    raise
                if isinstance(error, _TookTooLong):
                    # Perhaps no outage, but more work than fits: all of it would never be done.
                    at_once = max(1, at_once // 2)
                if backoff.fresh:
                    log.warning("group %s waits out: %s", self._group, describe(error))
            await backoff.wait()
            owned = self._consumer.owned()
            left = [record for record in left if owned.get(record.partition) == record.fence]

    async def _handle_in_time(self, records: Sequence[Record]) -> None:
        began_at = time.monotonic()
        step = traces.step(f"handle {self._group}", (each.payload for each in records))
        limit = asyncio.timeout(HANDLE_TIMEOUT_S)
        try:
            async with limit:
                await self._handler.handle(records)
        except TimeoutError as error:
            if limit.expired():
                raise _TookTooLong(f"not done within {HANDLE_TIMEOUT_S:g} s") from error
            raise
        finally:
            if step is not None:
                step.end()
        self._metrics.observe(records, time.monotonic() - began_at)

    async def _commit(self, positions: Mapping[int, str]) -> None:
        if lost := await self._consumer.commit(positions):
            log.info("group %s: the new owner of %s repeats some records", self._group, lost)

    async def _redrive(self) -> None:
        if time.monotonic() < self._redrive_look_at:
            return
        self._redrive_look_at = time.monotonic() + REDRIVE_LOOK_S
        owned = self._consumer.owned()
        for letter in await self._letters.take_redrives(owned):
            fence = owned[letter.partition]
            record = Record(letter.partition, letter.position, letter.key, letter.payload, fence)
            try:
                await self._handler.handle([record])
            except Exception as error:  # noqa: BLE001 - whatever it is, it is kept and shown
                await self._letters.keep(letter.failed_again(error))
            else:
                await self._letters.discard([letter.id])


@asynccontextmanager
async def open_runner(
    settings: Settings,
    group: str,
    handler: Handler,
    *,
    member: str | None = None,
    batch: int | None = None,
    metrics: GroupMetrics | None = None,
) -> AsyncGenerator[Runner]:
    """Joins a group; on leaving, hands its partitions over. Connects at the first step, so a log
    that is away at start is waited for by `run`. Counts in `metrics`, where the process tells them
    also while it is no member."""
    async with client.connect(settings) as valkey:
        event_log = ValkeyStreams(valkey, settings)
        letters = DeadLetters(valkey, group, settings.deadletters_max)
        name = member or f"{socket.gethostname()}:{os.getpid()}"
        async with event_log.consumer(group, name) as consumer:
            yield Runner(
                event_log, consumer, handler, letters,
                group=group, batch=batch or settings.consumer_batch, metrics=metrics,
            )  # fmt: skip


def _by_partition(records: Sequence[Record]) -> dict[int, list[Record]]:
    runs: dict[int, list[Record]] = {}
    for record in records:
        runs.setdefault(record.partition, []).append(record)
    return runs

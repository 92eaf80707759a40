"""The outbox relay: moves committed events from PostgreSQL to the event log, at least once, in the
order of the outbox ids of each key, which is the order of the commits.

 1. One relay leads: it holds an advisory lock on the one connection that it works on. When that
    dies, so does the lock, and a standby takes over.
 2. It takes a fence from PostgreSQL and claims the log with it. From then on an older relay that
    wakes up can neither append nor mark.
 3. Again and again: the first unsent rows by id are appended, then marked as sent, together with
    how far the log reaches now. Dying between the two repeats a stretch, and loses nothing.
 4. When the log does not reach as far as was marked, it lost records: all rows of the last
    `outbox_keep_hours` are marked unsent, the log starts over, and they are sent again by id.
    Nothing is sent before the last is unmarked, so that no new event overtakes an old one. Those
    rows go no faster than the consumers read.
 5. Each event is stamped with its outbox id, and with an id up to which everything was sent before
    it (`Settled`): so readers know an event that comes again, also in a log that was filled anew.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from chirp.v1 import events_pb2

from eventlog.contract import EventLog, Fenced, LogLost, Outgoing, RecordsMissed
from eventlog.outages import Backoff, is_outage, raise_if_cancelled
from eventlog.valkey_streams import open_log
from mesh import catalogue, server, traces
from mesh.metrics import Sample
from mesh.settings import Settings
from storage import database, outbox, purges
from storage.database import Connection, Pool

ROWS_PER_APPEND = 1_000  # about 25 ms of work from PostgreSQL to the mark
ROWS_PER_UNMARK = 10_000
ROWS_PER_DELETE = 1_000
STANDBY_REST_S = 0.25
# Between two looks, however many wake the relay: a look costs as much for one row as for ten.
LOOK_REST_S = 0.006
# Behind a look that brought many, there are as many in each: those of three or four looks go
# together, also through fan-out, and the cores that everything shares have more left for posting.
MANY_ROWS = 3
REST_BEHIND_MANY_S = 0.02
CHECK_EVERY_S = 1.0
TIDY_EVERY_S = 10.0
# The longer the outbox stays empty, the longer the rest, up to this multiple of the setting.
REST_GROWTH, REST_GROWTH_MAX = 1.1, 2.0
# A consumer that is slower than the log for good would have it filled again without end.
REFILL_FOR_CONSUMER_EVERY_S = 600.0
# A refill waits for its readers, but one that stands still does not keep events from the others.
REFILL_REST_S = 0.02
REFILL_HOLD_MAX_S = 60.0

log = logging.getLogger(__name__)


class Relay:
    """One relay: `run` stands by, leads and goes on for ever; `take_over` and `step` are its
    parts, for one that is stepped by hand."""

    def __init__(self, pool: Pool, event_log: EventLog, settings: Settings) -> None:
        self._pool = pool
        self._event_log = event_log
        self._settings = settings
        self._fence = 0
        self._refill_to = 0
        self._rows_max = min(ROWS_PER_APPEND, settings.eventlog_retention_records // 4)
        self._refilled_for_consumer_at = float("-inf")
        self._settled = Settled()
        self._sent = 0
        self._leads = False
        self._sent_to = 0
        """Every row up to this id is in the log, or never was nor will be."""

    async def run(self) -> None:
        """Works until cancelled. Waits while PostgreSQL or the log is away, or another leads."""
        backoff = Backoff()
        while True:
            raise_if_cancelled()
            try:
                async with self._pool.connection() as connection:
                    if not await outbox.try_lead(connection):
                        await asyncio.sleep(STANDBY_REST_S)
                        continue
                    try:
                        await self._check_partitions()
                        await self.take_over(connection)
                        log.info("this relay leads, fence %d", self._fence)
                        self._leads = True
                        await self._lead(connection, backoff)
                    finally:
                        self._leads = False
                        await outbox.stop_leading(connection)
            except Fenced as error:
                log.warning("stands by again: %s", error)
            except Exception as error:
                if not is_outage(error):
                    raise
                if backoff.fresh:
                    log.warning("the relay waits: %s: %s", type(error).__name__, error)
            await backoff.wait()

    async def collect(self) -> list[Sample]:
        """Returns what it did, and what waits for whoever leads."""
        return [
            Sample(catalogue.OUTBOX_SENT, self._sent),
            Sample(catalogue.RELAY_LEADS, int(self._leads)),
            *await database.collect(self._pool),
        ]

    async def collect_unsent(self) -> list[Sample]:
        """Asks PostgreSQL."""
        async with self._pool.connection() as connection:
            return [Sample(catalogue.OUTBOX_UNSENT, await outbox.count_unsent(connection))]

    async def take_over(self, connection: Connection) -> None:
        """Makes this the relay that may append and mark; fills a log that lost records again."""
        lead = await outbox.take_fence(connection)
        self._sent_to = 0
        self._fence = lead.fence
        self._refill_to = lead.refill_to
        if lead.refilling:
            await self._refill(connection)
            return
        try:
            await self._event_log.claim(fence=lead.fence, tail=lead.tail)
        except LogLost as error:
            log.warning("the event log lost records, it starts over: %s", error)
            await self._refill(connection)

    async def step(self, connection: Connection) -> int:
        """Sends the first unsent rows, up to 1,000; returns how many. Raises Fenced."""
        settled = self._settled.up_to
        rows = await outbox.fetch_unsent(connection, self._rows_max)
        if not rows:
            self._sent_to = settled
            return 0
        if rows[0].id <= self._refill_to:
            await self._wait_for_readers()
        step = traces.step("outbox relay", (row.payload for row in rows))
        try:
            records = [self._stamped(row, step) for row in rows]
            await self._event_log.append(records, fence=self._fence)
        except LogLost as error:
            log.warning("the event log lost records, it starts over: %s", error)
            await self._refill(connection)
            return 0
        finally:
            if step is not None:
                step.end()
        marked = await outbox.mark_sent(
            connection, [row.id for row in rows], fence=self._fence, tail=self._event_log.tail
        )
        if not marked:
            raise Fenced("another relay took a higher fence")
        self._sent += len(rows)
        if len(rows) < self._rows_max:
            self._sent_to = settled
        return len(rows)

    async def settle(self, connection: Connection) -> None:
        """Looks up to which id no transaction can add a row any more; what is sent when all of that
        is sent is stamped with it."""
        await self._settled.look(connection)

    async def check(self, connection: Connection) -> None:
        """Asks the log whether it still holds everything; fills it again where it does not."""
        try:
            await self._event_log.check()
        except RecordsMissed as error:
            now = time.monotonic()
            if now - self._refilled_for_consumer_at < REFILL_FOR_CONSUMER_EVERY_S:
                return
            self._refilled_for_consumer_at = now
            log.warning("the event log starts over for a consumer that fell behind: %s", error)
            await self._refill(connection)
        except LogLost as error:
            log.warning("the event log lost records, it starts over: %s", error)
            await self._refill(connection)

    async def tidy(self, connection: Connection) -> bool:
        """Deletes one bounded step of what was sent long ago; returns whether there is more."""
        deleted = await outbox.delete_sent(
            connection, keep_hours=self._settings.outbox_keep_hours, limit=ROWS_PER_DELETE
        )
        if deleted == ROWS_PER_DELETE:
            return True
        await purges.delete_old(self._pool)
        return False

    async def _check_partitions(self) -> None:
        # One key's records in two partitions would lose their order.
        asked = str(self._event_log.partitions)
        fixed = await database.fix_fact(self._pool, "eventlog_partitions", asked)
        if fixed != asked:
            raise ValueError(
                f"CHIRP_EVENTLOG_PARTITIONS is {asked}, but this database began with {fixed}"
            )

    async def _lead(self, connection: Connection, backoff: Backoff) -> None:
        poll_s = self._settings.outbox_poll_ms / 1000
        rest_s = poll_s
        await outbox.listen(connection)
        check_at = tidy_at = 0.0
        while True:
            raise_if_cancelled()
            sent = await self.step(connection)
            backoff.reset()
            now = time.monotonic()
            if now >= check_at:
                await self.settle(connection)
                await self.check(connection)
                check_at = now + CHECK_EVERY_S
            if now >= tidy_at:
                more = await self.tidy(connection)
                tidy_at = now + (0 if more else TIDY_EVERY_S)
            rest_s = poll_s if sent else min(rest_s * REST_GROWTH, poll_s * REST_GROWTH_MAX)
            is_full = sent == self._rows_max
            look_rest_s = REST_BEHIND_MANY_S if sent > MANY_ROWS else LOOK_REST_S
            await asyncio.sleep(0 if is_full else look_rest_s)
            await outbox.rest(connection, 0 if is_full else rest_s - LOOK_REST_S)

    async def _wait_for_readers(self) -> None:
        # A refill is faster than its readers: unpaced, it would trim what they have yet to read.
        deadline = time.monotonic() + REFILL_HOLD_MAX_S
        while await self._event_log.backlog() > self._settings.eventlog_retention_records // 2:
            if time.monotonic() > deadline:
                log.error("the refill goes on without waiting: a consumer group stands still")
                self._refill_to = 0
                return
            await asyncio.sleep(REFILL_REST_S)

    async def _refill(self, connection: Connection) -> None:
        self._sent_to = 0
        self._fence = (await outbox.take_fence(connection)).fence
        if not await outbox.begin_refill(connection, fence=self._fence):
            raise Fenced("another relay took a higher fence")
        rows = 0
        while unmarked := await outbox.unmark(
            connection,
            fence=self._fence,
            keep_hours=self._settings.outbox_keep_hours,
            limit=ROWS_PER_UNMARK,
        ):
            rows += unmarked
        await self._event_log.start_over(fence=self._fence)
        newest = await outbox.end_unmarking(
            connection, fence=self._fence, tail=self._event_log.tail
        )
        if newest is None:
            raise Fenced("another relay took a higher fence")
        self._refill_to = newest
        log.info("the event log starts over; %d events of the outbox are sent again", rows)

    def _stamped(self, row: outbox.Unsent, step: traces.Step | None) -> Outgoing:
        parent = traces.of_event(row.payload) if step is not None else ""
        stamp = events_pb2.Event(
            sequence=row.id,
            settled=self._sent_to,
            sent_again_to=self._refill_to if row.id <= self._refill_to else 0,
            trace=step.behind(parent) if step is not None and parent else "",
        )
        # Two serialised messages, one behind the other, are one message with the fields of both.
        return Outgoing(row.partition_key, row.payload + stamp.SerializeToString())


class Settled:
    """Up to which outbox id every row is committed or never will be.

    1. Note the last id that was given out, then a transaction id above all that are running.
    2. When no transaction below that one runs any more, all that could hold one of those ids have
       ended. (Each has its transaction id before it takes an outbox id: it locks a row first.)
    """

    def __init__(self) -> None:
        self.up_to = 0
        self._noted: tuple[int, int] | None = None

    async def look(self, connection: Connection) -> None:
        """Asks PostgreSQL; every second call may bring `up_to` forward."""
        last_id = await outbox.fetch_last_id(connection)
        newest, oldest_running = await outbox.fetch_horizon(connection)
        if self._noted is not None and oldest_running >= self._noted[1]:
            self.up_to = max(self.up_to, self._noted[0])
            self._noted = None
        if self._noted is None:
            self._noted = last_id, newest


@asynccontextmanager
async def open_process(settings: Settings) -> AsyncGenerator[server.Process]:
    """Opens the relay's process."""
    async with (
        database.open_pool(settings, size_max=2) as pool,
        open_log(settings) as event_log,
    ):
        relay = Relay(pool, event_log, settings)
        yield server.Process(loops=[relay.run], collectors=[relay.collect, relay.collect_unsent])


if __name__ == "__main__":
    server.main("outbox_relay", open_process)

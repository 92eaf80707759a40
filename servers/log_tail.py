"""Follows the event log for one server: every event, as it comes, without a group.

What is seen of an event besides itself is what resume tokens are made of (domain/stream_token.py):
 * *positions*: how far each partition was read when it came;
 * *floors*: for each partition, a number up to which every event's sequence was seen. An event that
   comes again (the relay repeats a stretch, or fills a lost log anew) is known by its sequence: not
   above the floor, or one of the few above it that were seen.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from chirp.v1 import events_pb2

from eventlog import positions
from eventlog.contract import Reader, Record, RecordsMissed
from eventlog.outages import Backoff, is_outage, raise_if_cancelled

READ_MAX = 1_000
WAIT_MS = 1_000

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reach:
    """How far a log was read, and up to which sequence everything was seen, by partition."""

    positions: tuple[str, ...]
    floors: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """Records that were read at once: how far the log was read before them, and with them."""

    before: Reach
    behind: Reach


@dataclass(frozen=True, slots=True)
class Seen:
    """An event and where it was seen."""

    partition: int
    position: str
    floor_before: int
    """The floor of its partition without it: a sequence up to this one comes again."""
    event: events_pb2.Event
    batch: Batch

    def reach(self) -> Reach:
        """Returns how far the log was read with this event: records of a batch are taken one
        partition after the other."""
        before, behind, at = self.batch.before, self.batch.behind, self.partition
        floor = max(self.floor_before, self.event.settled)
        return Reach(
            (*behind.positions[:at], self.position, *before.positions[at + 1 :]),
            (*behind.floors[:at], floor, *before.floors[at + 1 :]),
        )


def take(records: list[Record], before: Reach) -> tuple[list[Seen], Reach]:
    """Returns what was seen in records that were read behind `before`, and how far that reaches."""
    at, floors = list(before.positions), list(before.floors)
    raw: list[tuple[Record, int, events_pb2.Event]] = []
    # Readers give each partition's records together; here also the partitions in their order.
    for record in sorted(records, key=lambda record: record.partition):
        event = events_pb2.Event.FromString(record.payload)
        raw.append((record, floors[record.partition], event))
        at[record.partition] = record.position
        floors[record.partition] = max(floors[record.partition], event.settled)
    behind = Reach(tuple(at), tuple(floors))
    batch = Batch(before, behind)
    seen = [Seen(one.partition, one.position, floor, event, batch) for one, floor, event in raw]
    return seen, behind


class LogTail:
    """Follows the log and tells its listeners, which must not block."""

    def __init__(self, reader: Reader, partitions: int, *, keep: int) -> None:
        self._reader = reader
        self._keep = keep
        self._reach = Reach(("",) * partitions, (0,) * partitions)
        self._listeners: list[tuple[Callable[[list[Seen]], None], Callable[[], None]]] = []
        self._gate: Callable[[], Awaitable[None]] | None = None
        self._ready = asyncio.Event()

    @property
    def reach(self) -> Reach:
        """How far the log was read and told."""
        return self._reach

    def listen(self, on_seen: Callable[[list[Seen]], None], on_missed: Callable[[], None]) -> None:
        """Registers who is told of events, and where some were missed for good."""
        self._listeners.append((on_seen, on_missed))

    def wait_for(self, gate: Callable[[], Awaitable[None]]) -> None:
        """Tells nobody of anything before `gate` has returned, each time."""
        self._gate = gate

    async def ready(self) -> None:
        """Waits until the log was read up to where it ended when this process began."""
        await self._ready.wait()

    async def run(self) -> None:
        """Follows until cancelled; waits while the log is away."""
        backoff = Backoff()
        begun = False
        ends: list[str] = []
        while True:
            raise_if_cancelled()
            try:
                if not begun:
                    ends = await self._begin()
                    begun = True
                await self._step(ends)
                backoff.reset()
            except RecordsMissed as error:
                log.error("the event log was read too slowly: %s", error)
                begun = False
                for _, on_missed in self._listeners:
                    on_missed()
            except Exception as error:
                if not is_outage(error):
                    raise
                if backoff.fresh:
                    log.warning("cannot follow the event log: %s", type(error).__name__)
                await backoff.wait()

    async def _begin(self) -> list[str]:
        begin = await self._reader.newest(self._keep)
        ends = await self._reader.newest(0)
        self._reach = Reach(tuple(begin), self._reach.floors)
        return ends

    async def _step(self, ends: list[str]) -> None:
        if not self._ready.is_set() and all(
            positions.order(at) >= positions.order(end)
            for at, end in zip(self._reach.positions, ends, strict=True)
        ):
            self._ready.set()
        records = await self._reader.read(self._reach.positions, READ_MAX, WAIT_MS)
        if not records:
            return
        if self._gate is not None:
            await self._gate()
        seen, behind = take(records, self._reach)
        for on_seen, _ in self._listeners:
            on_seen(seen)
        self._reach = behind

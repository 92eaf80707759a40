"""Follows the event log for one server: every event, as it comes, without a group.

What is seen of an event besides itself is what resume tokens are made of (domain/stream_token.py):
 * *positions*: how far each partition was read when it came;
 * *floors*: for each partition, a number up to which every event's sequence was seen. An event that
   comes again (the relay repeats a stretch, or fills a lost log anew) is known by its sequence: not
   above the floor, or one of the few above it that were seen.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
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
class Spot:
    """Where an event was seen."""

    partition: int
    position: str
    floor_before: int
    """The floor of its partition without it: a sequence up to this one comes again."""
    floor_behind: int
    batch: Batch

    def reach(self) -> Reach:
        """Returns how far the log was read with this event: records of a batch are taken one
        partition after the other."""
        before, behind, at = self.batch.before, self.batch.behind, self.partition
        return Reach(
            (*behind.positions[:at], self.position, *before.positions[at + 1 :]),
            (*behind.floors[:at], self.floor_behind, *before.floors[at + 1 :]),
        )


@dataclass(frozen=True, slots=True)
class Seen:
    """An event, and where it was seen."""

    spot: Spot
    event: events_pb2.Event


def take(records: Sequence[Record], before: Reach) -> tuple[list[Seen], Reach]:
    """Returns what was seen in records that were read behind `before`, and how far that reaches."""
    at, floors = list(before.positions), list(before.floors)
    found: list[tuple[Record, events_pb2.Event, int, int]] = []
    # Readers give each partition's records together; here also the partitions in their order.
    for record in sorted(records, key=lambda record: record.partition):
        event = events_pb2.Event.FromString(record.payload)
        floor = floors[record.partition]
        at[record.partition] = record.position
        floors[record.partition] = max(floor, event.settled)
        found.append((record, event, floor, floors[record.partition]))
    behind = Reach(tuple(at), tuple(floors))
    batch = Batch(before, behind)
    seen = [
        Seen(Spot(record.partition, record.position, floor_before, floor_behind, batch), event)
        for record, event, floor_before, floor_behind in found
    ]
    return seen, behind


class LogTail:
    """Follows the log and tells its listeners, which must not block."""

    def __init__(
        self,
        reader: Reader,
        partitions: int,
        *,
        keep: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._reader = reader
        self._keep = keep
        self._clock = clock
        self.at = 0
        """When what it has read so far was all there was, in seconds since 1970; no later than what
        it has not read yet."""
        self._reach = Reach(("",) * partitions, (0,) * partitions)
        self.sent_again_to = 0
        """Up to which sequence events may come again, while a lost log is filled again; else 0."""
        self._listeners: list[tuple[Callable[[list[Seen]], None], Callable[[], None]]] = []
        self._gate: Callable[[list[Seen]], Awaitable[None]] | None = None
        self._ready = asyncio.Event()

    @property
    def reach(self) -> Reach:
        """How far the log was read and told."""
        return self._reach

    def listen(self, on_seen: Callable[[list[Seen]], None], on_begin: Callable[[], None]) -> None:
        """Registers who is told of events, and where it begins: at start, and after it was so slow
        that it missed some, which nobody is told of."""
        self._listeners.append((on_seen, on_begin))

    def prepare(self, gate: Callable[[list[Seen]], Awaitable[None]]) -> None:
        """Has events handed to `gate` first; nobody is told of them before it has returned."""
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
        for _, on_begin in self._listeners:
            on_begin()
        return ends

    async def _step(self, ends: list[str]) -> None:
        if not self._ready.is_set() and self._reaches(ends):
            self._ready.set()
        began_at = int(self._clock())
        records = await self._reader.read(self._reach.positions, READ_MAX, WAIT_MS)
        if not records:
            self.at = began_at
            return
        seen, behind = take(records, self._reach)
        if self._gate is not None:
            await self._gate(seen)
        for on_seen, _ in self._listeners:
            on_seen(seen)
        self._reach = behind
        self.at = seen[-1].event.occurred_at.seconds
        self.sent_again_to = seen[-1].event.sent_again_to

    def _reaches(self, ends: list[str]) -> bool:
        pairs = [
            (positions.order(at), positions.order(end))
            for at, end in zip(self._reach.positions, ends, strict=True)
        ]
        # A count of 0: the log was started over, and has nothing there yet.
        return all(at >= end or end[1] == 0 for at, end in pairs)

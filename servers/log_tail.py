"""Follows the event log for one server: every event, as it comes, without a group.

What is seen of an event besides itself is what resume tokens are made of (domain/stream_token.py):
 * *positions*: how far each partition was read when it came;
 * *floors*: for each partition, a number up to which every event's sequence was seen. An event that
   comes again (the relay repeats a stretch, or fills a lost log anew) is known by its sequence: not
   above the floor, or one of the few above it that were seen.

How floors rise: an event says up to which sequence all were sent before it. In its own partition
they stand before it; in the others, they were read when all was read that was there afterwards.

While nobody attends, because no stream is open, it rests between reads: one read then brings what
would have been dozens. (At 2,700 posts a second that was 7 % of a core, and the log's work for it.)
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from chirp.v1 import events_pb2

from eventlog import positions
from eventlog.contract import Reader, Record, RecordsMissed
from eventlog.outages import Backoff, is_outage, raise_if_cancelled

READ_MAX = 1_000
WAIT_MS = 1_000
REST_S = 0.2

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
    settled: int
    """What the event itself says: up to this sequence all were sent before it, into this log."""
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
        Seen(Spot(record.partition, record.position, before_, behind_, event.settled, batch), event)
        for record, event, before_, behind_ in found
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
        self.settled = 0
        """Everything up to this sequence stands in the log as it is now, where it was read. Floors
        may be higher: what they tell of a log that was lost meanwhile may still come again."""
        self._epoch = 0
        self._said = 0
        self._listeners: list[tuple[Callable[[list[Seen]], None], Callable[[], None]]] = []
        self._gate: Callable[[list[Seen]], Awaitable[None]] | None = None
        self._ready = asyncio.Event()
        self._attending = 0
        self._attended = asyncio.Event()
        self._caught_up = asyncio.Event()
        """Not set from a rest until what came meanwhile was read, or cannot be."""
        self._caught_up.set()

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

    @contextmanager
    def attended(self) -> Generator[None]:
        """Has events told as they come, as long as it is held; else up to REST_S later."""
        self._attending += 1
        self._attended.set()
        try:
            yield
        finally:
            self._attending -= 1
            if not self._attending:
                self._attended.clear()

    async def ready(self) -> None:
        """Waits until everything was read that was in the log when this process began, and for who
        attends, what came while nobody did; that not while the log is away."""
        await self._ready.wait()
        await self._caught_up.wait()

    async def run(self) -> None:
        """Follows until cancelled; waits while the log is away."""
        backoff = Backoff()
        begun = False
        while True:
            raise_if_cancelled()
            try:
                if not begun:
                    await self._begin()
                    begun = True
                read_all = await self._step()
                backoff.reset()
                if read_all and not self._attending:
                    await self._rest()
            except RecordsMissed as error:
                log.error("the event log was read too slowly: %s", error)
                begun = False
            except Exception as error:
                if not is_outage(error):
                    raise
                self._caught_up.set()
                if backoff.fresh:
                    log.warning("cannot follow the event log: %s", type(error).__name__)
                await backoff.wait()

    async def _begin(self) -> None:
        begin = await self._reader.newest(self._keep)
        self._reach = Reach(tuple(begin), self._reach.floors)
        for _, on_begin in self._listeners:
            on_begin()

    async def _rest(self) -> None:
        self._caught_up.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(REST_S):
                await self._attended.wait()

    async def _step(self) -> bool:
        """Reads once; returns whether there was something, and all of it was read."""
        began_at = int(self._clock())
        wait_ms = WAIT_MS if self._ready.is_set() and self._caught_up.is_set() else 0
        records = await self._reader.read(self._reach.positions, READ_MAX, wait_ms)
        epoch, said = self._epoch, self._said
        if records:
            seen, behind = take(records, self._reach)
            if self._gate is not None:
                await self._gate(seen)
            for on_seen, _ in self._listeners:
                on_seen(seen)
            self._reach = behind
            self._note_settled(seen)
            self.at = seen[-1].event.occurred_at.seconds
            self.sent_again_to = seen[-1].event.sent_again_to
        else:
            self.at = began_at
        if len(records) >= READ_MAX // len(self._reach.positions):
            return False
        # What was said to be sent before this read was there, and nothing was left.
        self._ready.set()
        self._caught_up.set()
        self._raise_floors(said)
        if epoch == self._epoch:
            self.settled = max(self.settled, said)
        return bool(records)

    def _note_settled(self, seen: list[Seen]) -> None:
        for each in seen:
            epoch = positions.order(each.spot.position)[0]
            if epoch > self._epoch:
                # Started over: what was sent before is sent again, or gone.
                self._epoch, self._said, self.settled = epoch, 0, 0
            if epoch == self._epoch:
                self._said = max(self._said, each.spot.settled)

    def _raise_floors(self, settled: int) -> None:
        if settled > min(self._reach.floors):
            floors = tuple(max(floor, settled) for floor in self._reach.floors)
            self._reach = Reach(self._reach.positions, floors)

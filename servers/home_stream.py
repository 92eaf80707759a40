"""One home stream: what it is to be offered next, and how far it got.

It is *live* or it *catches up*.
 1. Live, it is offered what may be for it as the server sees it, in a bounded queue. When that is
    full, the queue is thrown away and the stream catches up.
 2. Catching up, it takes what is behind its reach from the server's memory of the log, or, where
    that does not reach back so far, from the log itself, a bounded piece at a time. When nothing is
    left, it is live: with no await between looking and being live, nothing falls between the two.
 3. Its reach is a position in each partition, so it can go on at another server, whose order of
    partitions is another one. While this server has not yet read as far, what lies before is known
    by its position; what comes again by its sequence (`log_tail.py`).
"""

import asyncio
from collections.abc import Iterable, Sequence

from domain import stream_token
from domain.ids import UserId
from domain.stream_token import DELIVERED_MAX, Delivered, Token
from eventlog import positions
from eventlog.contract import RecordsMissed
from eventlog.outages import Backoff, is_outage, raise_if_cancelled
from mesh import traces
from mesh.streams import RESYNC_REQUIRED, Ended
from servers.home_log import Base, Behind, Sighting, sighting_of
from servers.home_reach import OwnReach
from servers.home_source import Source
from servers.home_watches import Watch
from servers.log_tail import Reach, take

TAKE_MAX = 20  # presented together
READ_MAX = 1_000
LOST_LOOK_S = 0.25  # how often a stream looks whether a lost log is filled again


class HomeStream:
    """The state of one stream. Used by one task; `offer` is called by the server's tail."""

    # Thousands of them at a time: no dictionary for each, and nothing that an empty one needs not.
    __slots__ = (
        "_behind", "_busy", "_delivered", "_live", "_own", "_queue", "_read", "_resumes", "_since",
        "_source", "_waiting", "lagged",
    )  # fmt: skip

    def __init__(self, source: Source, token: Token | None) -> None:
        self._source = source
        self._queue: list[Sighting] = []
        self._waiting: asyncio.Future[None] | None = None
        self._live = False
        self._busy = False
        self.lagged = False
        """Whether its reader was too slow since this was last set to False."""
        self._behind: Behind = source.base
        self._own: OwnReach | None = None
        self._read: Base | None = None
        self._since = 0
        self._delivered: list[Delivered] = []
        if token is not None:
            self._own = OwnReach(Reach(token.positions, token.floors), token.at)
            self._behind = self._own
            self._since = token.since
            self._delivered = list(token.delivered)
        self._resumes = token is not None

    def begin(self) -> None:
        """Begins: now, or where its token stands."""
        if not self._resumes:
            self._behind = self._source.base
            # A log that is being filled again brings what is older than this stream.
            self._since = self._source.tail.sent_again_to
            self._live = True

    def fall_back(self) -> None:
        """Lets the stream catch up: the server has missed something of the log."""
        self._live = False
        self._queue.clear()
        self._wake()

    def offer(self, sighting: Sighting) -> None:
        """See home_watches.Stream."""
        if not self._live:
            return
        if len(self._queue) >= self._source.queue_max:
            self._live = False
            self.lagged = True
            self._queue.clear()
        else:
            self._queue.append(sighting)
        self._wake()

    async def take(self, watch: Watch) -> Sequence[Sighting]:
        """Returns what may be for this stream, in order, when there is any; all of it is to be
        passed, delivered or not, before the next call. Returns nothing where the stream has begun
        to lag. Raises Ended where something is missing for good."""
        self._busy = False
        while True:
            raise_if_cancelled()
            if self.lagged:
                return ()
            if not self._live:
                found = await self._catch_up(watch.authors)
            elif self._queue:
                found = self._queue[:TAKE_MAX]
                del self._queue[:TAKE_MAX]
            else:
                self._rest()
                self._waiting = asyncio.get_running_loop().create_future()
                await self._waiting
                continue
            if found:
                self._busy = True
                return found

    def is_repeated(self, sighting: Sighting) -> bool:
        """Whether the stream has got behind this before."""
        spot, own = sighting.spot, self._own
        floor = spot.floor_before
        if own is not None:
            if own.has_passed(spot.partition, spot.position):
                return True
            floor = own.floors[spot.partition]
        # Without a stamp (sequence 0) it is not known when it comes again.
        return sighting.sequence > 0 and (
            sighting.sequence <= max(floor, self._since)
            or Delivered(spot.partition, sighting.sequence) in self._delivered
        )

    def get_behind(self, sighting: Sighting, *, delivered: bool) -> None:
        """Passes one of what was taken, the first first."""
        if delivered:
            if sighting.trace:
                # The first stream of this server stands for thousands.
                traces.mark("home stream", sighting.trace)
                sighting.trace = ""
            self._delivered.append(Delivered(sighting.spot.partition, sighting.sequence))
        if self._own is None:
            self._behind = sighting
        else:
            self._own.get_behind(sighting)

    def token(self) -> str:
        """Returns the resume token that stands behind what was passed."""
        floors = self._behind.reach().floors
        self._delivered = [
            each for each in self._delivered if each.sequence > floors[each.partition]
        ][-DELIVERED_MAX:]
        own = stream_token.encode_own(since=self._since, delivered=self._delivered)
        return self._behind.text() + own

    def newest_token(self) -> str:
        """Returns the token of a heartbeat: a silent stream is as far as its server."""
        if self._live and not self._busy and not self._queue:
            self._rest()
        return self.token()

    def _wake(self) -> None:
        if self._waiting is not None:
            self._source.turns.wake(self._waiting)
            self._waiting = None

    def _rest(self) -> None:
        """Takes note that everything the server saw was passed."""
        base = self._source.base
        own = self._own
        if own is not None:
            if own.is_in_later_log(base.reach()):
                # It left the lost log before its end: what the server saw there comes again.
                return
            own.extend(base.reach().positions, base.at)
            own.raise_floors([self._source.tail.settled] * len(own.floors))
            if not own.equals(base.reach()):
                return
            self._own = None
        self._behind = base

    async def _catch_up(self, authors: Iterable[UserId]) -> Sequence[Sighting]:
        if self._own is None:
            self._own = OwnReach(self._behind.reach(), self._behind.at)
            self._behind = self._own
        own = self._own
        if self._read is not None:
            own.extend(self._read.reach().positions, self._read.at)
            own.raise_floors(self._read.reach().floors)
            self._read = None
        if self._source.log.covers(own.positions):
            found = self._source.log.newer(own.positions, set(authors))
            if not found:
                self._queue.clear()
                self._live = True
            return found[:TAKE_MAX]
        return await self._read_log(own, set(authors))

    async def _read_log(self, own: OwnReach, authors: set[UserId]) -> Sequence[Sighting]:
        backoff = Backoff()
        while True:
            raise_if_cancelled()
            begin = list(self._source.log.start)
            try:
                async with self._source.readers:
                    records = await self._source.reader.read(own.positions, READ_MAX, 0)
                break
            except RecordsMissed:
                raise Ended(RESYNC_REQUIRED) from None
            except Exception as error:
                if not is_outage(error):
                    raise
                await backoff.wait()
        if not records:
            if not self._skip_to_memory(own, begin):
                await asyncio.sleep(LOST_LOOK_S)
            return ()
        for record in records:
            self._check_epoch(own, record.partition, record.position)
        seen, behind = take(records, own.reach())
        self._read = Base(behind, seen[-1].event.occurred_at.seconds)
        found = [sighting_of(each) for each in seen]
        return [each for each in found if each is not None and each.entry[1] in authors]

    def _skip_to_memory(self, own: OwnReach, begin: Sequence[str]) -> bool:
        """The log has nothing behind the reach, yet the server's memory began later: the log was
        lost. Where it was started over, and has nothing yet, the stream goes on there; else it is
        to be looked again (False)."""
        for partition, start in enumerate(begin):
            if own.has_passed(partition, start):
                continue
            if positions.order(start)[1] > 0:
                return False
            self._check_epoch(own, partition, start)
            own.positions[partition] = start
        return True

    def _check_epoch(self, own: OwnReach, partition: int, position: str) -> None:
        if positions.order(own.positions[partition])[0] != positions.order(position)[0]:
            self._source.check_age(own.at)

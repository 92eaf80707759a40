"""The event log's contract: what every engine promises, and what it asks of those who use it.

The log is split into partitions. A record's partition follows from its key, and the records of one
partition are read in the order in which they were appended; nothing is promised across partitions.

 * *Writing.* One writer at a time. Each writer comes with a fence, a number higher than all before
   it; from its claim on, a writer with a lower fence is refused. After an append whose outcome is
   not known the same records are appended again: records come at least once, and a repetition
   repeats a whole stretch, so that the last occurrence of each record is in order.
 * *Reading.* A consumer group reads every record. Each partition has one owner in the group, shared
   evenly over its members, held by a lease and numbered by a fence that only grows. Records that
   were handed out and not committed are handed out again to the next owner.
 * *Committing.* The consumer commits, never the log by itself, and only the owner can.
 * *Losing.* A log that has lost records says so to its writer (`LogLost`), who starts it over.

Fits Valkey Streams (`valkey_streams.py`) and Kafka (fence: producer epoch and group generation;
position: offset; tail: topic id and end offsets).
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

_MASK_64 = (1 << 64) - 1


class EventLogError(Exception):
    """The base of the log's own errors."""


class Fenced(EventLogError):
    """A writer with a higher fence has taken over: stop writing."""


class LogLost(EventLogError):
    """The log does not hold what its writer knows to have been appended: start it over."""


class RecordsMissed(LogLost):
    """A consumer or reader was so far behind that records it had not read were trimmed. Starting
    over helps it to what the outbox still has, but not when it stays slower than the log: do it
    rarely."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A record to append. `payload` is a serialised chirp.v1.Event."""

    key: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Record:
    """A record as read. `position` is opaque. `fence` numbers the ownership of the partition that
    it was read under: a store that remembers the highest one can refuse a late owner."""

    partition: int
    position: str
    key: int
    payload: bytes
    fence: int


class Consumer(Protocol):
    """One member of a consumer group. Used by one task at a time; beats its heart by itself."""

    async def poll(self, max_records: int, wait_ms: int) -> list[Record]:
        """Returns up to `max_records` records of owned partitions, each partition's in order.

        Blocks up to `wait_ms` while there is nothing to read and wakes at once when there is.
        Takes and gives up partitions, so it must be called more often than the lease is long for
        the shares to be even. Raises what the log's client raises when the log is away; calling
        again is then safe.
        """
        ...

    async def commit(self, at: Mapping[int, str]) -> Sequence[int]:
        """Records of each of these partitions that everything up to and including the position is
        handled, in one round trip, each for itself.

        Returns the partitions that are no longer owned, of which it records nothing: drop what is
        in hand of them, and poll again.
        """
        ...

    def pause(self, partition: int, for_ms: int) -> None:
        """Hands out nothing of a partition for a while, then begins again behind its commit."""
        ...

    def owned(self) -> Mapping[int, int]:
        """The partitions that are ours now, each with its fence. Does not block."""
        ...


class Reader(Protocol):
    """Reads the log from anywhere, without a group: nothing is committed, nobody waits for it.

    It is told after which position to read in each partition, and remembers nothing. Positions of
    one partition are ordered by `positions.order`. Raises what the log's client raises when the log
    is away; calling again is then safe.
    """

    async def newest(self, count: int) -> list[str]:
        """Returns a position for each partition, behind which its newest `count` records stand, or
        fewer where some were trimmed or the log was started over."""
        ...

    async def read(self, after: Sequence[str], max_records: int, wait_ms: int) -> list[Record]:
        """Returns about `max_records` records that stand behind these positions, one for each
        partition; the records of a partition are together and in order. Their fence is 0. Fewer
        than `max_records` by the number of partitions are all that there were.

        Blocks up to `wait_ms` while there are none. Raises RecordsMissed where records behind a
        position are not kept any more: what was lost and sent again counts as kept.
        """
        ...


class EventLog(Protocol):
    """The log. Writing methods are for its one writer, the relay."""

    @property
    def partitions(self) -> int:
        """How many partitions there are; fixed for ever."""
        ...

    @property
    def tail(self) -> str:
        """How far this writer knows the log to reach; opaque, kept by the writer for `claim`."""
        ...

    async def claim(self, *, fence: int, tail: str) -> None:
        """Makes this the writer. Raises Fenced where a higher fence has written, and LogLost where
        the log does not reach to `tail`, or `tail` is empty."""
        ...

    async def start_over(self, *, fence: int) -> None:
        """Makes this the writer of a log that lost records. What is still there stays readable;
        positions of new records are higher than all before. `fence` must be a new one."""
        ...

    async def append(self, records: Sequence[Outgoing], *, fence: int) -> None:
        """Appends records, in order per key. Not atomic over partitions: after an error, any of
        them may be in, and all are to be appended again. Raises Fenced and LogLost.

        Without a claim or a start-over before, it takes the log as it is."""
        ...

    async def check(self) -> None:
        """Looks at the log while nothing is appended. Raises LogLost where it does not reach to
        `tail`, and RecordsMissed (until `start_over`) where a consumer met a hole."""
        ...

    def consumer(self, group: str, member: str) -> AbstractAsyncContextManager[Consumer]:
        """Joins a group; on leaving, hands its partitions over at once. `member` is for people:
        two members may bear one name. A new group begins with the oldest record kept."""
        ...

    def reader(self) -> Reader:
        """Returns a reader without a group. Does not block."""
        ...

    async def rewind(self, group: str) -> None:
        """Sets a group back to the oldest record kept; its owners lose their leases."""
        ...

    async def lag(self, group: str) -> Mapping[int, int]:
        """Records per partition that the group has not committed. At most a record count too high
        after the log was started over; 0 exactly when the group has committed everything."""
        ...

    async def backlog(self) -> int:
        """The highest lag of any partition, over the groups that have members now."""
        ...


class Handler(Protocol):
    """What a consumer group does with records."""

    async def handle(self, records: Sequence[Record]) -> None:
        """Handles a batch: several partitions, each in order, never empty.

        Must be idempotent: any stretch of records may come again. Returns when all is done; on any
        exception the whole batch comes again, then record by record (`runner.py`).
        """
        ...


def partition_of(key: int, partitions: int) -> int:
    """Returns the partition of a key: splitmix64 of it, modulo. Fixed for ever: another function
    would split one key's records over two partitions and lose their order.

    The finaliser of Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014).
    """
    mixed = (key + 0x9E3779B97F4A7C15) & _MASK_64
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK_64
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK_64
    return (mixed ^ (mixed >> 31)) % partitions

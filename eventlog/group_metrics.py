"""What a member of a consumer group tells of it in numbers."""

from collections.abc import Sequence

from eventlog.contract import EventLog, Record
from eventlog.deadletters import DeadLetters
from mesh import catalogue, metrics
from mesh.metrics import Histogram, Sample


class GroupMetrics:
    """The numbers of one group: what this member handled, and how far the whole group is."""

    def __init__(self, group: str, event_log: EventLog, letters: DeadLetters) -> None:
        self._group = group
        self._event_log = event_log
        self._letters = letters
        self._seconds: dict[int, Histogram] = {}
        self._handled: dict[int, int] = {}

    def observe(self, records: Sequence[Record], seconds: float) -> None:
        """Counts a batch that was handled. The time is that of the whole batch for each partition
        in it: handlers gather what they do over partitions."""
        for record in records:
            self._handled[record.partition] = self._handled.get(record.partition, 0) + 1
        for partition in {record.partition for record in records}:
            if partition not in self._seconds:
                self._seconds[partition] = Histogram(catalogue.EVENT_SECONDS)
            self._seconds[partition].observe(seconds)

    async def collect(self) -> list[Sample]:
        """Returns what this member did. Asks nobody, so it is told also while the log is away."""
        return [
            *metrics.by_partition(catalogue.EVENTS_HANDLED, self._group, self._handled),
            *metrics.by_partition(catalogue.EVENT_SECONDS, self._group, self._seconds),
        ]

    async def collect_standing(self) -> list[Sample]:
        """Returns how far the group is; asked of the log, so any member tells it for all."""
        lag = await self._event_log.lag(self._group)
        return [
            *metrics.by_partition(catalogue.EVENT_LAG, self._group, lag),
            Sample(catalogue.DEAD_LETTERS, await self._letters.count(), (self._group,)),
        ]

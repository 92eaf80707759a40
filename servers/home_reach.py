"""How far one home stream got in the log, where that is not just as far as its server."""

from collections.abc import Sequence

from eventlog import positions
from servers.home_log import Base, Sighting
from servers.log_tail import Reach


class OwnReach:
    """A reach that is one stream's own: its server may have read further in some partitions and
    less far in others, and its floors may tell of events that this stream has not been offered,
    because the log was lost and is being filled again."""

    def __init__(self, reach: Reach, at: int) -> None:
        self.positions = list(reach.positions)
        self.floors = list(reach.floors)
        self.at = at

    def reach(self) -> Reach:
        """See Behind."""
        return Reach(tuple(self.positions), tuple(self.floors))

    def text(self) -> str:
        """See Behind."""
        return Base(self.reach(), self.at).text()

    def has_passed(self, partition: int, position: str) -> bool:
        """Whether a position lies within the reach."""
        return positions.order(position) <= positions.order(self.positions[partition])

    def get_behind(self, sighting: Sighting) -> None:
        """Extends the reach to what was passed."""
        spot = sighting.spot
        if not self.has_passed(spot.partition, spot.position):
            self.positions[spot.partition] = spot.position
            self.at = sighting.at
        floor = self.floors[spot.partition]
        self.floors[spot.partition] = max(floor, spot.settled)

    def extend(self, behind: Sequence[str], at: int) -> None:
        """Extends the reach to positions."""
        for partition, position in enumerate(behind):
            if not self.has_passed(partition, position):
                self.positions[partition] = position
                self.at = at

    def is_in_later_log(self, reach: Reach) -> bool:
        """Whether it reaches into a log that was started over behind another reach."""
        return _epoch(self.positions) > _epoch(reach.positions)

    def raise_floors(self, floors: Sequence[int]) -> None:
        """Raises what lies below these floors."""
        self.floors = [max(both) for both in zip(self.floors, floors, strict=True)]

    def equals(self, reach: Reach) -> bool:
        """Whether another reach says the same of what was seen, and is not behind."""
        return self.floors == list(reach.floors) and all(
            positions.order(own) <= positions.order(other)
            for own, other in zip(self.positions, reach.positions, strict=True)
        )


def _epoch(of: Sequence[str]) -> int:
    return max(positions.order(position)[0] for position in of)

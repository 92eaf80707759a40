"""Finds the best rows of every place that have enough authors, and counts the authors of no others.

1. The rows are sorted by place and value.
2. The best of each place are looked at: their different authors are counted, from the pairs of the
   last 60 minutes.
3. Where too few of them have enough, more of that place are looked at.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from domain.trend import HOUR, LIMIT_MAX
from domain.trend_segment import HIGH, I64, U64, different
from domain.trend_window import TrendWindow

F64 = NDArray[np.float64]

# More than a list holds: some have too few authors. Each further look is much longer.
LOOK_FIRST, LOOK_GROWTH = LIMIT_MAX + 10, 8

_NONE = np.zeros(0, np.int64)


class Look:
    """Looks at the best of some rows, and counts the authors of those only."""

    def __init__(self, window: TrendWindow, rows: I64, authors_min: int) -> None:
        self._window = window
        self._rows = rows
        self._places = (window.rows.keys[rows] >> HIGH).astype(np.int64)
        self._authors_min = authors_min
        self.authors = np.full(len(rows), -1, np.int64)
        """Different authors of each of the rows; -1 where nobody asked yet."""

    def best(self, rankings: Iterable[F64]) -> list[I64]:
        """Returns positions of the rows that lists are made of, for each ranking's values: of each
        place at least the LIMIT_MAX with the highest values above 0 and enough authors, if there
        are so many."""
        queues = [_Queue(values, self._places) for values in rankings]
        look = LOOK_FIRST
        while any(len(queue) for queue in queues):
            # Of all rankings at once: counting passes over an hour of pairs each time.
            seen = [queue.take(look) for queue in queues]
            self.count_authors(np.concatenate(seen))
            for queue, positions in zip(queues, seen, strict=True):
                queue.keep(positions[self.authors[positions] >= self._authors_min])
            look *= LOOK_GROWTH
        return [np.concatenate([_NONE, *queue.kept]) for queue in queues]

    def count_authors(self, positions: I64) -> None:
        """Counts the authors of some of the rows, where nobody asked before."""
        asked = np.zeros(len(self._rows), np.bool_)
        asked[positions] = True
        unknown = np.flatnonzero(asked & (self.authors < 0))
        if not len(unknown):
            return
        wanted = np.zeros(len(self._window.rows), np.bool_)
        wanted[self._rows[unknown]] = True
        number = np.empty(len(wanted), np.uint32)  # of those
        number[self._rows[unknown]] = np.arange(len(unknown), dtype=np.uint32)
        kept: list[U64] = []
        for ago in range(HOUR):
            segment = self._window.segment(ago)
            at = np.flatnonzero(wanted[segment.rows])
            counts, authors = segment.authors_at(at)
            numbers = number[segment.rows[at]].astype(np.uint64)
            kept.append(np.repeat(numbers << HIGH, counts) | authors)
        owners = different(np.concatenate(kept)) >> HIGH
        self.authors[unknown] = np.bincount(owners.astype(np.int64), minlength=len(unknown))


class _Queue:
    """The rows with values above 0 that nobody looked at yet, of each place the best first."""

    def __init__(self, values: F64, places: I64) -> None:
        self._values, self._places = values, places
        left = np.flatnonzero(values > 0)
        # By value, then by place. A fifth of the time of `numpy.lexsort`: the first need not be
        # stable, the second of 16 bits is a radix sort.
        left = left[np.argsort(-values[left])]
        self._left = left[np.argsort(places[left].astype(np.uint16), kind="stable")]
        self._good = np.zeros(int(places.max(initial=0)) + 1, np.int64)
        self.kept: list[I64] = []
        """Those that turned out to be good."""

    def __len__(self) -> int:
        """How many rows are left."""
        return len(self._left)

    def take(self, count: int) -> I64:
        """Takes so many rows of each place, and their equals, out of the queue."""
        if not len(self._left):
            return self._left
        places, ordered = self._places[self._left], self._values[self._left]
        begins = np.flatnonzero(np.concatenate([[True], places[1:] != places[:-1]]))
        counts = np.diff(begins, append=len(places))
        lowest = np.repeat(ordered[begins + np.minimum(count, counts) - 1], counts)
        seen = ordered >= lowest
        taken, self._left = self._left[seen], self._left[~seen]
        return taken

    def keep(self, good: I64) -> None:
        """Keeps some of what was taken, and drops what is left of places that have enough."""
        self.kept.append(good)
        self._good += np.bincount(self._places[good], minlength=len(self._good))
        self._left = self._left[self._good[self._places[self._left]] < LIMIT_MAX]

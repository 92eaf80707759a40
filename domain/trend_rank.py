"""Ranks the tags of every place at once, from a `TrendWindow`.

1. This hour, the last hour and the score of every row (a tag at a place) are sums over the
   segments. What the minutes before this one give is kept until one of them changes: most of the
   time only the newest minute does.
2. A row that was used less often in this hour than `authors_min` cannot have so many different
   authors. The others are sorted by place and value.
3. The best of each place are looked at: their different authors are counted, from the pairs of
   the last 60 minutes. Where too few of them have enough, more of that place are looked at. So
   the lists are exact however many loud accounts there are.
4. Equals are ranked by name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from domain import trend
from domain.trend import HOUR, LIMIT_MAX, WEIGHTS, Listed, Order, Rules
from domain.trend_names import WORLD_NUMBER
from domain.trend_segment import HIGH, LOW, Segment, authors_of, different
from domain.trend_window import MINUTES, TrendWindow

F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]
Number = TypeVar("Number", np.int32, np.float64)
TAG = 0xFFFFFFFF

# More than a list holds: some have too few authors. Each further look is much longer.
LOOK_FIRST, LOOK_GROWTH = LIMIT_MAX + 10, 8

Lists = Mapping[Order, Sequence[Listed]]


class Hours(NamedTuple):
    """A tag's uses in this hour and the last, and its authors in this one."""

    name: str
    this_hour: int
    last_hour: int
    authors: int


@dataclass(frozen=True, slots=True)
class Sums:
    """Of some rows: uses of this hour and of the last, and the score."""

    rows: I64
    this_hour: I32
    last_hour: I32
    score: F64

    def where(self, mask: NDArray[np.bool_]) -> "Sums":
        """Returns some of the rows."""
        return Sums(self.rows[mask], self.this_hour[mask], self.last_hour[mask], self.score[mask])


class TrendRanker:
    """Ranks one window. Folding is the caller's."""

    def __init__(self, window: TrendWindow, rules: Rules) -> None:
        self._window = window
        self._rules = rules
        self._summed: list[Segment] = []
        # Of every row, at its number: what the minutes before this one give.
        self._this_hour = np.zeros(0, np.int32)
        self._last_hour = np.zeros(0, np.int32)
        self._score = np.zeros(0, np.float64)
        self._often = np.zeros(0, np.uint64)

    def rank(self) -> dict[str, Lists]:
        """Returns both lists of every place where at least one tag trends, at most LIMIT_MAX each,
        first rank first."""
        sums = self._may_trend()
        surprise = trend.surprise(
            sums.this_hour.astype(np.float64),
            trend.baseline(sums.last_hour.astype(np.float64), self._rules),
            self._rules,
        )
        # Above 0 in any case: what is not above its baseline does not rise.
        rising = np.where(surprise >= self._rules.surprise_min, surprise, 0.0)
        look = _Look(self._window, sums.rows, self._rules.authors_min)
        ranked: dict[str, dict[Order, Sequence[Listed]]] = {}
        for order, values in ((Order.SCORE, sums.score), (Order.RISING, rising)):
            by_place: dict[int, list[tuple[float, str, int]]] = {}
            best = look.best(values)
            keys = self._window.rows.keys[sums.rows[best]]
            for at, key, value in zip(
                best.tolist(), keys.tolist(), values[best].tolist(), strict=True
            ):
                entry = (-value, self._window.spellings.name(key & TAG), at)
                by_place.setdefault(key >> 32, []).append(entry)
            for place, entries in by_place.items():
                entries.sort()
                ranked.setdefault(self._window.places.slugs[place], {})[order] = [
                    self._listed(sums, at, name, int(look.authors[at]), float(surprise[at]))
                    for _, name, at in entries[:LIMIT_MAX]
                ]
        return {
            place: {order: lists.get(order, ()) for order in Order}
            for place, lists in ranked.items()
        }

    def hours_of_the_world(self) -> list[Hours]:
        """Returns the hours of every tag that has enough authors in the world, in no order."""
        sums = self._may_trend()
        keys = self._window.rows.keys[sums.rows]
        sums, keys = sums.where(keys >> HIGH == WORLD_NUMBER), keys[keys >> HIGH == WORLD_NUMBER]
        look = _Look(self._window, sums.rows, self._rules.authors_min)
        look.count_authors(np.arange(len(keys)))
        return [
            Hours(self._window.spellings.name(key & TAG), this, last, authors)
            for key, this, last, authors in zip(
                keys.tolist(),
                sums.this_hour.tolist(),
                sums.last_hour.tolist(),
                look.authors.tolist(),
                strict=True,
            )
            if authors >= self._rules.authors_min
        ]

    def explain(self, place: str, name: str) -> tuple[list[int], int]:
        """Returns the 120 buckets of a tag at a place, this minute first, and how many different
        authors this hour has. All zeros where nobody used it."""
        window = self._window
        at, tag = window.places.find(place), window.spellings.tag(name)
        row = None if at is None or tag is None else window.row(at, tag)
        if row is None:
            return [0] * MINUTES, 0
        pairs = [window.segment(ago).pairs_of(row) for ago in range(MINUTES)]
        return [len(each) for each in pairs], authors_of(pairs[:HOUR])

    def _may_trend(self) -> Sums:
        """Returns the rows whose hour is long enough for the authors that a trend needs."""
        self._sum_past()
        newest = self._window.segment(0)
        rows = different(np.concatenate([self._often, newest.rows.astype(np.uint64)])).astype(
            np.int64
        )
        this_hour = _at(self._this_hour, rows)
        score = _at(self._score, rows)
        if len(rows):
            here = np.searchsorted(rows, newest.rows)
            this_hour[here] += newest.counts.astype(np.int32)
            score[here] += newest.counts
        sums = Sums(rows, this_hour, _at(self._last_hour, rows), score)
        return sums.where(this_hour >= self._rules.authors_min)

    def _sum_past(self) -> None:
        segments = [self._window.segment(ago) for ago in range(1, MINUTES)]
        if len(segments) == len(self._summed) and all(
            one is other for one, other in zip(segments, self._summed, strict=True)
        ):
            return
        count = len(self._window.rows)
        self._this_hour = np.zeros(count, np.int32)
        self._last_hour = np.zeros(count, np.int32)
        self._score = np.zeros(count, np.float64)
        # Oldest first: the same buckets always give the same score, to the last bit.
        for ago in range(MINUTES - 1, 0, -1):
            segment = segments[ago - 1]
            if ago >= HOUR:
                self._last_hour[segment.rows] += segment.counts.astype(np.int32)
            else:
                self._this_hour[segment.rows] += segment.counts.astype(np.int32)
                self._score[segment.rows] += segment.counts * WEIGHTS[ago]
        often = np.flatnonzero(self._this_hour >= self._rules.authors_min)
        self._often = often.astype(np.uint64)
        self._summed = segments

    def _listed(self, sums: Sums, at: int, name: str, authors: int, surprise: float) -> Listed:
        key = int(self._window.rows.keys[sums.rows[at]])
        this, last = int(sums.this_hour[at]), int(sums.last_hour[at])
        return Listed(
            name=name,
            tag=self._window.spellings.most_used(key & TAG),
            score=float(sums.score[at]),
            count=this,
            velocity=trend.velocity(this, last),
            authors=authors,
            surprise=surprise,
        )


class _Look:
    """Looks at the best of some rows, and counts the authors of those only."""

    def __init__(self, window: TrendWindow, rows: I64, authors_min: int) -> None:
        self._window = window
        self._rows = rows
        self._places = (window.rows.keys[rows] >> HIGH).astype(np.int64)
        self._authors_min = authors_min
        self.authors = np.full(len(rows), -1, np.int64)
        """Different authors of each of the rows; -1 where nobody asked yet."""

    def best(self, values: F64) -> I64:
        """Returns positions of the rows that lists are made of: of each place at least the
        LIMIT_MAX with the highest values above 0 and enough authors, if there are so many."""
        left = np.flatnonzero(values > 0)
        left = left[np.lexsort((-values[left], self._places[left]))]
        found: list[I64] = []
        good = np.zeros(int(self._places.max(initial=0)) + 1, np.int64)
        look = LOOK_FIRST
        while len(left):
            places, ordered = self._places[left], values[left]
            begins = np.flatnonzero(np.concatenate([[True], places[1:] != places[:-1]]))
            counts = np.diff(begins, append=len(places))
            # The equals of the last one that is looked at are looked at, too.
            lowest = np.repeat(ordered[begins + np.minimum(look, counts) - 1], counts)
            seen = ordered >= lowest
            self.count_authors(left[seen])
            enough = left[seen][self.authors[left[seen]] >= self._authors_min]
            found.append(enough)
            good += np.bincount(self._places[enough], minlength=len(good))
            left = left[~seen & (good[places] < LIMIT_MAX)]
            look *= LOOK_GROWTH
        return np.concatenate(found) if found else left

    def count_authors(self, positions: I64) -> None:
        """Counts the authors of some of the rows, where nobody asked before."""
        unknown = positions[self.authors[positions] < 0]
        if not len(unknown):
            return
        number = np.full(len(self._window.rows), -1, np.int32)
        number[self._rows[unknown]] = np.arange(len(unknown), dtype=np.int32)
        kept: list[U64] = []
        for ago in range(HOUR):
            segment = self._window.segment(ago)
            numbers = number[segment.rows]
            wanted = np.repeat(numbers >= 0, segment.counts)
            own = np.repeat(numbers[numbers >= 0], segment.counts[numbers >= 0])
            kept.append(own.astype(np.uint64) << HIGH | (segment.pairs[wanted] & LOW))
        authors = different(np.concatenate(kept)) >> HIGH
        self.authors[unknown] = np.bincount(authors.astype(np.int64), minlength=len(unknown))


def _at(column: NDArray[Number], rows: I64) -> NDArray[Number]:
    """Returns a column's values at rows, 0 for rows that came after it was made."""
    known = rows < len(column)
    values = np.zeros(len(rows), column.dtype)
    values[known] = column[rows[known]]
    return values

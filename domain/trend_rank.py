"""Ranks the tags of every place at once, from a `TrendWindow`.

1. This hour, the last hour and the score of every row (a tag at a place) are sums over the
   segments. What the minutes before this one give is kept until one of them changes: most of the
   time only the newest minute does.
2. A row that was used less often in this hour than `authors_min` cannot have so many different
   authors. Of the others, the best of each place that have enough are looked for
   (`trend_look.py`), so that the lists are exact however many loud accounts there are.
3. Equals are ranked by name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from domain import trend
from domain.trend import HOUR, LIMIT_MAX, WEIGHTS, Listed, Order, Rules
from domain.trend_look import F64, Look
from domain.trend_names import WORLD_NUMBER
from domain.trend_segment import HIGH, I64, Segment, authors_of, different
from domain.trend_window import MINUTES, TrendWindow

I32 = NDArray[np.int32]
Number = TypeVar("Number", np.int32, np.float64)
TAG = 0xFFFFFFFF

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

    def at(self, chosen: NDArray[np.bool_] | I64) -> "Sums":
        """Returns some of the rows, by a mask or by their positions."""
        return Sums(
            self.rows[chosen], self.this_hour[chosen], self.last_hour[chosen], self.score[chosen]
        )


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
        look = Look(self._window, sums.rows, self._rules.authors_min)
        rankings = {Order.SCORE: sums.score, Order.RISING: rising}
        ranked: dict[str, dict[Order, Sequence[Listed]]] = {}
        for order, best in zip(rankings, look.best(rankings.values()), strict=True):
            values = rankings[order][best]
            lists = self._lists(sums.at(best), values, look.authors[best], surprise[best])
            for place, listed in lists.items():
                ranked.setdefault(place, {})[order] = listed
        return {
            place: {order: lists.get(order, ()) for order in Order}
            for place, lists in ranked.items()
        }

    def hours_of_the_world(self) -> list[Hours]:
        """Returns the hours of every tag that has enough authors in the world, in no order."""
        sums = self._may_trend()
        keys = self._window.rows.keys[sums.rows]
        sums, keys = sums.at(keys >> HIGH == WORLD_NUMBER), keys[keys >> HIGH == WORLD_NUMBER]
        look = Look(self._window, sums.rows, self._rules.authors_min)
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
        return sums.at(this_hour >= self._rules.authors_min)

    def _sum_past(self) -> None:
        segments = [self._window.segment(ago) for ago in range(1, MINUTES)]
        if len(segments) == len(self._summed) and all(
            one is other for one, other in zip(segments, self._summed, strict=True)
        ):
            return
        count = len(self._window.rows)
        before = self._summed
        this_hour = _moved_on(self._this_hour, count, before[: HOUR - 1], segments[: HOUR - 1])
        last_hour = _moved_on(self._last_hour, count, before[HOUR - 1 :], segments[HOUR - 1 :])
        score = np.zeros(count, np.float64)
        # Oldest first: the same buckets always give the same score, to the last bit.
        for ago in range(HOUR - 1, 0, -1):
            segment = segments[ago - 1]
            weighted = np.multiply(segment.counts, WEIGHTS[ago], dtype=np.float64)
            _add(score, segment, weighted)
        often = np.flatnonzero(this_hour >= self._rules.authors_min)
        # All at once: what is half moved on could not be moved on again.
        self._summed, self._often = segments, often.astype(np.uint64)
        self._this_hour, self._last_hour, self._score = this_hour, last_hour, score

    def _lists(
        self, sums: Sums, values: F64, authors: I64, surprise: F64
    ) -> dict[str, Sequence[Listed]]:
        """Returns the list of each place, of what may be on it."""
        spellings = self._window.spellings
        # Lists, because each element of an array would become an object of numpy's first.
        keys, score, this, last = (
            column.tolist()
            for column in (
                self._window.rows.keys[sums.rows],
                sums.score,
                sums.this_hour,
                sums.last_hour,
            )
        )
        of_authors, of_surprise = authors.tolist(), surprise.tolist()
        by_place: dict[int, list[tuple[float, str, int]]] = {}
        for at, (key, value) in enumerate(zip(keys, (-values).tolist(), strict=True)):
            entry = (value, spellings.name(key & TAG), at)
            by_place.setdefault(key >> 32, []).append(entry)
        return {
            self._window.places.slugs[place]: [
                Listed(
                    name=name,
                    tag=spellings.most_used(keys[at] & TAG),
                    score=score[at],
                    count=this[at],
                    velocity=trend.velocity(this[at], last[at]),
                    authors=of_authors[at],
                    surprise=of_surprise[at],
                )
                for _, name, at in sorted(entries)[:LIMIT_MAX]
            ]
            for place, entries in by_place.items()
        }


def _moved_on(sums: I32, count: int, before: Sequence[Segment], now: Sequence[Segment]) -> I32:
    """Returns the sums of `count` rows over some minutes, made of the sums over others: a minute
    gives whole numbers, which can be taken back. Where rows have got new numbers, every minute is
    another."""
    moved = np.concatenate([sums, np.zeros(max(0, count - len(sums)), np.int32)])
    kept = {id(segment) for segment in before} & {id(segment) for segment in now}
    for segments, sign in ((before, -1), (now, +1)):
        for segment in segments:
            if id(segment) not in kept:
                _add(moved, segment, sign * segment.counts.astype(np.int32))
    return moved[:count]


def _add(sums: NDArray[Number], segment: Segment, values: NDArray[Number]) -> None:
    # A third of the time of `sums[segment.rows] += values`, which looks up and stores apart, and
    # makes indices of 64 bits for each.
    np.add.at(sums, segment.rows.astype(np.intp), values)


def _at(column: NDArray[Number], rows: I64) -> NDArray[Number]:
    """Returns a column's values at rows, 0 for rows that came after it was made."""
    known = rows < len(column)
    values = np.zeros(len(rows), column.dtype)
    values[known] = column[rows[known]]
    return values

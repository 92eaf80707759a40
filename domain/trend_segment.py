"""One minute of a `TrendWindow`, in compact arrays that never change: see trend_window.py."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

U16 = NDArray[np.uint16]
U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]
Mask = NDArray[np.bool_]

# A pair: a row's number in the high 32 bits, an author's in the low ones.
LOW = np.uint64(0xFFFFFFFF)
HIGH = np.uint64(32)


@dataclass(frozen=True, slots=True)
class Uses:
    """Columns of uses, one number each for a use, sorted by tweet."""

    tweets: U64
    authors: U32
    spellings: U32
    places: U16

    @classmethod
    def none(cls) -> Self:
        """Returns no uses."""
        numbers = np.zeros(0, np.uint32)
        return cls(np.zeros(0, np.uint64), numbers, numbers, np.zeros(0, np.uint16))

    def __len__(self) -> int:
        """How many there are."""
        return len(self.tweets)

    def where(self, mask: Mask) -> "Uses":
        """Returns some of the uses."""
        return Uses(self.tweets[mask], self.authors[mask], self.spellings[mask], self.places[mask])

    def with_others(self, others: "Uses") -> "Uses":
        """Returns these and others, which are of other tweets."""
        tweets = np.concatenate([self.tweets, others.tweets])
        order = np.argsort(tweets, kind="stable")
        return Uses(
            tweets[order],
            np.concatenate([self.authors, others.authors])[order],
            np.concatenate([self.spellings, others.spellings])[order],
            np.concatenate([self.places, others.places])[order],
        )


@dataclass(frozen=True, slots=True)
class Segment:
    """One minute. Never changed, but replaced: two that are the same object say the same."""

    uses: Uses
    removed: U64
    """The tweets of this minute that were removed, sorted, whether they were ever added or not."""
    pairs: U64
    """Row and author, sorted, each once."""
    rows: U32
    """The rows of the pairs, each once, sorted."""
    starts: U32
    """Where each row's pairs begin; one more, where the last one's end."""

    @classmethod
    def of(cls, uses: Uses, removed: U64, pairs: U64) -> Self:
        """Returns a minute with these uses, whose pairs are these."""
        rows = (pairs >> HIGH).astype(np.uint32)
        begins = np.ones(len(rows) + 1, np.bool_)
        np.not_equal(rows[1:], rows[:-1], out=begins[1:-1])
        starts = np.flatnonzero(begins).astype(np.uint32)
        return cls(uses, removed, pairs, rows[starts[:-1]], starts)

    @property
    def counts(self) -> U32:
        """How many different authors each row has."""
        return np.diff(self.starts)

    @property
    def nbytes(self) -> int:
        """What it takes in memory."""
        uses = self.uses
        columns = (uses.tweets, uses.authors, uses.spellings, uses.places)
        own = (self.removed, self.pairs, self.rows, self.starts)
        return sum(column.nbytes for column in (*columns, *own))

    def authors_at(self, at: I64) -> tuple[U32, U64]:
        """Returns, of the rows at some places of `rows`, how many different authors each has, and
        their numbers, those of the first row first."""
        begins = self.starts[at]
        counts = self.starts[at + 1] - begins
        # Counts on from each row's beginning; what is not asked for is not touched.
        skipped = begins - np.cumsum(counts, dtype=np.uint32) + counts
        found = np.repeat(skipped, counts) + np.arange(counts.sum(), dtype=np.uint32)
        return counts, self.pairs[found] & LOW

    def pairs_of(self, row: int) -> U64:
        """Returns the pairs of one row."""
        begin, end = np.searchsorted(self.pairs, np.array([row, row + 1], np.uint64) << HIGH)
        return self.pairs[begin:end]


def different(values: U64) -> U64:
    """Returns the different ones of some values, sorted. numpy.unique hashes them first, which
    takes many times as long as sorting with the processor's vector instructions."""
    ordered = np.sort(values)
    kept = np.ones(len(ordered), np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=kept[1:])
    return ordered[kept]


def is_in(values: U64, found: U64) -> Mask:
    """Whether each value is among others, which are sorted."""
    if not len(found):
        return np.zeros(len(values), np.bool_)
    at = np.searchsorted(found, values)
    return found[np.minimum(at, len(found) - 1)] == values


NOTHING = Segment.of(Uses.none(), np.zeros(0, np.uint64), np.zeros(0, np.uint64))


def authors_of(pairs: Sequence[U64]) -> int:
    """Returns how many different authors stand in pairs of one row."""
    return len(different(np.concatenate(pairs))) if pairs else 0

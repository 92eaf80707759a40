"""The uses of hashtags in the last two hours, counted exactly, in compact arrays.

A *use* is a tag in a tweet: (tweet, author, minute, place, spelling). What is kept is the set of
uses that were added, less those of the tweets that were removed. A set and a set of removals do not
mind the order in which they come, nor repetition: late, repeated and overtaken events change
nothing. The minute follows from the tweet's id, so a removal needs nothing else.

How it is laid out:
 1. Each minute is a `Segment`: columns of its uses, sorted by tweet, 18 bytes a use.
 2. A *row* is a tag at a place, numbered (`dense_index.py`). A use counts for up to three rows: its
    place, that place's parent, the world.
 3. From its uses each segment makes the sorted set of its *pairs*, row and author in 64 bits. How
    often a row stands there is the number of different authors who used the tag at the place in
    that minute. Over several segments, a row's different pairs are its different authors.
 4. What comes in waits in plain lists until `fold`, which works on whole arrays.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

from domain.dense_index import DenseIndex
from domain.ids import minted_at_ms
from domain.trend_names import NOWHERE, WORLD_NUMBER, Places, Spellings

U16 = NDArray[np.uint16]
U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]
Mask = NDArray[np.bool_]

MINUTE_MS = 60_000
MINUTES = 120  # this hour and the last
LOW = np.uint64(0xFFFFFFFF)
HIGH = np.uint64(32)
# Numbers of rows and authors are given out anew where more than so many serve no use any more.
DEAD_MIN, DEAD_SHARE = 100_000, 0.5


def minute_of(tweet_id: int) -> int:
    """Returns the minute, counted from 1970, in which a tweet was posted."""
    return minted_at_ms(tweet_id) // MINUTE_MS


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
    """Where each row's pairs begin."""

    @classmethod
    def none(cls) -> Self:
        """Returns a minute in which nothing was."""
        empty = np.zeros(0, np.uint64)
        return cls(Uses.none(), empty, empty, *_rows_of(empty))

    @property
    def counts(self) -> U32:
        """How many different authors each row has."""
        return np.diff(self.starts, append=np.uint32(len(self.pairs)))

    @property
    def nbytes(self) -> int:
        """What it takes in memory."""
        uses = self.uses
        columns = (uses.tweets, uses.authors, uses.spellings, uses.places)
        own = (self.removed, self.pairs, self.rows, self.starts)
        return sum(column.nbytes for column in (*columns, *own))

    def pairs_of(self, row: int) -> U64:
        """Returns the pairs of one row."""
        begin, end = np.searchsorted(self.pairs, np.array([row, row + 1], np.uint64) << HIGH)
        return self.pairs[begin:end]


@dataclass(slots=True)
class _Pending:
    """What came in for one minute and is not folded yet."""

    tweets: list[int] = field(default_factory=list[int])
    authors: list[int] = field(default_factory=list[int])
    spellings: list[int] = field(default_factory=list[int])
    places: list[int] = field(default_factory=list[int])
    removed: list[int] = field(default_factory=list[int])


class TrendWindow:
    """The uses of two hours. `fold` before reading; what is added or removed shows from then on."""

    def __init__(self, *, places_max: int) -> None:
        self.spellings = Spellings()
        self.places = Places(places_max)
        self.rows = DenseIndex()
        self.now_minute = 0
        self._authors = DenseIndex()
        self._segments: dict[int, Segment] = {}
        self._pending: dict[int, _Pending] = {}
        self._pending_tweets: set[int] = set()

    @property
    def size(self) -> int:
        """How many uses and removals it holds."""
        segments = self._segments.values()
        return sum(len(segment.uses) + len(segment.removed) for segment in segments)

    @property
    def nbytes(self) -> int:
        """What its arrays take in memory; names come on top."""
        segments = sum(segment.nbytes for segment in self._segments.values())
        return segments + self.rows.nbytes + self._authors.nbytes

    def segment(self, minutes_ago: int) -> Segment:
        """Returns what was in one minute."""
        return self._segments.get(self.now_minute - minutes_ago, NOTHING)

    def add(
        self, tweet_id: int, author_id: int, location: str, tags: Iterable[tuple[str, str]]
    ) -> None:
        """Adds the uses of a tweet: folded name and spelling of each tag, each tag once."""
        minute = minute_of(tweet_id)
        if minute <= self.now_minute - MINUTES or tweet_id in self._pending_tweets:
            return
        self._pending_tweets.add(tweet_id)
        pending = self._pending_of(minute)
        place = self.places.number(location)
        for name, spelled in tags:
            pending.tweets.append(tweet_id)
            pending.authors.append(author_id)
            pending.spellings.append(self.spellings.number(name, spelled))
            pending.places.append(place)

    def remove(self, tweet_id: int) -> None:
        """Takes the uses of a tweet back, also those that come later."""
        minute = minute_of(tweet_id)
        if minute > self.now_minute - MINUTES:
            self._pending_of(minute).removed.append(tweet_id)

    def fold(self, now_minute: int) -> None:
        """Takes in what came since the last time, and lets go what is older than the window. Time
        never goes back."""
        moved_on = now_minute > self.now_minute
        self.now_minute = max(self.now_minute, now_minute)
        pending, self._pending, self._pending_tweets = self._pending, {}, set()
        for minute, came in sorted(pending.items()):
            if minute > self.now_minute - MINUTES:
                self._fold_into(minute, came)
        for minute in [m for m in self._segments if m <= self.now_minute - MINUTES]:
            self._drop(minute)
        # After all of that: what was pending bears numbers, too.
        self.spellings.release_unused()
        if moved_on and self._has_many_dead():
            self._renumber()

    def forget_tags(self, tags: Mask) -> int:
        """Drops all uses of some tags, given by number; returns how many that were. Only right
        behind a fold, as the next: what is pending would lose its numbers."""
        before = self.size
        for minute, segment in self._segments.items():
            mask = tags[self.spellings.tag_of[segment.uses.spellings]]
            if mask.any():
                self.spellings.count(segment.uses.spellings[mask], -1)
                self._replace(minute, segment.uses.where(~mask), segment.removed)
        self.spellings.release_unused()
        return before - self.size

    def forget_oldest_minute(self) -> int:
        """Drops the oldest minute; returns how many uses that were."""
        before = self.size
        if self._segments:
            self._drop(min(self._segments))
            self.spellings.release_unused()
        return before - self.size

    def row(self, place: int, tag: int) -> int | None:
        """Returns the row of a tag at a place, both by number."""
        return self.rows.find(place << 32 | tag)

    def _pending_of(self, minute: int) -> _Pending:
        pending = self._pending.get(minute)
        if pending is None:
            pending = self._pending[minute] = _Pending()
        return pending

    def _drop(self, minute: int) -> None:
        self.spellings.count(self._segments.pop(minute).uses.spellings, -1)

    def _fold_into(self, minute: int, came: _Pending) -> None:
        segment = self._segments.get(minute, NOTHING)
        new = Uses(
            np.array(came.tweets, np.uint64),
            self._authors.number(np.array(came.authors, np.uint64)),
            np.array(came.spellings, np.uint32),
            np.array(came.places, np.uint16),
        )
        removed = segment.removed
        if came.removed:
            removed = different(np.concatenate([removed, np.array(came.removed, np.uint64)]))
        new = new.where(~_is_in(new.tweets, segment.uses.tweets) & ~_is_in(new.tweets, removed))
        self.spellings.count(new.spellings, +1)
        old = segment.uses
        if came.removed and (gone := _is_in(old.tweets, removed)).any():
            # What is left may still hold the author's pair: all pairs are made again.
            self.spellings.count(old.spellings[gone], -1)
            self._replace(minute, old.where(~gone).with_others(new), removed)
        elif len(new) or len(removed) > len(segment.removed):
            pairs = different(np.concatenate([segment.pairs, self._pairs(new)]))
            self._segments[minute] = Segment(old.with_others(new), removed, pairs, *_rows_of(pairs))

    def _replace(self, minute: int, uses: Uses, removed: U64) -> None:
        pairs = self._pairs(uses)
        self._segments[minute] = Segment(uses, removed, pairs, *_rows_of(pairs))

    def _pairs(self, uses: Uses) -> U64:
        parents = self.places.parents()
        tags = self.spellings.tag_of[uses.spellings].astype(np.uint64)
        keys: list[U64] = []
        authors: list[U32] = []
        for places in (
            uses.places,
            parents[uses.places],
            np.full(len(uses), WORLD_NUMBER, np.uint16),
        ):
            # A use without a place stands at the world already.
            counted = (places != NOWHERE) & ((places != WORLD_NUMBER) | (len(keys) == 2))
            keys.append(places[counted].astype(np.uint64) << HIGH | tags[counted])
            authors.append(uses.authors[counted])
        rows = self.rows.number(np.concatenate(keys)).astype(np.uint64)
        return different(rows << HIGH | np.concatenate(authors))

    def _has_many_dead(self) -> bool:
        if len(self.rows) < DEAD_MIN and len(self._authors) < DEAD_MIN:
            return False
        live = np.zeros(len(self.rows), np.bool_)
        known = np.zeros(len(self._authors), np.bool_)
        for segment in self._segments.values():
            live[segment.rows] = True
            known[segment.uses.authors] = True
        return _dead(live) > DEAD_SHARE * len(live) or _dead(known) > DEAD_SHARE * len(known)

    def _renumber(self) -> None:
        """Gives rows and authors that are in use new numbers, from 0."""
        authors = self._authors.keys
        self._authors, self.rows = DenseIndex(), DenseIndex()
        for minute, segment in list(self._segments.items()):
            uses = segment.uses
            numbers = self._authors.number(authors[uses.authors])
            self._replace(
                minute,
                Uses(uses.tweets, numbers, uses.spellings, uses.places),
                segment.removed,
            )


def _dead(live: Mask) -> int:
    return len(live) - int(np.count_nonzero(live))


def different(values: U64) -> U64:
    """Returns the different ones of some values, sorted. numpy.unique hashes them first, which
    takes many times as long as sorting with the processor's vector instructions."""
    ordered = np.sort(values)
    kept = np.ones(len(ordered), np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=kept[1:])
    return ordered[kept]


def _rows_of(pairs: U64) -> tuple[U32, U32]:
    """Returns the different rows of sorted pairs, and where each begins."""
    rows = (pairs >> HIGH).astype(np.uint32)
    begins = np.ones(len(rows), np.bool_)
    begins[1:] = rows[1:] != rows[:-1]
    starts = np.flatnonzero(begins).astype(np.uint32)
    return rows[starts], starts


def _is_in(values: U64, found: U64) -> Mask:
    """Whether each value is among others, which are sorted."""
    if not len(found):
        return np.zeros(len(values), np.bool_)
    at = np.searchsorted(found, values)
    return found[np.minimum(at, len(found) - 1)] == values


NOTHING = Segment.none()


def authors_of(pairs: Sequence[U64]) -> int:
    """Returns how many different authors stand in pairs of one row."""
    return len(different(np.concatenate(pairs))) if pairs else 0

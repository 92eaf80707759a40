"""The uses of hashtags in the last two hours, counted exactly, in compact arrays.

A *use* is a tag in a tweet: (tweet, author, minute, place, spelling). What is kept is the set of
uses that were added, less those of the tweets that were removed. A set and a set of removals do not
mind the order in which they come, nor repetition: late, repeated and overtaken events change
nothing. The minute follows from the tweet's id, so a removal needs nothing else.

How it is laid out:
 1. Each minute is a `Segment` (trend_segment.py): columns of its uses, sorted by tweet, 18 bytes
    a use.
 2. A *row* is a tag at a place, numbered (`dense_index.py`). A use counts for up to three rows: its
    place, that place's parent, the world.
 3. From its uses each segment makes the sorted set of its *pairs*, row and author in 64 bits. How
    often a row stands there is the number of different authors who used the tag at the place in
    that minute. Over several segments, a row's different pairs are its different authors.
 4. What comes in waits in plain lists until `fold`, which works on whole arrays.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from domain.dense_index import DenseIndex
from domain.ids import minted_at_ms
from domain.trend_names import NOWHERE, WORLD_NUMBER, Places, Spellings
from domain.trend_segment import HIGH, NOTHING, U32, U64, Mask, Segment, Uses, different, is_in

MINUTE_MS = 60_000
MINUTES = 120  # this hour and the last
# Numbers of rows and authors are given out anew where more than so many serve no use any more. It
# takes a look at all of them, which is not worth it each minute.
DEAD_MIN, DEAD_SHARE, DEAD_LOOK_MINUTES = 100_000, 0.5, 10


def minute_of(tweet_id: int) -> int:
    """Returns the minute, counted from 1970, in which a tweet was posted."""
    return minted_at_ms(tweet_id) // MINUTE_MS


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
        before, self.now_minute = self.now_minute, max(self.now_minute, now_minute)
        pending, self._pending, self._pending_tweets = self._pending, {}, set()
        for minute, came in sorted(pending.items()):
            if minute > self.now_minute - MINUTES:
                self._fold_into(minute, came)
        for minute in [m for m in self._segments if m <= self.now_minute - MINUTES]:
            self._drop(minute)
        # After all of that: what was pending bears numbers, too.
        self.spellings.release_unused()
        looks_due = self.now_minute // DEAD_LOOK_MINUTES > before // DEAD_LOOK_MINUTES
        if looks_due and self._has_many_dead():
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
        new = new.where(~is_in(new.tweets, segment.uses.tweets) & ~is_in(new.tweets, removed))
        self.spellings.count(new.spellings, +1)
        old = segment.uses
        if came.removed and (gone := is_in(old.tweets, removed)).any():
            # What is left may still hold the author's pair: all pairs are made again.
            self.spellings.count(old.spellings[gone], -1)
            self._replace(minute, old.where(~gone).with_others(new), removed)
        elif len(new) or len(removed) > len(segment.removed):
            pairs = different(np.concatenate([segment.pairs, self._pairs(new)]))
            self._segments[minute] = Segment.of(old.with_others(new), removed, pairs)

    def _replace(self, minute: int, uses: Uses, removed: U64) -> None:
        self._segments[minute] = Segment.of(uses, removed, self._pairs(uses))

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

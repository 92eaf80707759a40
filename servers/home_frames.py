"""Tweets that many home streams deliver at the same moment, presented once for all of them.

A frame is the same for everybody while nobody can have marked the tweet long enough ago for it to
show, and where the tweet repeats or quotes nothing, of which some see less than others.
"""

import time
from collections.abc import Awaitable, Callable, Collection, Container, Sequence
from typing import NamedTuple

from servers.purge_feed import PurgeFeed
from servers.stream_marks import UNMARKED, StreamMarks
from servers.tweet_hydrator import TweetHydrator
from servers.tweet_presenter import Marks, TweetPresenter
from servers.tweet_records import Record
from servers.user_names import UserNames

FRAMES_MAX = 1_000
# What was presented so long ago is presented anew: deletions and blocks show within 2 seconds.
PRESENTED_S = 1.0


class _Frame(NamedTuple):
    record: Record
    frame: bytes
    until: float


class HomeFrames:
    """Frames of the newest tweets, good for a second."""

    def __init__(
        self,
        hydrator: TweetHydrator,
        presenter: TweetPresenter,
        names: UserNames,
        marks: StreamMarks,
        feed: PurgeFeed,
    ) -> None:
        self._hydrator = hydrator
        self._presenter = presenter
        self._names = names
        self._marks = marks
        self._feed = feed
        self._frames: dict[int, _Frame] = {}
        self._generation = -1

    async def prepare(
        self, ids: Sequence[int], fetch: Callable[[Sequence[int]], Awaitable[dict[int, Record]]]
    ) -> None:
        """Gets tweets, and makes frames of those that are the same for everybody. Raises what
        fetching raises."""
        records = await self._hydrator.hydrate(ids, trusted=True)
        now, generation = time.monotonic(), self._names.generation
        plain = [each for each in records.values() if not each.refers and not each.deleted]
        frames = await self._presenter.frames(plain, _UNMARKED_VIEW, fetch)
        if generation != self._generation or len(self._frames) > FRAMES_MAX:
            self._frames.clear()
            self._generation = generation
        for record, frame in zip(plain, frames, strict=True):
            good_s = min(PRESENTED_S, self._marks.young_s(record.tweet_id))
            self._frames[record.tweet_id] = _Frame(record, frame, now + good_s)

    def get(self, tweet: int) -> bytes | None:
        """Returns the frame of a tweet, where there is one and it may still be shown."""
        kept = self._frames.get(tweet)
        if kept is None or self._generation != self._names.generation or not self._feed.fresh:
            return None
        # What was purged meanwhile is to be looked at again.
        same = self._hydrator.kept(tweet) is kept.record
        return kept.frame if same and time.monotonic() < kept.until else None


class _UnmarkedView:
    """A view by which frames are made for viewers that marked nothing."""

    async def marks(self, ids: Collection[int]) -> Marks | None:
        """See View."""
        return UNMARKED

    async def hidden(self, accounts: Collection[int]) -> Container[int]:
        """See View."""
        return ()


_UNMARKED_VIEW = _UnmarkedView()

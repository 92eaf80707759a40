"""First pages of home timelines in one pass of C, where all that they need lies ready.

Of a home read that cost 425 us of CPU beside an echo of 201, all of gRPC and the look at Valkey
were 248; the rest was Python that merges, rules and presents, object by object.
`one_pass.c` does the same in one pass, for a first page whose windows, records and marks are all at
hand. Any other page, and every page where it was not compiled, is made by
`TimelineService.GetHomeTimeline` as it stands there. Figures: docs/decisions/0007-home-reads.md.
"""

import logging
from array import array
from collections.abc import Callable, Set

from domain.ids import UserId
from mesh.settings import Settings
from servers import home_heads
from servers.home_skeleton import Asked, HomeSkeleton, Look
from servers.purge_feed import PurgeFeed
from servers.tweet_hydrator import TweetHydrator
from servers.tweet_records import Record
from servers.user_names import UserNames
from servers.viewer_marks import ViewerMarks

Made = tuple[bytes | None, int] | None
OnePass = Callable[..., Made]


def _compiled() -> OnePass | None:
    try:
        from servers import _one_pass
    except ImportError:  # where there was no C compiler, or no headers of Python
        return None
    _one_pass.bind(Record)
    return _one_pass.page


one_pass = _compiled()
"""`_one_pass.page`, where it was compiled."""

log = logging.getLogger(__name__)


class QuickPages:
    """First pages of home timelines: most of all that is read."""

    def __init__(
        self,
        *,
        skeleton: HomeSkeleton,
        hydrator: TweetHydrator,
        names: UserNames,
        marks: ViewerMarks,
        feed: PurgeFeed,
        settings: Settings,
    ) -> None:
        self._skeleton = skeleton
        self._hydrator = hydrator
        self._names = names
        self._marks = marks
        self._feed = feed
        self._distance = settings.repeat_distance
        if one_pass is None:
            log.warning("home pages are made in Python alone: servers/one_pass.c is not compiled")

    async def page(self, user: UserId, asked: Asked) -> bytes | None:
        """Returns the answer; None where it takes more than one pass. Raises nothing."""
        if one_pass is None or asked.below is not None:
            return None
        for heads in home_heads.looks(asked.below, asked.limit):
            look = await self._skeleton.look(user, heads)
            if look is None or (made := self._made(one_pass, user, asked, look)) is None:
                return None
            # All windows were there. Where one was not, Python counts what it finds.
            counts = self._skeleton.counts
            counts.timelines += 1
            counts.recents += len(look.known.pulled)
            page, tweets = made
            if page is not None:
                counts.quick_pages += 1
                self._hydrator.hits += tweets
                self._names.hits += tweets
                return page
        return None

    def _made(self, one_pass: OnePass, user: UserId, asked: Asked, look: Look) -> Made:
        marks = self._marks.kept(user, look.marks_token)
        if marks is None or not self._feed.fresh:
            return None
        known = look.known
        if known.packed is None:
            known.packed = packed(known.viewer.followees), packed(known.viewer.hidden)
        return one_pass(
            look.windows,
            user,
            *known.packed,
            marks.liked,
            marks.retweeted,
            marks.floor,
            self._hydrator.records,
            self._feed.erased,
            self._names.generation,
            asked.above,
            asked.limit,
            self._distance,
        )


def packed(ids: Set[UserId]) -> bytes:
    """Returns ids as `one_pass.page` takes them."""
    return array("Q", sorted(ids)).tobytes()

"""TimelineService: explaining a home timeline."""

import time
from collections.abc import Sequence, Set

import redis.exceptions
from chirp.v1 import timeline_pb2

from domain import explain
from domain.errors import InvalidArgument
from domain.explain import Facts, Reason, Verdict, Way
from domain.ids import TweetId, UserId, minted_at_ms
from domain.timeline import Entry, Viewer, is_visible
from mesh.rpc import Call
from mesh.settings import Settings
from servers.home_skeleton import Asked, HomeSkeleton
from servers.viewers import Viewers
from storage import candidates
from storage.database import Pool
from storage.timelines import TimelineStore, WindowKind

OLDER_FACTOR = 4  # candidates read for each visible one that is looked for, at first


class ExplainService:
    """Judges a tweet by the rules on PostgreSQL, then looks where the served timeline has it."""

    def __init__(
        self,
        *,
        pool: Pool,
        skeleton: HomeSkeleton,
        timelines: TimelineStore,
        viewers: Viewers,
        settings: Settings,
    ) -> None:
        self._pool = pool
        self._skeleton = skeleton
        self._timelines = timelines
        self._viewers = viewers
        self._distance = settings.repeat_distance

    async def ExplainHomeTimeline(
        self, request: timeline_pb2.ExplainHomeTimelineRequest, call: Call
    ) -> timeline_pb2.ExplainHomeTimelineResponse:
        """Explains one tweet to the caller."""
        if request.tweet_id < 1:
            raise InvalidArgument.of("tweetId", "must be a tweet id")
        tweet = TweetId(request.tweet_id)
        facts = await candidates.fetch_explained(self._pool, tweet)
        verdict = await self._judge(facts, call.caller)
        way, lag_ms = Way.NONE, 0
        if facts is not None and verdict.reason is Reason.SHOWN:
            way = await self._way(facts, call.caller)
            if way is Way.NONE:
                verdict = Verdict(Reason.ON_THE_WAY)
                lag_ms = max(0, int(time.time() * 1000) - minted_at_ms(tweet))
        return timeline_pb2.ExplainHomeTimelineResponse(
            shown=verdict.reason is Reason.SHOWN,
            reason=timeline_pb2.ExplainReason.ValueType(verdict.reason),
            way=timeline_pb2.ExplainWay.ValueType(way),
            sentence=explain.sentence(verdict, way, lag_ms),
            older_entry_id=verdict.older_entry,
            account_id=verdict.account,
            lag_ms=lag_ms,
        )

    async def _judge(self, facts: Facts | None, user: UserId) -> Verdict:
        if facts is None:
            return explain.judge(None, Viewer(user), frozenset(), ())
        viewer = await self._viewers.load_without_cache(user)
        muted = await self._muted(viewer)
        older = await self._older(viewer, facts.entry[0])
        return explain.judge(facts, viewer, muted, older)

    async def _muted(self, viewer: Viewer) -> Set[UserId]:
        """Those who are hidden for nothing but a mute."""
        return viewer.hidden - await candidates.fetch_blocked(self._pool, viewer.id)

    async def _older(self, viewer: Viewer, tweet: TweetId) -> Sequence[Entry]:
        """The visible entries next below a tweet."""
        visible: list[Entry] = []
        below, wanted = int(tweet), OLDER_FACTOR * self._distance
        while True:
            window = await candidates.fetch_home(
                self._pool, viewer, below=below, limit=wanted, pulled=True
            )
            visible += [entry for entry in window.entries if is_visible(entry, viewer)]
            if len(visible) >= self._distance or window.floor == 0:
                return visible[: self._distance]
            below = window.floor

    async def _way(self, facts: Facts, user: UserId) -> Way:
        """By which way the served timeline has it; NONE where it does not."""
        tweet, author, _, _ = facts.entry
        served = await self._skeleton.page(
            user, Asked(below=tweet + 1, above=tweet - 1, limit=1), deleted=()
        )
        if [entry[0] for entry in served.page.entries] != [tweet]:
            return Way.NONE
        if author == user:
            return Way.OWN
        try:
            home = await self._timelines.fetch(WindowKind.TIMELINE, user)
            if home is not None and any(entry[0] == tweet for entry in home.entries):
                built = await self._timelines.fetch_built(user)
                return Way.PUSHED if tweet > built else Way.REBUILT
            recent = await self._timelines.fetch(WindowKind.RECENT, author)
            if recent is not None and any(entry[0] == tweet for entry in recent.entries):
                return Way.PULLED
        except (redis.exceptions.RedisError, OSError):
            pass  # without the cache everything comes from the database
        return Way.PAST_THE_WINDOW

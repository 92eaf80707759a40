"""What the fan-out worker gathers from a batch of events before it applies anything."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any

from chirp.v1 import events_pb2

from domain.ids import UserId
from eventlog.contract import Record
from mesh import catalogue
from mesh.metrics import Histogram, Sample
from storage import tweet_cache
from storage.followers import Change
from storage.gathering import Ids

TIERS: Mapping[int, str] = {
    events_pb2.DELIVERY_PUSH: "normal",
    events_pb2.DELIVERY_PUSH_ACTIVE: "influencer",
    events_pb2.DELIVERY_PULL: "celebrity",
}
"""The tier that a tweet's author had at commit, by the delivery that was stamped then."""

Posted = tuple[int, float]
"""The delivery of a tweet, and when its event was written, in seconds since 1970."""


class Batch:
    """The changes of a batch in each shard, from all partitions together: what they deliver to one
    timeline goes there at once. And the fences that they came under."""

    def __init__(self, shards: int) -> None:
        self.fences: dict[int, int] = {}
        self.shards: list[list[Change]] = [[] for _ in range(shards)]

    def of_shard(self, record: Record, shard: int) -> list[Change]:
        """Returns the list to which changes that come from a record are to be added."""
        # Of two fences the lower: what came under it may be another's by now.
        known = self.fences.get(record.partition, record.fence)
        self.fences[record.partition] = min(record.fence, known)
        return self.shards[shard]


class Aside:
    """What a batch changes beside the windows."""

    def __init__(self) -> None:
        self.stale: dict[int, bytes] = {}
        self.first_pulled = False
        self.dropped: set[UserId] = set()
        self.marked: set[UserId] = set()
        self.erased: set[UserId] = set()
        self.posted: list[Posted] = []

    def note(self, event: events_pb2.Event, kind: str | None) -> None:
        """Takes down what an event changes."""
        match kind:
            case "tweet_created":
                created = event.tweet_created
                self.first_pulled |= created.first_pulled
                self._note_entry(created.entry, created.changed)
                # What is sent again to a log that was lost was visible long ago.
                if event.sequence > event.sent_again_to and created.delivery in TIERS:
                    at = event.occurred_at
                    self.posted.append((created.delivery, at.seconds + at.nanos * 1e-9))
            case "tweet_deleted":
                self._note_entry(event.tweet_deleted.entry, event.tweet_deleted.changed)
            case "tweet_liked":
                self._note_like(event.tweet_liked)
            case "tweet_unliked":
                self._note_like(event.tweet_unliked)
            case "user_blocked":
                self._drop(event.user_blocked.user_id, event.user_blocked.other_id)
            case "user_unblocked":
                self._drop(event.user_unblocked.user_id, event.user_unblocked.other_id)
            case "user_muted":
                self._drop(event.user_muted.user_id)
            case "user_unmuted":
                self._drop(event.user_unmuted.user_id)
            case "user_erased":
                self.erased.add(UserId(event.user_erased.user_id))
            case _:
                pass

    def _note_entry(
        self, entry: events_pb2.TimelineEntry, changed: Iterable[events_pb2.TweetVersion]
    ) -> None:
        self._note_versions(changed)
        if entry.original_id:
            self.marked.add(UserId(entry.author_id))

    def _note_like(self, like: events_pb2.TweetLiked | events_pb2.TweetUnliked) -> None:
        self._note_versions(like.changed)
        self.marked.add(UserId(like.user_id))

    def _note_versions(self, changed: Iterable[events_pb2.TweetVersion]) -> None:
        for change in changed:
            # Two partitions may bring versions of one tweet in any order; the greatest counts.
            version = tweet_cache.stale(change.version)
            self.stale[change.tweet_id] = max(version, self.stale.get(change.tweet_id, b""))

    def _drop(self, *users: int) -> None:
        self.dropped.update(UserId(user) for user in users)


class OnceEach:
    """Asks for the followers of each author once in a batch, however many shards miss them."""

    def __init__(self, load: Callable[[UserId], Coroutine[Any, Any, list[Ids]]]) -> None:
        self._load = load
        self._asked: dict[UserId, asyncio.Future[list[Ids]]] = {}

    async def __call__(self, author: UserId, shard: int) -> Ids:
        """Returns an author's followers in a shard."""
        if author not in self._asked:
            self._asked[author] = asyncio.ensure_future(self._load(author))
        return (await self._asked[author])[shard]


class Freshness:
    """How long tweets took from their commit until readers find them, by tier."""

    def __init__(self) -> None:
        self._seconds = {tier: Histogram(catalogue.FRESHNESS) for tier in TIERS.values()}

    def observe(self, posted: Iterable[Posted], now: float) -> None:
        """Counts what was made visible just now, in seconds since 1970."""
        for delivery, at in posted:
            # Clocks of two machines differ: what seems to come from the future was quick.
            self._seconds[TIERS[delivery]].observe(max(0.0, now - at))

    async def collect(self) -> list[Sample]:
        """Returns what was counted."""
        return [
            Sample(catalogue.FRESHNESS, seconds, (tier,)) for tier, seconds in self._seconds.items()
        ]

"""What viewers liked and retweeted, kept in the process as long as it holds.

All marks above a floor are kept, so that a tweet that is not among them is known to be unmarked:
new tweets cost nothing. A token in Valkey vouches for it, as in viewers.py; tweet_server and the
events delete it after each change.
"""

from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass

import redis.exceptions
from chirp.v1 import tweet_pb2, tweet_pb2_grpc

from domain.ids import UserId
from mesh.settings import Settings
from servers.tweet_presenter import Marks
from storage.timelines import TimelineStore

ASKED_MAX = 1_000  # ids in one question
MARKS_EACH = 20  # the cache's bound in marks, per viewer of its bound in viewers


@dataclass(frozen=True, slots=True)
class KeptMarks:
    """All marks of a viewer above a floor, and the token that vouches for them."""

    token: bytes
    liked: frozenset[int]
    retweeted: frozenset[int]
    floor: int

    @property
    def size(self) -> int:
        """How many marks are kept."""
        return len(self.liked) + len(self.retweeted)


class ViewerMarks:
    """Viewer -> marks. Bounded by viewers and by marks; the oldest goes first."""

    def __init__(
        self,
        stub: "tweet_pb2_grpc.TweetRecordServiceAsyncStub",
        timelines: TimelineStore,
        settings: Settings,
    ) -> None:
        self._stub = stub
        self._timelines = timelines
        self._max = settings.viewer_cache_max
        self._marks = 0
        self._known: OrderedDict[UserId, KeptMarks] = OrderedDict()

    @property
    def size(self) -> str:
        """How much is kept, and the bound."""
        return f"{self._marks} of at most {self._max * MARKS_EACH} marks"

    def kept(self, user: UserId, token: bytes | None) -> KeptMarks | None:
        """Returns what is kept of a viewer's marks, where the token vouches for it."""
        known = self._known.get(user)
        return known if known is not None and known.token == token else None

    async def of(self, user: UserId, ids: Collection[int], token: bytes | None) -> Marks:
        """Returns a viewer's marks on these tweets; `token` came with the read of the timeline,
        None where it did not. Raises AioRpcError where tweet_server is needed and away."""
        known = self.kept(user, token)
        if known is not None:
            below = [i for i in ids if i <= known.floor]
            if not below:
                return Marks(known.liked, known.retweeted)
            asked = await self._ask(user, below)
            return Marks(known.liked | {*asked.liked}, known.retweeted | {*asked.retweeted})
        try:
            # Set before the marks are read: a change after it deletes it.
            token = await self._timelines.ensure_token(self._timelines.keys.marks(user))
        except (redis.exceptions.RedisError, OSError):
            token = None
        answer = await self._ask(user, list(ids))
        known = KeptMarks(
            token or b"", frozenset(answer.liked), frozenset(answer.retweeted), answer.floor
        )
        if token is not None:
            self._keep(user, known)
        return Marks(known.liked, known.retweeted)

    async def _ask(self, user: UserId, ids: Collection[int]) -> tweet_pb2.GetViewerMarksResponse:
        return await self._stub.GetViewerMarks(
            tweet_pb2.GetViewerMarksRequest(user_id=user, ids=list(ids)[:ASKED_MAX]),
        )

    def _keep(self, user: UserId, known: KeptMarks) -> None:
        self._forget(user)
        # What was asked for below the floor is no promise for other tweets there.
        kept = KeptMarks(
            known.token,
            frozenset(i for i in known.liked if i > known.floor),
            frozenset(i for i in known.retweeted if i > known.floor),
            known.floor,
        )
        self._known[user] = kept
        self._marks += kept.size
        while len(self._known) > self._max or self._marks > self._max * MARKS_EACH:
            self._forget(next(iter(self._known)))

    def _forget(self, user: UserId) -> None:
        known = self._known.pop(user, None)
        if known is not None:
            self._marks -= known.size

"""What viewers liked and retweeted of the tweets that streams deliver: one question for all who get
a tweet at the same time, and none where nobody can have marked it yet."""

import asyncio
import time
from collections.abc import Callable, Collection, Container, Iterable

from chirp.v1 import tweet_pb2, tweet_pb2_grpc

from domain.ids import UserId, minted_at_ms
from domain.timeline import Viewer
from mesh.tasks import for_nobody
from servers.tweet_presenter import Marks

# Marks are at most so old anywhere; so a tweet that is younger has none that must be shown.
YOUNG_S = 2.0
ANSWERS_MAX = 256
USERS_EACH = 1_000
UNMARKED = Marks(frozenset(), frozenset())


class _Answer:
    """What is known of some tweets' marks, by a number of viewers."""

    def __init__(self, users: frozenset[UserId], asked: asyncio.Task[dict[UserId, Marks]]) -> None:
        self.users = users
        self.asked = asked
        self.at = time.monotonic()


class StreamMarks:
    """Asks tweet_server. Raises AioRpcError where it is away."""

    def __init__(
        self,
        stub: "tweet_pb2_grpc.TweetRecordServiceAsyncStub",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._stub = stub
        self._clock = clock
        self._answers: dict[frozenset[int], _Answer] = {}

    def young_s(self, tweet: int) -> float:
        """For how many seconds from now on nobody's mark on this tweet must be shown."""
        return minted_at_ms(tweet) / 1000 + YOUNG_S - self._clock()

    def are_young(self, ids: Iterable[int]) -> bool:
        """Whether nobody can have marked these tweets long enough ago for it to show."""
        since_ms = (self._clock() - YOUNG_S) * 1000
        return all(minted_at_ms(tweet) > since_ms for tweet in ids)

    async def of(self, user: UserId, ids: Collection[int], others: Iterable[UserId]) -> Marks:
        """Returns a viewer's marks on these tweets; `others` are who will ask the same soon."""
        if self.are_young(ids):
            return UNMARKED
        key = frozenset(ids)
        answer = self._answers.get(key)
        if answer is None or user not in answer.users or _is_old(answer):
            users = frozenset((user, *others))
            asked = asyncio.create_task(self._ask(users, list(key)), context=for_nobody())
            answer = _Answer(users, asked)
            answer.asked.add_done_callback(lambda task: task.cancelled() or task.exception())
            self._keep(key, answer)
        # One stream that ends must not take the answer from the others.
        marks = await asyncio.shield(answer.asked)
        return marks.get(user, UNMARKED)

    async def _ask(self, users: frozenset[UserId], ids: list[int]) -> dict[UserId, Marks]:
        liked: dict[UserId, set[int]] = {}
        retweeted: dict[UserId, set[int]] = {}
        asked = list(users)
        for start in range(0, len(asked), USERS_EACH):
            answer = await self._stub.BatchGetMarks(
                tweet_pb2.BatchGetMarksRequest(
                    tweet_ids=ids, user_ids=asked[start : start + USERS_EACH]
                ),
            )
            for known, marks in ((liked, answer.likes), (retweeted, answer.retweets)):
                for mark in marks:
                    known.setdefault(UserId(mark.user_id), set()).add(mark.tweet_id)
        return {
            user: Marks(frozenset(liked.get(user, ())), frozenset(retweeted.get(user, ())))
            for user in liked.keys() | retweeted.keys()
        }

    def _keep(self, key: frozenset[int], answer: _Answer) -> None:
        self._answers.pop(key, None)
        self._answers[key] = answer
        while len(self._answers) > ANSWERS_MAX or (
            self._answers and _is_old(next(iter(self._answers.values())))
        ):
            del self._answers[next(iter(self._answers))]


class StreamView:
    """A stream's viewer, as the presenter asks (tweet_presenter.View)."""

    def __init__(self, viewer: Viewer, marks: StreamMarks, others: Iterable[UserId]) -> None:
        self._viewer = viewer
        self._marks = marks
        self._others = others

    async def marks(self, ids: Collection[int]) -> Marks | None:
        """See View."""
        return await self._marks.of(self._viewer.id, ids, self._others)

    async def hidden(self, accounts: Collection[int]) -> Container[int]:
        """See View."""
        return self._viewer.hidden


def _is_old(answer: _Answer) -> bool:
    return time.monotonic() - answer.at > YOUNG_S / 2

"""How tweet_server answers tweets: rows and marks from its own tables, blocks and names from
graph_server."""

from collections.abc import AsyncIterator, Collection, Container, Sequence

from chirp.v1 import graph_pb2, graph_pb2_grpc, tweet_pb2

from domain.errors import Blocked, TweetNotFound
from domain.ids import UserId
from servers import tweet_records
from servers.tweet_presenter import ANONYMOUS, Marks, TweetPresenter, View
from servers.tweet_records import Record
from servers.user_message import present_summary
from storage import likes, retweets, tweets
from storage.database import Pool
from storage.tweets import Target, TweetRow
from storage.users import SummaryRow

ASKED_MAX = 1_000  # accounts in one question to graph_server; a thread may name more


class TweetReader:
    """What the services of tweet_server share."""

    def __init__(
        self,
        pool: Pool,
        presenter: TweetPresenter,
        blocks: "graph_pb2_grpc.BlockDirectoryServiceAsyncStub",
    ) -> None:
        self._pool = pool
        self._presenter = presenter
        self._blocks = blocks

    async def answer(self, row: TweetRow, user: UserId | None) -> bytes:
        """Returns one tweet as `user` sees it."""
        return (await self.tweets([row], user))[0]

    async def answer_new(
        self, record: tweet_pb2.TweetRecord, author: SummaryRow | None, user: UserId
    ) -> bytes:
        """The same of a tweet that was just made: nobody marked it yet, and its author was read
        with it."""
        made = tweet_records.from_proto(record)
        if author is not None and not made.refers:
            field = tweet_records.author_field(present_summary(author))
            return tweet_records.tweet_bytes(made, field) + tweet_records.UNMARKED
        view = _SignedIn(self, self._pool, user, new=record.id)
        return (await self._presenter.tweets([made], view, self._fetch))[0]

    async def answer_id(self, tweet_id: int, user: UserId | None) -> bytes:
        """The same by id; raises TweetNotFound where it, or what it repeats, is not there."""
        for row in await tweets.fetch_living(self._pool, [tweet_id]):
            return await self.answer(row, user)
        raise TweetNotFound("no such tweet")

    async def tweets(self, rows: Sequence[TweetRow], user: UserId | None) -> list[bytes]:
        """Returns serialised tweets."""
        return await self._presenter.tweets(_records(rows), self._view(user), self._fetch)

    async def frames(self, rows: Sequence[TweetRow], user: UserId | None) -> list[bytes]:
        """Returns tweets as they stand in an answer's `tweets`."""
        return await self._presenter.frames(_records(rows), self._view(user), self._fetch)

    async def target(self, tweet_id: int, *, undone: bool = False) -> Target:
        """Returns the tweet that is liked, retweeted or listed: of a retweet, its original;
        `undone` says that the retweet may be undone already. Raises TweetNotFound."""
        targets = await tweets.fetch_targets(self._pool, [tweet_id], undone=undone)
        target = targets.get(tweet_id)
        if target is None:
            raise TweetNotFound("no such tweet")
        return target

    async def blocked_among(self, user: UserId, accounts: Collection[int]) -> set[int]:
        """Returns which accounts block the user or are blocked. Never asked in a transaction: a
        block waits for the account's row, and graph_server's answer would wait for the block.

        So a write that began before a block was answered may commit after it, as if it had come
        first. What begins after the answer is refused.
        """
        others = set(accounts) - {user}
        found: set[int] = set()
        async for answer in self._relations(user, others):
            found.update(answer.blocked_ids)
        return found

    async def refuse_blocked(self, user: UserId, author: int) -> None:
        """Raises Blocked where it is so; see `blocked_among`."""
        if await self.blocked_among(user, [author]):
            raise blocked()

    async def hidden(self, user: UserId, accounts: Collection[int]) -> Container[int]:
        """Returns which accounts are blocked either way or muted."""
        hidden: set[int] = set()
        async for answer in self._relations(user, accounts):
            hidden.update(answer.blocked_ids, answer.muted_ids)
        return hidden

    async def _relations(
        self, user: UserId, others: Collection[int]
    ) -> AsyncIterator[graph_pb2.BatchGetBlocksResponse]:
        asked = list(others)
        for start in range(0, len(asked), ASKED_MAX):
            yield await self._blocks.BatchGetBlocks(
                graph_pb2.BatchGetBlocksRequest(
                    user_id=user, other_ids=asked[start : start + ASKED_MAX]
                ),
            )

    async def _fetch(self, ids: Sequence[int]) -> dict[int, Record]:
        rows = await tweets.fetch_by_ids(self._pool, ids) if ids else []
        return {record.tweet_id: record for record in _records(rows)}

    def _view(self, user: UserId | None) -> View:
        return ANONYMOUS if user is None else _SignedIn(self, self._pool, user)


class _SignedIn:
    """A view of tweet_server's own tables."""

    def __init__(self, reader: TweetReader, pool: Pool, user: UserId, *, new: int = 0) -> None:
        self._reader = reader
        self._pool = pool
        self._user = user
        self._new = new

    async def marks(self, ids: Collection[int]) -> Marks | None:
        """See View."""
        asked = [tweet_id for tweet_id in ids if tweet_id != self._new]
        if not asked:
            return Marks(frozenset(), frozenset())
        return Marks(
            liked=frozenset(await likes.fetch_liked_among(self._pool, self._user, asked)),
            retweeted=frozenset(
                await retweets.fetch_retweeted_among(self._pool, self._user, asked)
            ),
        )

    async def hidden(self, accounts: Collection[int]) -> Container[int]:
        """See View."""
        return await self._reader.hidden(self._user, accounts)


def blocked() -> Blocked:
    """Returns the refusal of a write between two accounts of which one blocks the other."""
    return Blocked("one of you blocks the other")


def _records(rows: Sequence[TweetRow]) -> list[Record]:
    return [tweet_records.from_proto(tweet_records.from_row(row)) for row in rows]

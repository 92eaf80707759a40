"""How tweet_server answers tweets: rows and marks from its own tables, blocks and names from
graph_server."""

from collections.abc import Collection, Container, Sequence

from chirp.v1 import graph_pb2, graph_pb2_grpc

from domain.errors import Blocked, TweetNotFound
from domain.ids import UserId
from mesh.clients import Metadata
from servers import tweet_records
from servers.tweet_presenter import ANONYMOUS, Marks, TweetPresenter, View
from servers.tweet_records import Record
from storage import likes, retweets, tweets
from storage.database import Pool
from storage.tweets import Target, TweetRow


class TweetReader:
    """What the services of tweet_server share."""

    def __init__(
        self,
        pool: Pool,
        presenter: TweetPresenter,
        blocks: "graph_pb2_grpc.BlockDirectoryServiceAsyncStub",
        metadata: Metadata,
    ) -> None:
        self._pool = pool
        self._presenter = presenter
        self._blocks = blocks
        self._metadata = metadata

    async def answer(self, row: TweetRow, user: UserId | None) -> bytes:
        """Returns one tweet as `user` sees it."""
        return (await self.tweets([row], user))[0]

    async def answer_id(self, tweet_id: int, user: UserId | None) -> bytes:
        """The same by id; raises TweetNotFound where it is not there or deleted."""
        for row in await tweets.fetch_by_ids(self._pool, [tweet_id]):
            if row.deleted_at is None:
                return await self.answer(row, user)
        raise TweetNotFound("no such tweet")

    async def tweets(self, rows: Sequence[TweetRow], user: UserId | None) -> list[bytes]:
        """Returns serialised tweets."""
        return await self._presenter.tweets(_records(rows), self._view(user), self._fetch)

    async def frames(self, rows: Sequence[TweetRow], user: UserId | None) -> list[bytes]:
        """Returns tweets as they stand in an answer's `tweets`."""
        return await self._presenter.frames(_records(rows), self._view(user), self._fetch)

    async def target(self, tweet_id: int) -> Target:
        """Returns the tweet that is liked, retweeted or listed: of a retweet, its original. Raises
        TweetNotFound."""
        target = await tweets.fetch_target(self._pool, tweet_id)
        if target is None:
            raise TweetNotFound("no such tweet")
        return target

    async def refuse_blocked(
        self, user: UserId, authors: Collection[int], *, others: Collection[int] = ()
    ) -> Container[int]:
        """Raises Blocked where one of the authors blocks the user or is blocked; returns which of
        the others do or are."""
        asked = {*authors, *others} - {user}
        blocked = set((await self._relations(user, asked)).blocked_ids) if asked else set[int]()
        if not blocked.isdisjoint(authors):
            raise Blocked("one of you blocks the other")
        return blocked

    async def hidden(self, user: UserId, accounts: Collection[int]) -> Container[int]:
        """Returns which accounts are blocked either way or muted."""
        answer = await self._relations(user, accounts)
        return {*answer.blocked_ids, *answer.muted_ids}

    async def _relations(
        self, user: UserId, others: Collection[int]
    ) -> graph_pb2.BatchGetBlocksResponse:
        return await self._blocks.BatchGetBlocks(
            graph_pb2.BatchGetBlocksRequest(user_id=user, other_ids=others),
            metadata=self._metadata,
        )

    async def _fetch(self, ids: Sequence[int]) -> dict[int, Record]:
        rows = await tweets.fetch_by_ids(self._pool, ids) if ids else []
        return {record.tweet_id: record for record in _records(rows)}

    def _view(self, user: UserId | None) -> View:
        return ANONYMOUS if user is None else _SignedIn(self, self._pool, user)


class _SignedIn:
    """A view of tweet_server's own tables."""

    def __init__(self, reader: TweetReader, pool: Pool, user: UserId) -> None:
        self._reader = reader
        self._pool = pool
        self._user = user

    async def marks(self, ids: Collection[int]) -> Marks | None:
        """See View."""
        asked = list(ids)
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


def _records(rows: Sequence[TweetRow]) -> list[Record]:
    return [tweet_records.from_proto(tweet_records.from_row(row)) for row in rows]

"""TweetService: threads."""

from collections.abc import Mapping, Sequence

from chirp.v1 import tweet_pb2

from domain import paging
from domain.errors import TweetNotFound
from domain.ids import TweetId, UserId
from mesh.rpc import Call
from mesh.server import MESSAGE_BYTES_MAX
from servers import tweet_records
from servers.tweet_reader import TweetReader
from servers.tweet_service import check_id
from storage import threads, tweets
from storage.database import Pool

_ANCESTORS, _TWEET, _REPLIES = 1, 2, 3  # fields of GetThreadResponse
SPARE_BYTES = 65_536  # of a message, for what is beside the tweets


class ThreadService:
    """Reads threads. Of a retweet, its original's."""

    def __init__(self, pool: Pool, reader: TweetReader) -> None:
        self._pool = pool
        self._reader = reader

    async def GetThread(self, request: tweet_pb2.GetThreadRequest, call: Call) -> bytes:
        """Gets a tweet, its ancestors and a page of its direct replies."""
        check_id("id", request.id)
        limit = paging.limit(request.limit if request.HasField("limit") else None)
        above = paging.decode_cursor(request.cursor) or 0
        tweet = TweetId((await self._reader.target(request.id)).id)
        ancestors = await threads.fetch_ancestors(self._pool, tweet)
        replies = await threads.fetch_replies(self._pool, tweet, above=above, count=limit + 1)
        has_more = len(replies) > limit
        replies = replies[:limit]
        shown = await self._shown(tweet, [*ancestors, *replies], call.user_id)
        end = tweet_pb2.GetThreadResponse(
            next_cursor=paging.encode_cursor(replies[-1]) if has_more else "", has_more=has_more
        )
        below = [
            tweet_records.member(_TWEET, shown[tweet]),
            *(tweet_records.member(_REPLIES, shown[i]) for i in replies),
            end.SerializeToString(),
        ]
        left = MESSAGE_BYTES_MAX - SPARE_BYTES - sum(map(len, below))
        return b"".join([*_nearest(ancestors, shown, left), *below])

    async def _shown(
        self, tweet: TweetId, others: Sequence[int], user: UserId | None
    ) -> dict[int, bytes]:
        """Returns serialised tweets; of the others, those that are gone too."""
        rows = await tweets.fetch_by_ids(self._pool, [tweet, *others])
        living = [row for row in rows if row.deleted_at is None]
        contents = await self._reader.tweets(living, user)
        shown = {row.id: content for row, content in zip(living, contents, strict=True)}
        if tweet not in shown:  # deleted since it was looked for
            raise TweetNotFound("no such tweet")
        for row in rows:
            if row.deleted_at is not None:
                gone = tweet_pb2.Tweet(
                    id=row.id,
                    reply_to=row.reply_to or 0,
                    conversation_id=row.conversation_id,
                    gone=True,
                )
                shown[row.id] = gone.SerializeToString()
        return shown


def _nearest(ancestors: Sequence[int], shown: Mapping[int, bytes], left: int) -> list[bytes]:
    """Returns the ancestors that fit into `left` bytes, the furthest first: the chain has no gap.
    That is all of them, unless they are a thousand and long."""
    members: list[bytes] = []
    for tweet_id in reversed(ancestors):
        member = tweet_records.member(_ANCESTORS, shown[tweet_id])
        left -= len(member)
        if left < 0:
            break
        members.append(member)
    return members[::-1]

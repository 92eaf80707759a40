"""TweetService: threads."""

from collections.abc import Sequence

from chirp.v1 import tweet_pb2

from domain import paging
from domain.ids import TweetId, UserId
from mesh.rpc import Call
from servers.tweet_reader import TweetReader
from servers.tweet_service import check_id
from storage import threads, tweets
from storage.database import Pool


class ThreadService:
    """Reads threads. Of a retweet, its original's."""

    def __init__(self, pool: Pool, reader: TweetReader) -> None:
        self._pool = pool
        self._reader = reader

    async def GetThread(
        self, request: tweet_pb2.GetThreadRequest, call: Call
    ) -> tweet_pb2.GetThreadResponse:
        """Gets a tweet, its ancestors and a page of its direct replies."""
        check_id("id", request.id)
        limit = paging.limit(request.limit if request.HasField("limit") else None)
        above = paging.decode_cursor(request.cursor) or 0
        tweet = TweetId((await self._reader.target(request.id)).id)
        ancestors = await threads.fetch_ancestors(self._pool, tweet)
        replies = await threads.fetch_replies(self._pool, tweet, above=above, count=limit + 1)
        has_more = len(replies) > limit
        replies = replies[:limit]
        shown = await self._shown([*ancestors, tweet, *replies], call.user_id)
        return tweet_pb2.GetThreadResponse(
            ancestors=[shown[i] for i in ancestors],
            tweet=shown[tweet],
            replies=[shown[i] for i in replies],
            next_cursor=paging.encode_cursor(replies[-1]) if has_more else "",
            has_more=has_more,
        )

    async def _shown(self, ids: Sequence[int], user: UserId | None) -> dict[int, tweet_pb2.Tweet]:
        rows = await tweets.fetch_by_ids(self._pool, ids)
        living = [row for row in rows if row.deleted_at is None]
        shown = {
            row.id: tweet_pb2.Tweet.FromString(content)
            for row, content in zip(living, await self._reader.tweets(living, user), strict=True)
        }
        for row in rows:
            if row.deleted_at is not None:
                shown[row.id] = tweet_pb2.Tweet(
                    id=row.id,
                    reply_to=row.reply_to or 0,
                    conversation_id=row.conversation_id,
                    gone=True,
                )
        return shown

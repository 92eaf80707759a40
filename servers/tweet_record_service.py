"""TweetRecordService: what other servers ask of tweet_server."""

from chirp.v1 import tweet_pb2

from domain.errors import InvalidArgument
from domain.ids import UserId
from mesh.rpc import Call
from servers import tweet_records
from storage import likes, retweets, tweet_cache, tweets
from storage.database import Pool
from storage.valkey import Valkey, best_effort

RECORDS_MAX = 1_000
MARKS_EACH = 1_000  # likes, and retweets, that are answered without being asked for


class TweetRecordService:
    """Gives other servers the stored form of tweets, and viewers' marks."""

    def __init__(self, *, pool: Pool, cache: Valkey) -> None:
        self._pool = pool
        self._cache = cache

    async def BatchGetTweetRecords(
        self, request: tweet_pb2.BatchGetTweetRecordsRequest, call: Call
    ) -> tweet_pb2.BatchGetTweetRecordsResponse:
        """Gets records from PostgreSQL, and puts them into the shared cache."""
        if not 1 <= len(request.ids) <= RECORDS_MAX:
            raise InvalidArgument.of("ids", f"must hold 1 to {RECORDS_MAX} ids")
        rows = await tweets.fetch_by_ids(self._pool, request.ids)
        records = [tweet_records.from_row(row) for row in rows]
        stored = {
            record.id: tweet_cache.encode(record.version, record.SerializeToString())
            for record in records
        }
        if stored:
            await best_effort("caching tweets", tweet_cache.put(self._cache, stored))
        return tweet_pb2.BatchGetTweetRecordsResponse(records=records)

    async def GetViewerMarks(
        self, request: tweet_pb2.GetViewerMarksRequest, call: Call
    ) -> tweet_pb2.GetViewerMarksResponse:
        """Gets all marks above a floor, and those on the tweets asked for."""
        if request.user_id < 1:
            raise InvalidArgument.of("userId", "must be an account's id")
        if len(request.ids) > RECORDS_MAX:
            raise InvalidArgument.of("ids", f"must hold at most {RECORDS_MAX} ids")
        user = UserId(request.user_id)
        liked = await likes.fetch_liked(self._pool, user, count=MARKS_EACH)
        retweeted = await retweets.fetch_retweeted(self._pool, user, count=MARKS_EACH)
        floor = max((ids[-1] for ids in (liked, retweeted) if len(ids) == MARKS_EACH), default=0)
        marked = {i for i in liked if i > floor}, {i for i in retweeted if i > floor}
        below = [i for i in request.ids if i <= floor]
        if below:
            marked[0].update(await likes.fetch_liked_among(self._pool, user, below))
            marked[1].update(await retweets.fetch_retweeted_among(self._pool, user, below))
        return tweet_pb2.GetViewerMarksResponse(liked=marked[0], retweeted=marked[1], floor=floor)

    async def BatchGetMarks(
        self, request: tweet_pb2.BatchGetMarksRequest, call: Call
    ) -> tweet_pb2.BatchGetMarksResponse:
        """Gets who of the viewers marked which of the tweets."""
        for field, ids in (("tweetIds", request.tweet_ids), ("userIds", request.user_ids)):
            if not 1 <= len(ids) <= RECORDS_MAX:
                raise InvalidArgument.of(field, f"must hold 1 to {RECORDS_MAX} ids")
        users, ids = request.user_ids, request.tweet_ids
        liked = await likes.fetch_among(self._pool, users=users, ids=ids)
        retweeted = await retweets.fetch_among(self._pool, users=users, ids=ids)
        return tweet_pb2.BatchGetMarksResponse(
            likes=[tweet_pb2.Mark(user_id=user, tweet_id=tweet) for user, tweet in liked],
            retweets=[tweet_pb2.Mark(user_id=user, tweet_id=tweet) for user, tweet in retweeted],
        )

"""The short form: three methods under plainer names, for clients that say whom they act for.
They check that, and are otherwise CreateTweet, GetHomeTimeline and FollowUser."""

from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager

from chirp.v1 import graph_pb2, timeline_pb2, tweet_pb2, user_pb2

from domain.errors import FieldViolation, InvalidArgument, NotYours
from mesh.rpc import Call

CreateTweet = Callable[[tweet_pb2.CreateTweetRequest, Call], Awaitable[bytes]]
GetHomeTimeline = Callable[[timeline_pb2.GetHomeTimelineRequest, Call], Awaitable[bytes]]
FollowUser = Callable[[graph_pb2.FollowUserRequest, Call], Awaitable[user_pb2.User]]


class ShortTweets:
    """Of TweetService."""

    def __init__(self, create: CreateTweet) -> None:
        self._create = create

    async def PostTweet(
        self, request: tweet_pb2.PostTweetRequest, call: Call
    ) -> tweet_pb2.PostTweetResponse:
        """Creates a plain tweet."""
        _require_own("userId", request.user_id, call)
        long = tweet_pb2.CreateTweetRequest(content=request.content, media_urls=request.media)
        with _named({"mediaUrls": "media"}):
            tweet = tweet_pb2.Tweet.FromString(await self._create(long, call))
        return tweet_pb2.PostTweetResponse(tweet_id=tweet.id, timestamp=tweet.created_at)


class ShortTimelines:
    """Of TimelineService."""

    def __init__(self, get: GetHomeTimeline) -> None:
        self._get = get

    async def GetFeed(self, request: timeline_pb2.GetFeedRequest, call: Call) -> bytes:
        """Gets a page of the caller's home timeline."""
        _require_own("userId", request.user_id, call)
        limit = request.limit if request.HasField("limit") else None
        long = timeline_pb2.GetHomeTimelineRequest(limit=limit, cursor=request.cursor)
        return await self._get(long, call)


class ShortGraph:
    """Of GraphService."""

    def __init__(self, follow: FollowUser) -> None:
        self._follow = follow

    async def Follow(
        self, request: graph_pb2.FollowRequest, call: Call
    ) -> graph_pb2.FollowResponse:
        """Follows an account."""
        _require_own("followerId", request.follower_id, call)
        with _named({"id": "followeeId"}):
            await self._follow(graph_pb2.FollowUserRequest(id=request.followee_id), call)
        return graph_pb2.FollowResponse()


def _require_own(field: str, user_id: int, call: Call) -> None:
    if user_id < 1:
        raise InvalidArgument.of(field, "must be your own id")
    if user_id != call.caller:
        raise NotYours(f"{field} must be your own id")


@contextmanager
def _named(names: dict[str, str]) -> Generator[None]:
    """Lets an error name fields as the short form does; `mediaUrls[1]` is of `mediaUrls`."""
    try:
        yield
    except InvalidArgument as error:
        violations: list[FieldViolation] = []
        for each in error.violations:
            name, bracket, index = each.field.partition("[")
            field = names.get(name, name) + bracket + index
            violations.append(FieldViolation(field, each.description))
        raise type(error)(violations) from None

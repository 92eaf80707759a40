"""How long each RPC may take, and whether a caller may send it twice: one row for each RPC of all
services. A server without one does not start, and a client without one cannot be made.

A deadline travels on. Who calls another server within a call gives it what is left of that call,
less a margin, and at most the row of what it calls. What a caller no longer waits for is stopped:
by gRPC where the caller went or its deadline passed, by `mesh/work.py` where a row was used up.
"""

from contextvars import ContextVar
from enum import Enum
from typing import NamedTuple, Protocol


class Repeat(Enum):
    """When a call that found nobody, or failed half-way, is made again by `mesh/clients.py`."""

    READ = "always: it changes nothing"
    REQUEST_ID = "where it carries a request id, by which the server knows it again"
    NEVER = "never: nobody knows whether it was done"


class Rule(NamedTuple):
    """What holds for one RPC."""

    deadline_s: float | None
    """None: a stream, which lasts."""
    repeat: Repeat


# Shorter than what the gateway waits for (`Gateway.call_timeout_s`), so that a server's own answer
# comes first; and longer than a wait for another server.
READ = Rule(5.0, Repeat.READ)
WRITE = Rule(8.0, Repeat.NEVER)
# Passwords are hashed one after the other, for up to 64 callers that wait.
HASHING = Rule(8.0, Repeat.NEVER)
# Asked on somebody's behalf, by key: two seconds are many times what it takes.
LOOKUP = Rule(2.0, Repeat.READ)
STREAM = Rule(None, Repeat.READ)

RULES: dict[str, Rule] = {
    "/chirp.v1.UserService/CreateUser": HASHING,
    "/chirp.v1.UserService/CreateSession": HASHING,
    "/chirp.v1.UserService/GetMe": READ,
    "/chirp.v1.UserService/UpdateMe": WRITE,
    "/chirp.v1.UserService/DeleteMe": HASHING,
    "/chirp.v1.UserService/DeleteCurrentSession": WRITE,
    "/chirp.v1.UserService/DeleteSessions": WRITE,
    "/chirp.v1.UserService/GetUser": READ,
    "/chirp.v1.UserService/GetUserByUsername": READ,
    "/chirp.v1.UserService/GetJwks": LOOKUP,
    "/chirp.v1.UserDirectoryService/BatchGetUserSummaries": LOOKUP,
    "/chirp.v1.UserDirectoryService/BatchGetUsers": LOOKUP,
    "/chirp.v1.UserDirectoryService/ResolveUsernames": LOOKUP,
    "/chirp.v1.BlockDirectoryService/BatchGetBlocks": LOOKUP,
    "/chirp.v1.FollowerDirectoryService/ListFollowerIds": LOOKUP,
    "/chirp.v1.GraphService/Follow": WRITE,
    "/chirp.v1.GraphService/FollowUser": WRITE,
    "/chirp.v1.GraphService/UnfollowUser": WRITE,
    "/chirp.v1.GraphService/ListFollowers": READ,
    "/chirp.v1.GraphService/ListFollowing": READ,
    "/chirp.v1.GraphService/BlockUser": WRITE,
    "/chirp.v1.GraphService/UnblockUser": WRITE,
    "/chirp.v1.GraphService/MuteUser": WRITE,
    "/chirp.v1.GraphService/UnmuteUser": WRITE,
    "/chirp.v1.TweetService/CreateTweet": Rule(8.0, Repeat.REQUEST_ID),
    "/chirp.v1.TweetService/PostTweet": WRITE,
    "/chirp.v1.TweetService/GetTweet": READ,
    "/chirp.v1.TweetService/DeleteTweet": WRITE,
    "/chirp.v1.TweetService/GetThread": READ,
    "/chirp.v1.TweetService/CreateLike": WRITE,
    "/chirp.v1.TweetService/DeleteLike": WRITE,
    "/chirp.v1.TweetService/CreateRetweet": WRITE,
    "/chirp.v1.TweetService/DeleteRetweet": WRITE,
    "/chirp.v1.TweetService/ListLikers": READ,
    "/chirp.v1.TweetService/ListRetweeters": READ,
    "/chirp.v1.TweetService/BatchGetTweets": READ,
    "/chirp.v1.TweetRecordService/BatchGetTweetRecords": LOOKUP,
    "/chirp.v1.TweetRecordService/GetViewerMarks": LOOKUP,
    "/chirp.v1.TweetRecordService/BatchGetMarks": LOOKUP,
    "/chirp.v1.TimelineService/GetHomeTimeline": READ,
    "/chirp.v1.TimelineService/GetFeed": READ,
    "/chirp.v1.TimelineService/CountNewer": READ,
    # For people who look for a reason; it asks PostgreSQL for a whole timeline.
    "/chirp.v1.TimelineService/ExplainHomeTimeline": Rule(8.0, Repeat.READ),
    "/chirp.v1.TimelineService/StreamHomeTimeline": STREAM,
    "/chirp.v1.TimelineService/GetUserTimeline": READ,
    "/chirp.v1.TimelineUpkeepService/RebuildHomeTimeline": Rule(8.0, Repeat.NEVER),
    "/chirp.v1.TrendService/ListTrends": READ,
    "/chirp.v1.TrendService/StreamTrends": STREAM,
    "/chirp.v1.TrendService/ExplainTrend": READ,
    "/chirp.v1.TrendCountService/GetTrendCounts": LOOKUP,
    "/chirp.v1.NotificationService/ListNotifications": READ,
    "/chirp.v1.NotificationService/MarkRead": WRITE,
    "/chirp.v1.NotificationService/StreamNotifications": STREAM,
}

MARGIN_S = 0.05
"""What a server keeps of its caller's deadline: to make of the other server's answer its own."""


class Caller(Protocol):
    """Who waits for what the current task does."""

    def remaining_s(self) -> float | None:
        """How long the caller waits yet; None where it waits for ever."""
        ...


CALLER: ContextVar[Caller | None] = ContextVar("chirp_caller", default=None)
"""Set by `mesh/rpc.py` for each call; None in loops, and in work that callers share."""


def left_s(own_s: float) -> float:
    """Returns how long a call from here may take that may take `own_s` by itself."""
    caller = CALLER.get()
    remaining_s = None if caller is None else caller.remaining_s()
    return own_s if remaining_s is None else max(0.0, min(own_s, remaining_s - MARGIN_S))

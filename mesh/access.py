"""Who may call what, and how often: one rule and one kind of action for each RPC. An RPC without
them stops its server at start, as does one for services that none of them may call."""

from enum import Enum

from domain.rate import Kind


class Access(Enum):
    """The rules."""

    OPEN = "anyone; a token is verified where one is sent"
    SIGNED_IN = "a user whose session stands"
    OWNER = "likewise, and what is read or changed is the caller's own: nobody else's is reached"
    SERVICE = "those of Chirp's own services that CALLERS names"


COMMAND_LINE = "chirp"
"""The name under which the command line calls services."""

SERVICES = (
    "tweet_server",
    "graph_server",
    "timeline_server",
    "trend_server",
    "notification_server",
    "outbox_relay",
    "fanout_worker",
    "trend_worker",
    "notification_worker",
    COMMAND_LINE,
)
"""Everybody who has an identity: `sub` of their tokens is `service:<name>`."""

SERVERS = {
    "chirp.v1.TweetService": "tweet_server",
    "chirp.v1.TweetRecordService": "tweet_server",
    "chirp.v1.UserService": "graph_server",
    "chirp.v1.UserDirectoryService": "graph_server",
    "chirp.v1.GraphService": "graph_server",
    "chirp.v1.BlockDirectoryService": "graph_server",
    "chirp.v1.FollowerDirectoryService": "graph_server",
    "chirp.v1.TimelineService": "timeline_server",
    "chirp.v1.TimelineUpkeepService": "timeline_server",
    "chirp.v1.TrendService": "trend_server",
    "chirp.v1.TrendCountService": "trend_worker",
    "chirp.v1.NotificationService": "notification_server",
}
"""Which of SERVICES answers each gRPC service, and so whose certificate its callers want."""


RULES: dict[str, Access] = {
    "/chirp.v1.UserService/CreateUser": Access.OPEN,
    "/chirp.v1.UserService/CreateSession": Access.OPEN,
    "/chirp.v1.UserService/GetMe": Access.OWNER,
    "/chirp.v1.UserService/UpdateMe": Access.OWNER,
    "/chirp.v1.UserService/DeleteMe": Access.OWNER,
    "/chirp.v1.UserService/DeleteCurrentSession": Access.OWNER,
    "/chirp.v1.UserService/DeleteSessions": Access.OWNER,
    "/chirp.v1.UserService/GetUser": Access.OPEN,
    "/chirp.v1.UserService/GetUserByUsername": Access.OPEN,
    "/chirp.v1.UserService/GetJwks": Access.OPEN,
    "/chirp.v1.UserDirectoryService/BatchGetUserSummaries": Access.SERVICE,
    "/chirp.v1.UserDirectoryService/BatchGetUsers": Access.SERVICE,
    "/chirp.v1.UserDirectoryService/ResolveUsernames": Access.SERVICE,
    "/chirp.v1.GraphService/FollowUser": Access.SIGNED_IN,
    "/chirp.v1.GraphService/Follow": Access.OWNER,
    "/chirp.v1.GraphService/UnfollowUser": Access.SIGNED_IN,
    "/chirp.v1.GraphService/ListFollowers": Access.OPEN,
    "/chirp.v1.GraphService/ListFollowing": Access.OPEN,
    "/chirp.v1.GraphService/BlockUser": Access.SIGNED_IN,
    "/chirp.v1.GraphService/UnblockUser": Access.SIGNED_IN,
    "/chirp.v1.GraphService/MuteUser": Access.SIGNED_IN,
    "/chirp.v1.GraphService/UnmuteUser": Access.SIGNED_IN,
    "/chirp.v1.BlockDirectoryService/BatchGetBlocks": Access.SERVICE,
    "/chirp.v1.FollowerDirectoryService/ListFollowerIds": Access.SERVICE,
    "/chirp.v1.TweetService/CreateTweet": Access.SIGNED_IN,
    "/chirp.v1.TweetService/PostTweet": Access.OWNER,
    "/chirp.v1.TweetService/GetTweet": Access.OPEN,
    "/chirp.v1.TweetService/DeleteTweet": Access.OWNER,
    "/chirp.v1.TweetService/GetThread": Access.OPEN,
    "/chirp.v1.TweetService/CreateLike": Access.SIGNED_IN,
    "/chirp.v1.TweetService/DeleteLike": Access.SIGNED_IN,
    "/chirp.v1.TweetService/CreateRetweet": Access.SIGNED_IN,
    "/chirp.v1.TweetService/DeleteRetweet": Access.SIGNED_IN,
    "/chirp.v1.TweetService/ListLikers": Access.OPEN,
    "/chirp.v1.TweetService/ListRetweeters": Access.OPEN,
    "/chirp.v1.TweetService/BatchGetTweets": Access.OPEN,
    "/chirp.v1.TweetRecordService/BatchGetTweetRecords": Access.SERVICE,
    "/chirp.v1.TweetRecordService/GetViewerMarks": Access.SERVICE,
    "/chirp.v1.TweetRecordService/BatchGetMarks": Access.SERVICE,
    "/chirp.v1.TimelineService/ExplainHomeTimeline": Access.OWNER,
    "/chirp.v1.TimelineService/GetHomeTimeline": Access.OWNER,
    "/chirp.v1.TimelineService/GetFeed": Access.OWNER,
    "/chirp.v1.TimelineService/CountNewer": Access.OWNER,
    "/chirp.v1.TimelineService/StreamHomeTimeline": Access.OWNER,
    "/chirp.v1.TimelineService/GetUserTimeline": Access.OPEN,
    "/chirp.v1.TimelineUpkeepService/RebuildHomeTimeline": Access.SERVICE,
    "/chirp.v1.TrendService/ListTrends": Access.OPEN,
    "/chirp.v1.TrendService/StreamTrends": Access.OPEN,
    "/chirp.v1.TrendService/ExplainTrend": Access.OPEN,
    "/chirp.v1.TrendCountService/GetTrendCounts": Access.SERVICE,
    "/chirp.v1.NotificationService/ListNotifications": Access.OWNER,
    "/chirp.v1.NotificationService/MarkRead": Access.OWNER,
    "/chirp.v1.NotificationService/StreamNotifications": Access.OWNER,
}

CALLERS: dict[str, frozenset[str]] = {
    "/chirp.v1.UserDirectoryService/BatchGetUserSummaries": frozenset(
        {"tweet_server", "timeline_server", "notification_server"}
    ),
    "/chirp.v1.UserDirectoryService/BatchGetUsers": frozenset({"tweet_server"}),
    "/chirp.v1.UserDirectoryService/ResolveUsernames": frozenset({"tweet_server"}),
    "/chirp.v1.BlockDirectoryService/BatchGetBlocks": frozenset(
        {"tweet_server", "notification_server"}
    ),
    "/chirp.v1.FollowerDirectoryService/ListFollowerIds": frozenset({"fanout_worker"}),
    "/chirp.v1.TweetRecordService/BatchGetTweetRecords": frozenset({"timeline_server"}),
    "/chirp.v1.TweetRecordService/GetViewerMarks": frozenset({"timeline_server"}),
    "/chirp.v1.TweetRecordService/BatchGetMarks": frozenset({"timeline_server"}),
    "/chirp.v1.TimelineUpkeepService/RebuildHomeTimeline": frozenset({COMMAND_LINE}),
    "/chirp.v1.TrendCountService/GetTrendCounts": frozenset({"trend_server"}),
}
"""Which services may call each RPC of services."""

# Which quota a call of a signed-in user takes from. Services are not limited.
KINDS: dict[str, Kind] = {
    "/chirp.v1.UserService/CreateUser": Kind.SIGN_IN,
    "/chirp.v1.UserService/CreateSession": Kind.SIGN_IN,
    "/chirp.v1.UserService/GetMe": Kind.READ,
    "/chirp.v1.UserService/UpdateMe": Kind.ACCOUNT,
    "/chirp.v1.UserService/DeleteMe": Kind.ACCOUNT,
    "/chirp.v1.UserService/DeleteCurrentSession": Kind.ACCOUNT,
    "/chirp.v1.UserService/DeleteSessions": Kind.ACCOUNT,
    "/chirp.v1.UserService/GetUser": Kind.READ,
    "/chirp.v1.UserService/GetUserByUsername": Kind.READ,
    "/chirp.v1.UserService/GetJwks": Kind.READ,
    "/chirp.v1.GraphService/FollowUser": Kind.FOLLOW,
    "/chirp.v1.GraphService/Follow": Kind.FOLLOW,
    "/chirp.v1.GraphService/UnfollowUser": Kind.FOLLOW,
    "/chirp.v1.GraphService/ListFollowers": Kind.READ,
    "/chirp.v1.GraphService/ListFollowing": Kind.READ,
    "/chirp.v1.GraphService/BlockUser": Kind.FOLLOW,
    "/chirp.v1.GraphService/UnblockUser": Kind.FOLLOW,
    "/chirp.v1.GraphService/MuteUser": Kind.FOLLOW,
    "/chirp.v1.GraphService/UnmuteUser": Kind.FOLLOW,
    "/chirp.v1.TweetService/CreateTweet": Kind.POST,
    "/chirp.v1.TweetService/PostTweet": Kind.POST,
    "/chirp.v1.TweetService/GetTweet": Kind.READ,
    "/chirp.v1.TweetService/DeleteTweet": Kind.POST,
    "/chirp.v1.TweetService/GetThread": Kind.READ,
    "/chirp.v1.TweetService/CreateLike": Kind.LIKE,
    "/chirp.v1.TweetService/DeleteLike": Kind.LIKE,
    "/chirp.v1.TweetService/CreateRetweet": Kind.POST,
    "/chirp.v1.TweetService/DeleteRetweet": Kind.POST,
    "/chirp.v1.TweetService/ListLikers": Kind.READ,
    "/chirp.v1.TweetService/ListRetweeters": Kind.READ,
    "/chirp.v1.TweetService/BatchGetTweets": Kind.READ,
    "/chirp.v1.TimelineService/ExplainHomeTimeline": Kind.READ,
    "/chirp.v1.TimelineService/GetHomeTimeline": Kind.READ,
    "/chirp.v1.TimelineService/GetFeed": Kind.READ,
    "/chirp.v1.TimelineService/CountNewer": Kind.READ,
    "/chirp.v1.TimelineService/StreamHomeTimeline": Kind.READ,
    "/chirp.v1.TimelineService/GetUserTimeline": Kind.READ,
    "/chirp.v1.TrendService/ListTrends": Kind.READ,
    "/chirp.v1.TrendService/StreamTrends": Kind.READ,
    "/chirp.v1.TrendService/ExplainTrend": Kind.READ,
    "/chirp.v1.NotificationService/ListNotifications": Kind.READ,
    "/chirp.v1.NotificationService/MarkRead": Kind.READ,
    "/chirp.v1.NotificationService/StreamNotifications": Kind.READ,
}

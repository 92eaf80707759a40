"""Who may call what: one rule for each RPC. An RPC without a rule stops its server at start."""

from enum import Enum


class Access(Enum):
    """The rules."""

    OPEN = "anyone; a token is verified where one is sent"
    SIGNED_IN = "a user with a valid token"
    SERVICE = "Chirp's own services"


RULES: dict[str, Access] = {
    "/chirp.v1.UserService/CreateUser": Access.OPEN,
    "/chirp.v1.UserService/CreateSession": Access.OPEN,
    "/chirp.v1.UserService/GetMe": Access.SIGNED_IN,
    "/chirp.v1.UserService/UpdateMe": Access.SIGNED_IN,
    "/chirp.v1.UserService/DeleteMe": Access.SIGNED_IN,
    "/chirp.v1.UserService/DeleteCurrentSession": Access.SIGNED_IN,
    "/chirp.v1.UserService/DeleteSessions": Access.SIGNED_IN,
    "/chirp.v1.UserService/GetUser": Access.OPEN,
    "/chirp.v1.UserService/GetUserByUsername": Access.OPEN,
    "/chirp.v1.UserService/GetJwks": Access.OPEN,
    "/chirp.v1.UserDirectoryService/BatchGetUserSummaries": Access.SERVICE,
    "/chirp.v1.UserDirectoryService/BatchGetUsers": Access.SERVICE,
    "/chirp.v1.UserDirectoryService/ResolveUsernames": Access.SERVICE,
    "/chirp.v1.GraphService/FollowUser": Access.SIGNED_IN,
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
    "/chirp.v1.TweetService/GetTweet": Access.OPEN,
    "/chirp.v1.TweetService/DeleteTweet": Access.SIGNED_IN,
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
    "/chirp.v1.TimelineService/ExplainHomeTimeline": Access.SIGNED_IN,
    "/chirp.v1.TimelineService/GetHomeTimeline": Access.SIGNED_IN,
    "/chirp.v1.TimelineService/CountNewer": Access.SIGNED_IN,
    "/chirp.v1.TimelineService/StreamHomeTimeline": Access.SIGNED_IN,
    "/chirp.v1.TimelineService/GetUserTimeline": Access.OPEN,
    "/chirp.v1.TimelineUpkeepService/RebuildHomeTimeline": Access.SERVICE,
    "/chirp.v1.TrendService/ListTrends": Access.OPEN,
    "/chirp.v1.TrendService/StreamTrends": Access.OPEN,
    "/chirp.v1.TrendService/ExplainTrend": Access.OPEN,
    "/chirp.v1.TrendCountService/GetTrendCounts": Access.SERVICE,
    "/chirp.v1.NotificationService/ListNotifications": Access.SIGNED_IN,
    "/chirp.v1.NotificationService/MarkRead": Access.SIGNED_IN,
    "/chirp.v1.NotificationService/StreamNotifications": Access.SIGNED_IN,
}

"""Each RPC as nobody, a stranger, the owner and the blocked call it, and what each is told.

Every request is about the owner: their account, their tweet. An RPC without a case fails the test.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.integration.accounts import PASSWORD, Account

OK = ""


@dataclass(frozen=True, slots=True)
class Scene:
    """Who is there."""

    owner: Account
    stranger: Account
    blocked: Account
    """Whom the owner blocks."""
    tweet: int
    """By the owner."""
    fresh: str
    """A name that nobody has; another one in each call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """The request, and the reason of each refusal; OK where it is answered."""

    process: str
    fields: "Fields"
    stranger: str = OK
    blocked: str = OK
    owner: str = OK
    nobody: str = OK
    """Where the rule is OPEN; else nobody is told to sign in."""
    private: bool = False
    """Whether the owner sees there what nobody else does."""


Fields = Callable[[Scene], Mapping[str, Any]]


def _id(scene: Scene) -> Mapping[str, Any]:
    return {"id": scene.owner.id}


def _tweet(scene: Scene) -> Mapping[str, Any]:
    return {"id": scene.tweet}


def _nothing(_: Scene) -> Mapping[str, Any]:
    return {}


def _graph(fields: Fields = _id, **told: Any) -> Case:
    return Case(process="graph_server", fields=fields, **told)


def _tweets(fields: Fields = _tweet, **told: Any) -> Case:
    return Case(process="tweet_server", fields=fields, **told)


def _timelines(fields: Fields = _nothing, **told: Any) -> Case:
    return Case(process="timeline_server", fields=fields, **told)


def _notifications(fields: Fields = _nothing, **told: Any) -> Case:
    return Case(process="notification_server", fields=fields, **told)


def _trends(fields: Fields = _nothing, **told: Any) -> Case:
    return Case(process="trend_server", fields=fields, **told)


def _ids(scene: Scene) -> Mapping[str, Any]:
    return {"ids": [scene.owner.id]}


def _tweet_ids(scene: Scene) -> Mapping[str, Any]:
    return {"ids": [scene.tweet]}


CASES: dict[str, Case] = {
    "UserService/CreateUser": _graph(
        fields=lambda scene: {"username": scene.fresh, "password": PASSWORD}
    ),
    "UserService/CreateSession": _graph(
        fields=lambda scene: {"username": scene.owner.username, "password": PASSWORD}
    ),
    "UserService/GetMe": _graph(fields=_nothing, private=True),
    "UserService/UpdateMe": _graph(fields=lambda _: {"bio": "changed"}, private=True),
    # Everybody has a password of their own, and a token alone deletes nobody.
    "UserService/DeleteMe": _graph(
        fields=lambda _: {"password": "not the password"},
        stranger="BAD_CREDENTIALS",
        blocked="BAD_CREDENTIALS",
        owner="BAD_CREDENTIALS",
    ),
    "UserService/DeleteCurrentSession": _graph(fields=_nothing),
    "UserService/DeleteSessions": _graph(fields=_nothing),
    "UserService/GetUser": _graph(),
    "UserService/GetUserByUsername": _graph(
        fields=lambda scene: {"username": scene.owner.username}
    ),
    "UserService/GetJwks": _graph(fields=_nothing),
    "UserDirectoryService/BatchGetUserSummaries": _graph(fields=_ids),
    "UserDirectoryService/BatchGetUsers": _graph(fields=_ids),
    "UserDirectoryService/ResolveUsernames": _graph(
        fields=lambda scene: {"usernames": [scene.owner.username]}
    ),
    "GraphService/FollowUser": _graph(blocked="BLOCKED", owner="SELF_FOLLOW"),
    "GraphService/Follow": _graph(
        fields=lambda scene: {"follower_id": scene.owner.id, "followee_id": scene.stranger.id},
        stranger="NOT_YOURS",
        blocked="NOT_YOURS",
    ),
    "GraphService/UnfollowUser": _graph(owner="SELF_FOLLOW"),
    "GraphService/ListFollowers": _graph(),
    "GraphService/ListFollowing": _graph(),
    # Who is blocked may block, too.
    "GraphService/BlockUser": _graph(owner="SELF_BLOCK"),
    "GraphService/UnblockUser": _graph(owner="SELF_BLOCK"),
    "GraphService/MuteUser": _graph(owner="SELF_MUTE"),
    "GraphService/UnmuteUser": _graph(owner="SELF_MUTE"),
    "BlockDirectoryService/BatchGetBlocks": _graph(
        fields=lambda scene: {"user_id": scene.owner.id, "other_ids": [scene.blocked.id]}
    ),
    "FollowerDirectoryService/ListFollowerIds": _graph(
        fields=lambda scene: {"user_id": scene.owner.id}
    ),
    "TweetService/CreateTweet": _tweets(
        fields=lambda scene: {"content": "hello", "reply_to": scene.tweet}, blocked="BLOCKED"
    ),
    "TweetService/PostTweet": _tweets(
        fields=lambda scene: {"user_id": scene.owner.id, "content": "hello"},
        stranger="NOT_YOURS",
        blocked="NOT_YOURS",
    ),
    # What is public stays readable by whoever has its id.
    "TweetService/GetTweet": _tweets(),
    "TweetService/DeleteTweet": _tweets(stranger="NOT_YOURS", blocked="NOT_YOURS"),
    "TweetService/GetThread": _tweets(),
    "TweetService/CreateLike": _tweets(blocked="BLOCKED"),
    "TweetService/DeleteLike": _tweets(),
    "TweetService/CreateRetweet": _tweets(blocked="BLOCKED"),
    "TweetService/DeleteRetweet": _tweets(),
    "TweetService/ListLikers": _tweets(),
    "TweetService/ListRetweeters": _tweets(),
    "TweetService/BatchGetTweets": _tweets(fields=_tweet_ids),
    "TweetRecordService/BatchGetTweetRecords": _tweets(fields=_tweet_ids),
    "TweetRecordService/GetViewerMarks": _tweets(
        fields=lambda scene: {"user_id": scene.owner.id, "ids": [scene.tweet]}
    ),
    "TweetRecordService/BatchGetMarks": _tweets(
        fields=lambda scene: {"tweet_ids": [scene.tweet], "user_ids": [scene.owner.id]}
    ),
    "TimelineService/ExplainHomeTimeline": _timelines(
        fields=lambda scene: {"tweet_id": scene.tweet}
    ),
    "TimelineService/GetHomeTimeline": _timelines(private=True),
    "TimelineService/GetFeed": _timelines(
        fields=lambda scene: {"user_id": scene.owner.id},
        stranger="NOT_YOURS",
        blocked="NOT_YOURS",
    ),
    "TimelineService/CountNewer": _timelines(fields=lambda _: {"since_id": 1}),
    "TimelineService/StreamHomeTimeline": _timelines(),
    "TimelineService/GetUserTimeline": _timelines(fields=_id),
    "TimelineUpkeepService/RebuildHomeTimeline": _timelines(
        fields=lambda scene: {"user_id": scene.owner.id}
    ),
    "TrendService/ListTrends": _trends(),
    "TrendService/StreamTrends": _trends(),
    "TrendService/ExplainTrend": _trends(fields=lambda _: {"location": "world", "tag": "chirp"}),
    "TrendCountService/GetTrendCounts": Case(
        process="trend_worker", fields=lambda _: {"location": "world", "name": "chirp"}
    ),
    "NotificationService/ListNotifications": _notifications(),
    "NotificationService/MarkRead": _notifications(fields=lambda _: {"up_to_id": 1}),
    "NotificationService/StreamNotifications": _notifications(),
}

import asyncio
import itertools
import json
import struct
import subprocess
from typing import Any

import pytest
import yaml
from chirp.v1 import tweet_pb2, tweet_pb2_grpc, user_pb2, user_pb2_grpc
from google.protobuf import json_format

from domain.ids import UserId
from mesh import keys, server
from mesh.access import RULES, Access
from mesh.settings import Settings
from ops import embedded, gateway
from tests.e2e import gateway_stack
from tests.e2e.gateway_stack import BIG_ID, Stack, stack

__all__ = ["stack"]

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROUTES: list[tuple[str, str, dict[str, Any] | None, str, str, dict[str, Any]]] = [
    ("POST", "/api/users", {"username": "ada", "password": "p"}, "graph_server",
     "UserService/CreateUser", {"username": "ada", "password": "p"}),
    ("POST", "/api/sessions", {"username": "ada", "password": "p"}, "graph_server",
     "UserService/CreateSession", {"username": "ada", "password": "p"}),
    ("GET", "/api/me", None, "graph_server", "UserService/GetMe", {}),
    ("PATCH", "/api/me", {"bio": "", "avatarUrl": "http://x"}, "graph_server",
     "UserService/UpdateMe", {"bio": "", "avatarUrl": "http://x"}),
    ("DELETE", "/api/me", {"password": "p"}, "graph_server", "UserService/DeleteMe",
     {"password": "p"}),
    ("DELETE", "/api/sessions/current", None, "graph_server",
     "UserService/DeleteCurrentSession", {}),
    ("DELETE", "/api/sessions", None, "graph_server", "UserService/DeleteSessions", {}),
    ("GET", f"/api/users/{BIG_ID}", None, "graph_server", "UserService/GetUser",
     {"id": str(BIG_ID)}),
    ("GET", "/api/users/by-username/Ada_1", None, "graph_server",
     "UserService/GetUserByUsername", {"username": "Ada_1"}),
    ("GET", "/.well-known/jwks.json", None, "graph_server", "UserService/GetJwks", {}),
    ("POST", "/api/users/7/follow", None, "graph_server", "GraphService/FollowUser", {"id": "7"}),
    ("DELETE", "/api/users/7/follow", None, "graph_server", "GraphService/UnfollowUser",
     {"id": "7"}),
    ("GET", "/api/users/7/followers?limit=-1&cursor=a%2Bb", None, "graph_server",
     "GraphService/ListFollowers", {"id": "7", "limit": -1, "cursor": "a+b"}),
    ("GET", "/api/users/7/following?limit=0", None, "graph_server",
     "GraphService/ListFollowing", {"id": "7", "limit": 0}),
    ("POST", "/api/users/7/block", None, "graph_server", "GraphService/BlockUser", {"id": "7"}),
    ("DELETE", "/api/users/7/block", None, "graph_server", "GraphService/UnblockUser",
     {"id": "7"}),
    ("POST", "/api/users/7/mute", None, "graph_server", "GraphService/MuteUser", {"id": "7"}),
    ("DELETE", "/api/users/7/mute", None, "graph_server", "GraphService/UnmuteUser",
     {"id": "7"}),
    ("POST", "/api/tweets", {"content": "caf\u00e9", "replyTo": str(BIG_ID)}, "tweet_server",
     "TweetService/CreateTweet", {"content": "caf\u00e9", "replyTo": str(BIG_ID)}),
    ("GET", "/api/tweets/9", None, "tweet_server", "TweetService/GetTweet", {"id": "9"}),
    ("DELETE", "/api/tweets/9", None, "tweet_server", "TweetService/DeleteTweet", {"id": "9"}),
    ("GET", "/api/tweets/9/thread?limit=2&cursor=abc", None, "tweet_server",
     "TweetService/GetThread", {"id": "9", "limit": 2, "cursor": "abc"}),
    ("POST", "/api/tweets/9/like", None, "tweet_server", "TweetService/CreateLike", {"id": "9"}),
    ("DELETE", "/api/tweets/9/like", None, "tweet_server", "TweetService/DeleteLike",
     {"id": "9"}),
    ("POST", f"/api/tweets/{BIG_ID}/retweet", None, "tweet_server",
     "TweetService/CreateRetweet", {"id": str(BIG_ID)}),
    ("DELETE", "/api/tweets/9/retweet", None, "tweet_server", "TweetService/DeleteRetweet",
     {"id": "9"}),
    ("GET", "/api/tweets/9/likes?limit=0", None, "tweet_server", "TweetService/ListLikers",
     {"id": "9", "limit": 0}),
    ("GET", "/api/tweets/9/retweets?cursor=a%2Bb", None, "tweet_server",
     "TweetService/ListRetweeters", {"id": "9", "cursor": "a+b"}),
    ("GET", "/api/tweets:batchGet?ids=1&ids=2", None, "tweet_server",
     "TweetService/BatchGetTweets", {"ids": ["1", "2"]}),
    ("GET", "/api/timeline/home?limit=5&sinceId=3", None, "timeline_server",
     "TimelineService/GetHomeTimeline", {"limit": 5, "sinceId": "3"}),
    ("GET", "/api/timeline/home:countNewer?sinceId=3", None, "timeline_server",
     "TimelineService/CountNewer", {"sinceId": "3"}),
    ("GET", "/api/timeline/home:explain?tweetId=3", None, "timeline_server",
     "TimelineService/ExplainHomeTimeline", {"tweetId": "3"}),
    ("GET", "/api/timeline/home:stream?resumeToken=x", None, "timeline_server",
     "TimelineService/StreamHomeTimeline", {"resumeToken": "x"}),
    ("GET", "/api/timeline/user/7", None, "timeline_server",
     "TimelineService/GetUserTimeline", {"id": "7"}),
    ("GET", "/api/feed?userId=7&limit=5&cursor=x", None, "timeline_server",
     "TimelineService/GetFeed", {"userId": "7", "limit": 5, "cursor": "x"}),
    ("POST", "/api/tweet", {"userId": "7", "content": "hi", "media": ["http://x"]},
     "tweet_server", "TweetService/PostTweet",
     {"userId": "7", "content": "hi", "media": ["http://x"]}),
    ("POST", "/api/follow", {"followerId": "7", "followeeId": "8"}, "graph_server",
     "GraphService/Follow", {"followerId": "7", "followeeId": "8"}),
    ("GET", "/api/notifications?limit=5&cursor=x", None, "notification_server",
     "NotificationService/ListNotifications", {"limit": 5, "cursor": "x"}),
    ("POST", "/api/notifications:markRead", {"upToId": "7"}, "notification_server",
     "NotificationService/MarkRead", {"upToId": "7"}),
    ("GET", "/api/notifications:stream?resumeToken=x", None, "notification_server",
     "NotificationService/StreamNotifications", {"resumeToken": "x"}),
    ("GET", "/api/trends?limit=5&order=rising", None, "trend_server",
     "TrendService/ListTrends", {"limit": 5, "order": "rising"}),
    ("GET", "/api/trends/us-ny", None, "trend_server",
     "TrendService/ListTrends", {"location": "us-ny"}),
    ("GET", "/api/trends:stream", None, "trend_server", "TrendService/StreamTrends", {}),
    ("GET", "/api/trends/us-ny:stream?limit=3", None, "trend_server",
     "TrendService/StreamTrends", {"location": "us-ny", "limit": 3}),
    ("GET", "/api/trends/world/Caf%C3%A9_1:explain", None, "trend_server",
     "TrendService/ExplainTrend", {"location": "world", "tag": "Caf\u00e9_1"}),
]  # fmt: skip


_numbers = itertools.count(880_000)


async def test_envoy_accepts_the_configuration(stack: Stack) -> None:
    done = await asyncio.to_thread(
        subprocess.run,
        [str(embedded.envoy_binary()), "--mode", "validate", "-c", str(stack.configuration)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr.lower()


async def test_its_limits_agree_with_the_servers() -> None:
    settings = Settings()
    described = gateway.Gateway()
    document: Any = yaml.safe_load(gateway.render(described))

    assert document["admin"]["address"]["socket_address"]["address"] == "127.0.0.1"
    assert described.call_timeout_s > settings.database_timeout_s
    assert (settings.token_issuer, settings.token_audience) == (
        described.token_issuer,
        described.token_audience,
    )
    assert 2 * described.jwks_cache_s < settings.key_lead_s
    assert described.jwks_cache_s == settings.jwks_cache_s
    for cluster in document["static_resources"]["clusters"]:
        if cluster["name"] == "keys":  # Envoy itself
            continue
        (check,) = cluster["health_checks"]
        interval_s = float(check["interval"].removesuffix("s"))
        assert interval_s * check["unhealthy_threshold"] < settings.drain_delay_s
        (options,) = cluster["typed_extension_protocol_options"].values()
        http2 = options["explicit_http_config"]["http2_protocol_options"]
        ping_s = float(http2["connection_keepalive"]["interval"].removesuffix("s"))
        assert ping_s * 1000 > server.PING_INTERVAL_MIN_MS


async def test_every_public_rpc_has_a_route_in_the_table() -> None:
    public = {path for path, rule in RULES.items() if rule is not Access.SERVICE}

    assert {f"/chirp.v1.{rpc}" for *_, rpc, _ in ROUTES} == public


@pytest.mark.parametrize(
    ("method", "path", "body", "process", "rpc", "request_fields"),
    ROUTES,
    ids=[f"{route[4]} {route[1]}" for route in ROUTES],
)
async def test_a_route_reaches_its_rpc(
    stack: Stack,
    method: str,
    path: str,
    body: dict[str, Any] | None,
    process: str,
    rpc: str,
    request_fields: dict[str, Any],
) -> None:
    stack.seen.clear()

    # Streams do not end: the headers tell enough.
    async with stack.rest.stream(method, path, json=body, headers=stack.bearer) as answer:
        assert answer.status_code == 200, await answer.aread()

    (seen,) = stack.seen
    assert (seen.process, seen.method) == (process, rpc)
    assert json_format.MessageToDict(seen.request) == request_fields
    assert seen.call.user_id == UserId(BIG_ID)
    assert not [name for name in answer.headers if name.startswith(("grpc-", "x-envoy", "server"))]


async def test_json_shows_int64_as_strings_and_defaults(stack: Stack) -> None:
    tweet = (await stack.rest.get(f"/api/tweets/{BIG_ID}")).json()
    page = (await stack.rest.get("/api/timeline/home", headers=stack.bearer)).json()
    user = (await stack.rest.get("/api/users/7")).json()

    assert tweet["id"] == str(BIG_ID)
    assert (tweet["likeCount"], tweet["location"], tweet["mediaUrls"]) == ("0", "", [])
    assert page == {"tweets": [], "nextCursor": "", "hasMore": False}
    assert user["isCelebrity"] is False
    assert "following" not in user


async def test_spliced_bytes_come_through(stack: Stack) -> None:
    tweet = (await stack.rest.get(f"/api/tweets/{gateway_stack.BYTES}")).json()

    assert (tweet["id"], tweet["content"], tweet["likeCount"]) == ("8", "caf\u00e9", "7")


async def test_a_large_answer_comes_through(stack: Stack) -> None:
    tweet = (await stack.rest.get(f"/api/tweets/{gateway_stack.LARGE}")).json()

    assert len(tweet["mediaUrls"]) == 1500


async def test_the_key_set_keeps_its_content_type(stack: Stack) -> None:
    answer = await stack.rest.get("/.well-known/jwks.json")

    assert answer.headers["content-type"] == "application/jwk-set+json"
    assert answer.json() == json.loads((stack.settings.keys / keys.JWKS_FILE).read_bytes())


async def test_header_names_that_grpc_does_not_know_are_left_behind(stack: Stack) -> None:
    odd = {"Oy&": "ag", "8O!0zy": "x", "^": "gf", "#-G": "", "x-fine.name-1": "1"}
    answer = await stack.rest.get(f"/api/tweets/{gateway_stack.BYTES}", headers=odd)

    assert answer.status_code == 200


async def test_the_document_of_the_api_is_served(stack: Stack) -> None:
    answer = await stack.rest.get("/api/openapi.json")

    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == json.loads(gateway.DOCUMENT.read_text())


async def test_the_page_of_the_api_runs_no_script_and_fetches_nothing(stack: Stack) -> None:
    answer = await stack.rest.get("/api/docs")

    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.text == gateway.PAGE.read_text()


async def test_grpc_calls_use_the_same_port(stack: Stack) -> None:
    stack.seen.clear()
    metadata = (("authorization", stack.bearer["authorization"]),)

    tweet = await tweet_pb2_grpc.TweetServiceStub(stack.channel).GetTweet(
        tweet_pb2.GetTweetRequest(id=5)
    )
    await user_pb2_grpc.UserServiceStub(stack.channel).GetMe(
        user_pb2.GetMeRequest(), metadata=metadata
    )

    assert tweet.id == 5
    assert [seen.method for seen in stack.seen] == ["TweetService/GetTweet", "UserService/GetMe"]


async def test_grpc_web_calls_use_the_same_port(stack: Stack) -> None:
    def frame(kind: int, message: bytes) -> bytes:
        return struct.pack(">BI", kind, len(message)) + message

    answer = await stack.rest.post(
        "/chirp.v1.TweetService/GetTweet",
        content=frame(0, tweet_pb2.GetTweetRequest(id=5).SerializeToString()),
        headers={"content-type": "application/grpc-web+proto", "x-grpc-web": "1"},
    )

    message = tweet_pb2.Tweet(id=5, content="caf\u00e9").SerializeToString()
    assert answer.headers["content-type"] == "application/grpc-web+proto"
    assert answer.content.startswith(frame(0, message) + b"\x80")
    assert b"grpc-status:0" in answer.content


async def test_the_access_log_has_no_query_string(stack: Stack) -> None:
    await stack.rest.get("/api/timeline/user/77?cursor=SECRET")

    async with asyncio.timeout(gateway_stack.HEALTH_TIMEOUT_S):
        while "/api/timeline/user/77" not in (text := stack.described.access_log.read_text()):
            await asyncio.sleep(0.05)

    lines = [json.loads(line) for line in text.splitlines()]
    (line,) = [line for line in lines if line["path"] == "/api/timeline/user/77"]
    assert (line["rpc"], line["status"]) == ("/chirp.v1.TimelineService/GetUserTimeline", 200)
    assert "SECRET" not in text
    assert "/healthz" not in text


@pytest.mark.parametrize(
    "path",
    [
        "/api/users/by-username/SECRET",
        "/api/users/by-username/SECRET/and-more",
        "/api/users/by%2Dusername/SECRET",
        "/api/trends/world/SECRET:explain",
        "/api/trends/us-ny/SECRET:explain?limit=1",
    ],
)
async def test_the_access_log_has_no_path_with_a_name_or_a_tag(stack: Stack, path: str) -> None:
    before = stack.described.access_log.read_text().count('"path":"-"')
    answer = await stack.rest.get(path)
    mark = f"/api/timeline/user/{next(_numbers)}"
    await stack.rest.get(mark)

    async with asyncio.timeout(gateway_stack.HEALTH_TIMEOUT_S):
        while mark not in (text := stack.described.access_log.read_text()):
            await asyncio.sleep(0.05)

    assert "SECRET" not in text
    if answer.status_code == 200:
        assert text.count('"path":"-"') == before + 1

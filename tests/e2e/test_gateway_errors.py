import json
from typing import Any, cast

import grpc
import pytest
from chirp.v1 import tweet_pb2, tweet_pb2_grpc, user_pb2, user_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.e2e import gateway_stack
from tests.e2e.gateway_stack import Stack, stack
from tests.refused import failure

__all__ = ["stack"]

pytestmark = pytest.mark.asyncio(loop_scope="module")

ERROR_INFO = "type.googleapis.com/google.rpc.ErrorInfo"
RETRY_INFO = "type.googleapis.com/google.rpc.RetryInfo"


def assert_is_error(
    answer: Any,
    *,
    status: int,
    code: int,
    reason: str,
    message: str | None = None,
    retry_after_s: int = 1,
) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert body["code"] == code
    assert body["message"] == message if message else body["message"]
    assert "127.0.0.1" not in answer.text
    assert "/api/" not in answer.text
    infos = [detail for detail in body["details"] if detail["@type"] == ERROR_INFO]
    assert [(info["reason"], info["domain"]) for info in infos] == [(reason, "chirp")]
    retries = [detail for detail in body["details"] if detail["@type"] == RETRY_INFO]
    again = status in (429, 503)
    assert [each["retryDelay"] for each in retries] == ([f"{retry_after_s}s"] if again else [])
    assert answer.headers.get("retry-after") == (str(retry_after_s) if again else None)


async def grpc_error(call: Any) -> tuple[grpc.StatusCode, str, str]:
    refused = await failure(call)
    return refused.code, refused.message, refused.reason


@pytest.mark.parametrize(
    ("tweet_id", "status", "code", "reason"),
    [
        (gateway_stack.MISSING, 404, 5, "TWEET_NOT_FOUND"),
        (gateway_stack.DOWN, 503, 14, "UNAVAILABLE"),
        (gateway_stack.BROKEN, 500, 13, "INTERNAL"),
        (gateway_stack.SLOW, 504, 4, "DEADLINE_EXCEEDED"),
    ],
)
async def test_errors_of_servers_keep_their_details(
    stack: Stack, tweet_id: int, status: int, code: int, reason: str
) -> None:
    answer = await stack.rest.get(f"/api/tweets/{tweet_id}")

    assert_is_error(answer, status=status, code=code, reason=reason)


@pytest.mark.parametrize(
    ("method", "path", "status", "code", "reason", "message"),
    [
        ("PUT", "/api/tweets/5", 404, 5, "NOT_FOUND", "no such route"),
        ("GET", "/api/nothing", 404, 5, "NOT_FOUND", "no such route"),
        ("GET", "/", 404, 5, "NOT_FOUND", "no such route"),
        ("POST", "/chirp.v1.TweetService/GetTweet", 404, 5, "NOT_FOUND", "no such route"),
        ("POST", "/chirp.v1.UserDirectoryService/ResolveUsernames", 404, 5, "NOT_FOUND", None),
        ("GET", "/api/tweets/5?nope=1", 400, 3, "INVALID_ARGUMENT", None),
        ("GET", "/api/tweets/5?access_token=a", 400, 3, "INVALID_ARGUMENT", None),
        ("GET", "/api/tweets/five", 400, 3, "INVALID_ARGUMENT",
         'id: invalid value "five" for type TYPE_INT64'),
        ("GET", "/api%2Ftweets/5", 400, 3, "INVALID_ARGUMENT", "the request is not valid"),
    ],
)  # fmt: skip
async def test_what_is_not_a_route_is_refused(
    stack: Stack, method: str, path: str, status: int, code: int, reason: str, message: str | None
) -> None:
    stack.seen.clear()

    answer = await stack.rest.request(method, path)

    assert_is_error(answer, status=status, code=code, reason=reason, message=message)
    assert stack.seen == []


async def test_bodies(stack: Stack) -> None:
    async def post(content: str) -> Any:
        return await stack.rest.post("/api/tweets", content=content, headers=stack.bearer)

    unknown = await post('{"content": "x", "unknown": 1}')
    broken = await post('{"content": ')
    wrong = await post('{"content": ["x"]}')
    large = await post(json.dumps({"content": "x" * 65_536}))

    assert unknown.status_code == 200
    assert_is_error(broken, status=400, code=3, reason="INVALID_ARGUMENT")
    assert_is_error(wrong, status=400, code=3, reason="INVALID_ARGUMENT")
    assert_is_error(large, status=413, code=3, reason="TOO_LARGE")


async def test_headers(stack: Stack) -> None:
    async def get(headers: dict[str, str]) -> Any:
        return await stack.rest.get("/api/tweets/5", headers=headers)

    assert_is_error(await get({"x": "y" * 17_000}), status=431, code=3, reason="TOO_LARGE")
    assert_is_error(await get({"under_score": "y"}), status=400, code=3, reason="INVALID_ARGUMENT")
    assert (await get({"x-envoy-upstream-rq-timeout-ms": "1"})).status_code == 200


async def test_tokens(stack: Stack) -> None:
    async def get(authorization: str) -> Any:
        return await stack.rest.get("/api/me", headers={"authorization": authorization})

    head, payload, _ = stack.token.split(".")
    forged = await get(f"Bearer {head}.{payload}.{'A' * 86}")
    nonsense = await get("Bearer nonsense")
    basic = await get("Basic YTpi")
    missing = await stack.rest.get("/api/me")
    open_route = await stack.rest.get("/api/tweets/5", headers={"authorization": "Bearer x"})

    for answer in (forged, nonsense, open_route):
        assert_is_error(answer, status=401, code=16, reason="UNAUTHENTICATED")
        assert answer.headers["www-authenticate"] == "Bearer"
    for answer in (basic, missing):
        assert_is_error(answer, status=401, code=16, reason="UNAUTHENTICATED")


async def test_grpc_errors_have_details(stack: Stack) -> None:
    tweets = tweet_pb2_grpc.TweetServiceStub(stack.channel)
    request = tweet_pb2.GetTweetRequest

    missing = await grpc_error(tweets.GetTweet(request(id=gateway_stack.MISSING)))
    late = await grpc_error(tweets.GetTweet(request(id=gateway_stack.SLOW)))
    bad_token = await grpc_error(
        tweets.GetTweet(request(id=5), metadata=(("authorization", "Bearer x"),))
    )
    large = await grpc_error(tweets.CreateTweet(tweet_pb2.CreateTweetRequest(content="x" * 70_000)))

    code = grpc.StatusCode
    assert missing == (code.NOT_FOUND, "no such tweet", "TWEET_NOT_FOUND")
    assert late == (code.DEADLINE_EXCEEDED, "the call took too long", "DEADLINE_EXCEEDED")
    assert (bad_token[0], bad_token[2]) == (code.UNAUTHENTICATED, "UNAUTHENTICATED")
    assert (large[0], large[2]) == (code.INVALID_ARGUMENT, "TOO_LARGE")


async def test_a_singular_field_twice_is_refused_by_the_transcoder(stack: Stack) -> None:
    answer = await stack.rest.get(f"/api/tweets/{gateway_stack.TWICE}")

    assert_is_error(answer, status=502, code=13, reason="INTERNAL", message="internal error")


async def test_internal_services_cannot_be_reached(stack: Stack) -> None:
    stack.seen.clear()
    channel = stack.channel
    reflection_stub = cast(Any, reflection_pb2_grpc).ServerReflectionStub(channel)
    asked = cast(Any, reflection_pb2).ServerReflectionRequest(list_services="")
    calls: list[Any] = [
        tweet_pb2_grpc.TweetRecordServiceStub(channel).BatchGetTweetRecords(
            tweet_pb2.BatchGetTweetRecordsRequest(ids=[1])
        ),
        user_pb2_grpc.UserDirectoryServiceStub(channel).ResolveUsernames(
            user_pb2.ResolveUsernamesRequest(usernames=["ada"])
        ),
        cast(Any, health_pb2_grpc).HealthStub(channel).Check(health_pb2.HealthCheckRequest()),
        anext(aiter(reflection_stub.ServerReflectionInfo(iter([asked])))),
    ]

    for call in calls:
        unimplemented = (grpc.StatusCode.UNIMPLEMENTED, "no such route", "NOT_FOUND")
        assert await grpc_error(call) == unimplemented
    assert stack.seen == []


async def test_errors_of_the_grpc_library_get_details(stack: Stack) -> None:
    late = await stack.rest.get(
        f"/api/tweets/{gateway_stack.SLOW}", headers={"grpc-timeout": "100m"}
    )
    unknown = await grpc_error(stack.channel.unary_unary("/chirp.v1.TweetService/Nothing")(b""))

    assert_is_error(late, status=504, code=4, reason="DEADLINE_EXCEEDED")
    assert unknown == (grpc.StatusCode.UNIMPLEMENTED, "no such route", "NOT_FOUND")


async def test_a_server_that_limits_an_account_says_so_through_the_gateway(stack: Stack):
    answer = await stack.rest.get(f"/api/tweets/{gateway_stack.OFTEN}")
    tweets = tweet_pb2_grpc.TweetServiceStub(stack.channel)
    refused = await failure(tweets.GetTweet(tweet_pb2.GetTweetRequest(id=gateway_stack.OFTEN)))

    assert_is_error(answer, status=429, code=8, reason="RATE_LIMITED", retry_after_s=7)
    assert answer.headers["ratelimit"] == '"read";r=0;t=7'
    assert answer.headers["ratelimit-policy"] == '"read";q=900;w=1800'
    assert refused.headers["retry-after"] == "7"
    assert refused.headers["ratelimit"] == '"read";r=0;t=7'

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import grpc
import httpx
import pytest
from chirp.v1 import trend_pb2, trend_pb2_grpc

from domain.ids import UserId
from tests.e2e import gateway_stack
from tests.e2e.gateway_stack import BIG_ID, Stack, stack
from tests.e2e.test_gateway_errors import assert_is_error

__all__ = ["stack"]

pytestmark = pytest.mark.asyncio(loop_scope="module")

EVENTS = {"accept": "text/event-stream"}
FIRST, SECOND = ({"item": {"trends": [{"tag": name}]}} for name in ("first", "second"))


@asynccontextmanager
async def opened(
    stack: Stack, path: str, headers: dict[str, str] | None = None
) -> AsyncGenerator[tuple[httpx.Response, AsyncIterator[str]]]:
    async with (
        asyncio.timeout(10),
        stack.rest.stream("GET", path, headers=headers) as answer,
    ):
        yield answer, aiter(answer.aiter_lines())


def said(line: str) -> dict[str, Any]:
    """Returns a message without the fields that have their defaults."""
    return cast("dict[str, Any]", _without_defaults(json.loads(line)))


def _without_defaults(value: Any) -> Any:
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        return {
            key: _without_defaults(each)
            for key, each in fields.items()
            if each not in ("", 0, [], None)
        }
    if isinstance(value, list):
        return [_without_defaults(each) for each in cast("list[Any]", value)]
    return value


async def test_a_stream_is_one_json_object_a_line(stack: Stack) -> None:
    async with opened(stack, "/api/trends/ends:stream") as (answer, lines):
        messages = [said(line) async for line in lines]

    assert answer.headers["content-type"] == "application/json"
    assert not [name for name in answer.headers if name.startswith("grpc-")]
    assert messages == [FIRST, SECOND, {"end": {"reason": "DONE", "resumeToken": "second"}}]


@pytest.mark.parametrize("accept", ["text/event-stream", "Text/Event-Stream, */*;q=0.1"])
async def test_a_stream_is_server_sent_events_where_they_are_accepted(
    stack: Stack, accept: str
) -> None:
    async with opened(stack, "/api/trends/ends:stream", {"accept": accept}) as (answer, lines):
        text = [line async for line in lines]

    assert answer.headers["content-type"] == "text/event-stream"
    data = [line.removeprefix("data: ") for line in text if line]
    assert [said(line) for line in data][:2] == [FIRST, SECOND]
    assert [bool(line) for line in text] == [True, False] * 3


async def test_a_silent_stream_begins_at_once_and_beats(stack: Stack) -> None:
    async with opened(stack, "/api/trends/quiet:stream", EVENTS) as (_, lines):
        beats = [await anext(lines) for _ in range(5)]

    assert beats == ['data: {"heartbeat":{}}', ""] * 2 + ['data: {"heartbeat":{}}']


async def test_a_stream_outlives_the_longest_call(stack: Stack) -> None:
    loop = asyncio.get_running_loop()
    started = loop.time()

    async with opened(stack, "/api/trends/quiet:stream") as (_, lines):
        while loop.time() < started + 2 * gateway_stack.CALL_TIMEOUT_S:
            assert said(await anext(lines)) == {"heartbeat": {}}


async def test_an_error_before_the_first_message_is_a_status(stack: Stack) -> None:
    for headers in ({}, EVENTS):
        answer = await stack.rest.get("/api/trends/down:stream", headers=headers)

        assert_is_error(answer, status=503, code=14, reason="UNAVAILABLE")


async def test_a_later_error_is_the_end(stack: Stack) -> None:
    async with opened(stack, "/api/trends/breaks:stream") as (_, lines):
        messages = [said(line) async for line in lines]

    assert messages[-1] == {"end": {"reason": "UNAVAILABLE", "resumeToken": "second"}}


async def test_a_token_in_the_url_signs_a_stream_in_and_is_not_logged(stack: Stack) -> None:
    for headers in ({}, EVENTS):
        stack.seen.clear()
        path = f"/api/trends:stream?limit=7&access_token={stack.token}"
        async with opened(stack, path, headers) as (_, lines):
            await anext(lines)

        (seen,) = stack.seen
        assert isinstance(seen.request, trend_pb2.StreamTrendsRequest)
        assert (seen.call.user_id, seen.request.limit) == (UserId(BIG_ID), 7)
    async with asyncio.timeout(gateway_stack.HEALTH_TIMEOUT_S):
        while "/api/trends:stream" not in (text := stack.described.access_log.read_text()):
            await asyncio.sleep(0.05)
    assert stack.token not in text


async def test_a_token_in_the_url_is_refused_elsewhere_and_beside_one_in_the_header(
    stack: Stack,
) -> None:
    stack.seen.clear()
    elsewhere = await stack.rest.get(f"/api/trends?access_token={stack.token}")
    in_grpc = await stack.rest.post(f"/chirp.v1.UserService/GetMe?access_token={stack.token}")
    twice = await stack.rest.get(
        f"/api/trends:stream?access_token={stack.token}", headers=stack.bearer
    )
    wrong = await stack.rest.get("/api/trends:stream?access_token=nonsense", headers=EVENTS)

    assert_is_error(elsewhere, status=400, code=3, reason="INVALID_ARGUMENT")
    assert in_grpc.status_code == 404
    assert_is_error(twice, status=400, code=3, reason="INVALID_ARGUMENT")
    assert_is_error(wrong, status=401, code=16, reason="UNAUTHENTICATED")
    assert stack.seen == []


async def test_streams_are_reached_by_grpc_on_the_same_port(stack: Stack) -> None:
    stub = trend_pb2_grpc.TrendServiceStub(stack.channel)

    call = stub.StreamTrends(trend_pb2.StreamTrendsRequest(location="ends"))
    messages = [message async for message in call]
    refused = stub.StreamTrends(trend_pb2.StreamTrendsRequest(location="down"))
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await anext(aiter(refused))

    assert [message.WhichOneof("message") for message in messages] == ["item", "item", "end"]
    assert failure.value.code() == grpc.StatusCode.UNAVAILABLE


async def test_open_streams_do_not_use_up_what_is_for_calls(stack: Stack) -> None:
    document = stack.configuration.read_text()

    assert "cluster: trend_streams" in document
    assert "max_requests: 100000" in document

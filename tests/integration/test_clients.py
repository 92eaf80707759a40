"""Calls of one server to another."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from typing import Any, cast

import grpc
import pytest
import pytest_asyncio
from chirp.v1 import timeline_pb2, timeline_pb2_grpc

from mesh import clients, deadlines
from mesh.settings import Settings

DEADLINE_S = 0.4
SERVICE = "chirp.v1.TimelineService"

Stub = timeline_pb2_grpc.TimelineServiceStub


async def count_late(request: timeline_pb2.CountNewerRequest, _: object) -> bytes:
    """Answers late, or never."""
    await asyncio.sleep(DEADLINE_S / 2 if request.since_id == 1 else 60)
    return timeline_pb2.CountNewerResponse(count=7).SerializeToString()


@pytest_asyncio.fixture
async def stub() -> AsyncGenerator["timeline_pb2_grpc.TimelineServiceAsyncStub"]:
    server = grpc.aio.server()
    method: grpc.RpcMethodHandler[Any, Any] = grpc.unary_unary_rpc_method_handler(
        cast(Any, count_late),  # the types know no asyncio
        request_deserializer=timeline_pb2.CountNewerRequest.FromString,
    )
    handler = grpc.method_handlers_generic_handler(SERVICE, {"CountNewer": method})
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    own_s = deadlines.RULES[f"/{SERVICE}/CountNewer"].deadline_s
    assert own_s is not None
    settings = Settings(deadline_factor=DEADLINE_S / own_s)
    async with clients.channel(settings, f"dns:///127.0.0.1:{port}", SERVICE) as channel:
        yield Stub(channel)
    await server.stop(None)


async def test_a_call_ends_at_its_deadline_and_not_before(
    stub: "timeline_pb2_grpc.TimelineServiceAsyncStub",
):
    answer = await stub.CountNewer(timeline_pb2.CountNewerRequest(since_id=1))
    started = time.monotonic()
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await stub.CountNewer(timeline_pb2.CountNewerRequest(since_id=2))

    assert answer.count == 7
    assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    # gRPC counts in milliseconds, and rounds.
    assert time.monotonic() - started > DEADLINE_S - 0.02


async def test_a_caller_may_name_another_deadline(
    stub: "timeline_pb2_grpc.TimelineServiceAsyncStub",
):
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await stub.CountNewer(timeline_pb2.CountNewerRequest(since_id=1), timeout=DEADLINE_S / 8)

    assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_the_service_config_sets_no_timeout_because_grpc_lets_it_end_early():
    (method,) = json.loads(clients.service_config(SERVICE))["methodConfig"]

    assert "timeout" not in method
    assert {"service": SERVICE, "method": "CountNewer"} in method["name"]


def test_only_reads_are_repeated_by_grpc():
    (method,) = json.loads(clients.service_config("chirp.v1.TweetService"))["methodConfig"]
    names = {name["method"] for name in method["name"]}

    assert names == {
        "GetTweet", "GetThread", "ListLikers", "ListRetweeters", "BatchGetTweets"
    }  # fmt: skip

"""More calls than a server takes, a part that fails, a replica that is gone: what the gateway's
circuit breaker, retry budget and outlier detection do, on the real Envoy."""

import asyncio
import re
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc
import httpx
import pytest
from chirp.v1 import tweet_pb2, tweet_pb2_grpc

from mesh import server
from tests.e2e import gateway_stack
from tests.e2e.gateway_stack import Stack, stack, until_status
from tests.refused import read

__all__ = ["stack"]

pytestmark = pytest.mark.asyncio(loop_scope="module")

UNDER_WAY_MAX = 256
PER_CONNECTION = 100  # less than Envoy's limit of streams, so that none waits in the client
NORMAL_AGAIN_S = 5
SHED_WITHIN_S = gateway_stack.CALL_TIMEOUT_S / 2


async def counters(stack: Stack, cluster: str) -> dict[str, int]:
    async with httpx.AsyncClient() as client:
        prefix = f"cluster.{cluster}."
        url = f"http://127.0.0.1:{stack.described.admin_port}/stats"
        text = (await client.get(url, params={"filter": f"^{re.escape(prefix)}"})).text
    lines = [line.removeprefix(prefix).rpartition(": ") for line in text.splitlines()]
    return {name: int(value) for name, _, value in lines if value.isdigit()}


@asynccontextmanager
async def tweet_stubs(
    stack: Stack, connections: int
) -> AsyncGenerator[list["tweet_pb2_grpc.TweetServiceAsyncStub"]]:
    """Stubs with a connection each."""
    async with AsyncExitStack() as opened:
        own = (("grpc.use_local_subchannel_pool", 1),)
        channels = [
            grpc.aio.insecure_channel(stack.address, options=own) for _ in range(connections)
        ]
        for channel in channels:
            await opened.enter_async_context(channel)
        yield [tweet_pb2_grpc.TweetServiceStub(channel) for channel in channels]


async def test_calls_above_the_limit_are_refused_at_once_and_the_rest_is_not_hurt(stack: Stack):
    refused: list[tuple[float, grpc.aio.AioRpcError]] = []
    codes: list[grpc.StatusCode] = []

    async def ask(stub: "tweet_pb2_grpc.TweetServiceAsyncStub") -> None:
        began = time.monotonic()
        try:
            await stub.GetTweet(tweet_pb2.GetTweetRequest(id=gateway_stack.SLOW))
        except grpc.aio.AioRpcError as error:
            codes.append(error.code())
            if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                refused.append((time.monotonic() - began, error))

    async with tweet_stubs(stack, connections=3) as stubs, asyncio.TaskGroup() as group:
        for number in range(len(stubs) * PER_CONNECTION):
            group.create_task(ask(stubs[number % len(stubs)]))
        async with asyncio.timeout(gateway_stack.CALL_TIMEOUT_S):
            while not refused:
                await asyncio.sleep(0.01)
        by_rest = await stack.rest.get("/api/tweets/5")

    assert len(refused) == len(stubs) * PER_CONNECTION - UNDER_WAY_MAX
    assert codes.count(grpc.StatusCode.DEADLINE_EXCEEDED) == UNDER_WAY_MAX
    assert max(after for after, _ in refused) < SHED_WITHIN_S
    said = read(refused[0][1])
    assert (said.reason, said.retry_after_s) == ("OVERLOADED", 1)
    assert by_rest.status_code == 429
    assert by_rest.headers["retry-after"] == "1"
    assert by_rest.json()["details"][0]["reason"] == "OVERLOADED"
    # Calls that were not answered count against a replica: it may be left out for a moment.
    async with asyncio.timeout(NORMAL_AGAIN_S):
        while (await stack.rest.get("/api/tweets/5")).status_code != 200:
            await asyncio.sleep(0.05)


async def test_a_part_that_is_down_gets_few_of_the_calls_again(tmp_path: Path):
    calls = 250  # more than the budget's least, and less than the breaker lets through
    down = tweet_pb2.GetTweetRequest(id=gateway_stack.DOWN)
    # A call that a busy machine takes too long to answer would not be tried again at all.
    patient = {"call_timeout_s": 20.0}

    async with gateway_stack.open_stack(tmp_path, of_gateway=patient) as stack:
        before = await counters(stack, "tweet_server")
        async with tweet_stubs(stack, connections=3) as stubs:
            asked = [stubs[number % len(stubs)].GetTweet(down) for number in range(calls)]
            codes = [await call.code() for call in asked]
        after = await counters(stack, "tweet_server")

    assert set(codes) == {grpc.StatusCode.UNAVAILABLE}
    # Not by what reached the server: a busy one may be left out for a moment, and then Envoy also
    # tries the replica at whose port nobody listens.
    again = after["upstream_rq_retry"] - before["upstream_rq_retry"]
    assert 0 < again < 2 * calls  # as many as there would be without a budget
    assert len(stack.seen) <= calls + again
    assert after["upstream_rq_retry_overflow"] > before["upstream_rq_retry_overflow"]


async def test_a_replica_that_is_gone_is_left_out_before_it_is_found_unhealthy(stack: Stack):
    name = "outlier_detection.ejections_enforced_consecutive_local_origin_failure"
    before = await counters(stack, "tweet_server")
    settings = stack.settings.model_copy(update={"listen": f"127.0.0.1:{stack.spare_port}"})
    spare_calls: list[gateway_stack.Seen] = []
    services = gateway_stack.bound("tweet_server", settings, spare_calls)
    async with server.serving(settings, services) as spare:
        async with asyncio.timeout(gateway_stack.HEALTH_TIMEOUT_S):
            while not spare_calls:
                await stack.rest.get("/api/tweets/5")
        await spare.grpc_server.stop(0)  # no word to the gateway: as if it was killed
        answers = await asyncio.gather(*(stack.rest.get("/api/tweets/5") for _ in range(60)))

    assert {answer.status_code for answer in answers} == {200}
    assert (await counters(stack, "tweet_server"))[name] > before[name]
    await until_status(stack.rest, 200)

"""What is sent again to a server that is unavailable, how often, and what never."""

from collections.abc import AsyncGenerator, Awaitable
from typing import Any, cast

import grpc
import pytest
import pytest_asyncio
from chirp.v1 import tweet_pb2, tweet_pb2_grpc

from mesh import clients
from mesh.settings import Settings

SERVICE = "chirp.v1.TweetService"
UNAVAILABLE, INTERNAL = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL
# The store of tokens is half empty after five failures: the first call fails three times, the
# second one twice, and all others once.
FAILING = 10
TRIES_OF_FAILING = 3 + 2 + (FAILING - 2)


class Failing:
    """A TweetService whose next calls fail."""

    def __init__(self) -> None:
        self.fails = 0
        self.code = UNAVAILABLE
        self.received: list[bytes] = []

    async def answer(
        self, request: bytes, context: "grpc.aio.ServicerContext[bytes, bytes]"
    ) -> bytes:
        """Answers any of its methods."""
        self.received.append(request)
        if self.fails > 0:
            self.fails -= 1
            await context.abort(self.code, "not now")
        return b""

    def tries(self) -> int:
        """Returns how many calls came since it was asked last."""
        count = len(self.received)
        self.received.clear()
        return count


@pytest_asyncio.fixture
async def failing() -> Failing:
    return Failing()


@pytest_asyncio.fixture
async def stub(failing: Failing) -> AsyncGenerator["tweet_pb2_grpc.TweetServiceAsyncStub"]:
    server = grpc.aio.server()
    method: grpc.RpcMethodHandler[Any, Any] = grpc.unary_unary_rpc_method_handler(
        cast(Any, failing.answer)  # the types know no asyncio
    )
    names = ("CreateTweet", "DeleteTweet", "GetTweet")
    handler = grpc.method_handlers_generic_handler(SERVICE, dict.fromkeys(names, method))
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with clients.channel(Settings(), f"dns:///127.0.0.1:{port}", SERVICE) as channel:
        yield tweet_pb2_grpc.TweetServiceStub(channel)
    await server.stop(None)


async def code_of(call: Awaitable[object]) -> grpc.StatusCode:
    """Returns how a call ends."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def post(request_id: str) -> tweet_pb2.CreateTweetRequest:
    return tweet_pb2.CreateTweetRequest(content="hello", request_id=request_id)


async def test_a_write_with_a_request_id_is_repeated_as_it_was(
    stub: "tweet_pb2_grpc.TweetServiceAsyncStub", failing: Failing
) -> None:
    failing.fails = 2

    await stub.CreateTweet(post("one"))

    assert failing.received == [post("one").SerializeToString()] * 3


async def test_a_write_without_a_request_id_is_never_repeated(
    stub: "tweet_pb2_grpc.TweetServiceAsyncStub", failing: Failing
) -> None:
    for call in (
        lambda: stub.CreateTweet(post("")),
        lambda: stub.DeleteTweet(tweet_pb2.DeleteTweetRequest(id=1)),
    ):
        failing.fails = 1

        assert await code_of(call()) is UNAVAILABLE
        assert failing.tries() == 1


async def test_what_failed_for_another_reason_is_not_repeated(
    stub: "tweet_pb2_grpc.TweetServiceAsyncStub", failing: Failing
) -> None:
    failing.code = INTERNAL
    for call in (
        lambda: stub.CreateTweet(post("one")),
        lambda: stub.GetTweet(tweet_pb2.GetTweetRequest(id=1)),
    ):
        failing.fails = 1

        assert await code_of(call()) is INTERNAL
        assert failing.tries() == 1


@pytest.mark.parametrize("kind", ["reads", "writes"])
async def test_a_throttle_stops_repeating_until_enough_has_succeeded(
    stub: "tweet_pb2_grpc.TweetServiceAsyncStub", failing: Failing, kind: str
) -> None:
    def call() -> Awaitable[object]:
        if kind == "reads":
            return stub.GetTweet(tweet_pb2.GetTweetRequest(id=1))
        return stub.CreateTweet(post("one"))

    failing.fails = 1_000
    assert {await code_of(call()) for _ in range(FAILING)} == {UNAVAILABLE}
    assert failing.tries() == TRIES_OF_FAILING

    failing.fails = 0
    successes = round(clients.TOKENS_MAX / clients.TOKENS_PER_SUCCESS)
    assert {await code_of(call()) for _ in range(successes)} == {grpc.StatusCode.OK}
    assert failing.tries() == successes

    failing.fails = 1
    assert await code_of(call()) is grpc.StatusCode.OK
    assert failing.tries() == 2

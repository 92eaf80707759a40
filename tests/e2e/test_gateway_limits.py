"""Every size that a client chooses, at its limit and one past it, through the real gateway.

docs/limits.md lists them all. What servers say themselves (pages, batches, texts) is tested where
their rules are."""

import asyncio
import gzip
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import grpc
import pytest
import pytest_asyncio
from chirp.v1 import trend_pb2, trend_pb2_grpc, tweet_pb2, tweet_pb2_grpc

from mesh.server import REQUEST_BYTES_MAX
from tests.e2e.gateway_stack import Stack, open_stack
from tests.e2e.test_gateway_errors import assert_is_error, grpc_error

pytestmark = pytest.mark.asyncio(loop_scope="module")

BODY_BYTES_MAX = 65_536
HEADER_BYTES_MAX = 16 * 1_024
HEADERS_MAX = 64
JSON_DEPTH_MAX = 100
GRPC_PREFIX_BYTES = 5
CALLS_MAX = 128
DEADLINE_S = 20.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> Any:
    async with open_stack(tmp_path_factory.mktemp("limits")) as opened:
        yield opened


async def post(stack: Stack, content: bytes | str, **headers: str) -> Any:
    return await stack.rest.post(
        "/api/tweets", content=content, headers={**stack.bearer, **headers}
    )


async def largest(passes: Callable[[int], Awaitable[bool]], too_much: int) -> int:
    """Returns the greatest number that passes, below one that must not."""
    passed, refused = 0, too_much
    assert not await passes(refused)
    while refused - passed > 1:
        middle = (passed + refused) // 2
        if await passes(middle):
            passed = middle
        else:
            refused = middle
    return passed


def body(size: int) -> str:
    whole = json.dumps({"content": ""})
    return json.dumps({"content": "x" * (size - len(whole))})


async def test_a_body_of_64_kib_and_one_byte_more(stack: Stack):
    fits = await post(stack, body(BODY_BYTES_MAX))
    large = await post(stack, body(BODY_BYTES_MAX + 1))

    assert fits.status_code == 200
    assert_is_error(large, status=413, code=3, reason="TOO_LARGE")


async def test_a_body_without_a_length_is_counted_too(stack: Stack):
    async def in_pieces(size: int) -> Any:
        async def pieces() -> AsyncGenerator[bytes]:
            text = body(size).encode()
            for start in range(0, size, 10_000):
                yield text[start : start + 10_000]

        return await stack.rest.post("/api/tweets", content=pieces(), headers=stack.bearer)

    assert (await in_pieces(BODY_BYTES_MAX)).status_code == 200
    assert_is_error(await in_pieces(BODY_BYTES_MAX + 1), status=413, code=3, reason="TOO_LARGE")


async def test_a_grpc_message_of_64_kib_and_one_byte_more(stack: Stack):
    stub = tweet_pb2_grpc.TweetServiceStub(stack.channel)
    overhead = tweet_pb2.CreateTweetRequest(content="x" * 60_000).ByteSize() - 60_000

    def request(size: int) -> tweet_pb2.CreateTweetRequest:
        content = "x" * (size - GRPC_PREFIX_BYTES - overhead)
        return tweet_pb2.CreateTweetRequest(content=content)

    metadata = tuple(stack.bearer.items())
    await stub.CreateTweet(request(BODY_BYTES_MAX), metadata=metadata)
    large = await grpc_error(stub.CreateTweet(request(BODY_BYTES_MAX + 1), metadata=metadata))

    assert (large[0], large[2]) == (grpc.StatusCode.INVALID_ARGUMENT, "TOO_LARGE")


async def test_headers_of_16_kib_and_one_byte_more_always_say_the_same(stack: Stack):
    async def answer(size: int) -> Any:
        return await stack.rest.get("/api/tweets/5", headers={"x": "y" * size})

    async def passes(size: int) -> bool:
        return (await answer(size)).status_code == 200

    size = await largest(passes, HEADER_BYTES_MAX)

    # What httpx and HTTP itself send besides counts too.
    assert HEADER_BYTES_MAX - 300 < size < HEADER_BYTES_MAX
    # Below its own limit, no server refuses what the gateway lets in.
    assert {(await answer(size)).status_code for _ in range(20)} == {200}
    assert_is_error(await answer(size + 1), status=431, code=3, reason="TOO_LARGE")


async def test_only_so_many_headers(stack: Stack):
    async def answer(count: int) -> Any:
        headers = {f"x{number}": "y" for number in range(count)}
        return await stack.rest.get("/api/tweets/5", headers=headers)

    async def passes(count: int) -> bool:
        return (await answer(count)).status_code == 200

    count = await largest(passes, HEADERS_MAX)

    sent_besides = len((await answer(1)).request.headers) - 1
    assert count + sent_besides in range(HEADERS_MAX - 3, HEADERS_MAX + 1)
    assert_is_error(await answer(count + 1), status=431, code=3, reason="TOO_LARGE")


async def test_a_url_counts_as_a_header(stack: Stack):
    async def answer(length: int) -> Any:
        return await stack.rest.get("/api/tweets:batchGet?ids=" + "1" * length)

    async def passes(length: int) -> bool:
        return (await answer(length)).status_code != 431

    length = await largest(passes, HEADER_BYTES_MAX)

    assert HEADER_BYTES_MAX - 300 < length < HEADER_BYTES_MAX
    # A number of 16,000 digits is none.
    assert_is_error(await answer(length), status=400, code=3, reason="INVALID_ARGUMENT")
    assert_is_error(await answer(length + 1), status=431, code=3, reason="TOO_LARGE")


@pytest.mark.parametrize(("opening", "innermost", "closing"), [("[", "", "]"), ('{"a":', "1", "}")])
async def test_json_may_be_a_hundred_deep(stack: Stack, opening: str, innermost: str, closing: str):
    async def answer(depth: int) -> Any:
        inner = depth - 1
        nested = opening * inner + innermost + closing * inner
        return await post(stack, f'{{"content": "x", "unknown": {nested}}}')

    assert (await answer(JSON_DEPTH_MAX)).status_code == 200
    assert_is_error(await answer(JSON_DEPTH_MAX + 1), status=400, code=3, reason="INVALID_ARGUMENT")
    assert_is_error(
        await post(stack, (opening * 65_000)[:BODY_BYTES_MAX]),
        status=400, code=3, reason="INVALID_ARGUMENT",
    )  # fmt: skip


async def test_compressed_bodies_are_never_unpacked(stack: Stack):
    stack.seen.clear()
    bomb = gzip.compress(b'{"content": "' + b"x" * 10_000_000 + b'"}')

    refused = [
        await post(stack, content, **{"content-encoding": "gzip"})
        for content in (bomb, gzip.compress(b'{"content": "x"}'))
    ]

    assert len(bomb) < BODY_BYTES_MAX
    for answer in refused:
        assert_is_error(answer, status=400, code=3, reason="INVALID_ARGUMENT")
    assert stack.seen == []


async def test_compressed_grpc_messages_are_unpacked_up_to_their_limit(stack: Stack):
    stub = tweet_pb2_grpc.TweetServiceStub(stack.channel)
    overhead = tweet_pb2.CreateTweetRequest(content="x" * 200_000).ByteSize() - 200_000

    def send(size: int) -> Any:
        return stub.CreateTweet(
            tweet_pb2.CreateTweetRequest(content="x" * (size - overhead)),
            metadata=tuple(stack.bearer.items()),
            compression=grpc.Compression.Gzip,
        )

    await send(REQUEST_BYTES_MAX)
    stack.seen.clear()
    refused = [await grpc_error(send(size)) for size in (REQUEST_BYTES_MAX + 1, 50_000_000)]

    assert [(each[0], each[2]) for each in refused] == [
        (grpc.StatusCode.INVALID_ARGUMENT, "TOO_LARGE")
    ] * 2
    assert stack.seen == []


async def test_a_connection_carries_128_calls_at_once_and_the_next_one_waits(stack: Stack):
    options = (("grpc.use_local_subchannel_pool", 1),)
    async with grpc.aio.insecure_channel(stack.address, options=options) as channel:
        stub = trend_pb2_grpc.TrendServiceStub(channel)

        async def begun() -> Any:
            call = stub.StreamTrends(trend_pb2.StreamTrendsRequest(location="quiet"))
            await call.read()
            return call

        async with asyncio.timeout(DEADLINE_S):
            calls = await asyncio.gather(*(begun() for _ in range(CALLS_MAX)))
            waiting = asyncio.create_task(begun())
            # Another has come this far before its first heartbeat, which is a second later.
            await calls[0].read()
            waited = not waiting.done()
            calls[1].cancel()
            await waiting

    assert waited

"""What a server takes from those who call it directly, at its limit and one past it."""

import asyncio
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
import pytest_asyncio
from chirp.v1 import trend_pb2

from mesh import tokens
from mesh.server import METADATA_BYTES_MAX, REQUEST_BYTES_MAX
from tests.integration.accounts import bearer
from tests.integration.test_streams import DEADLINE_S, Bench, opened
from tests.refused import failure

COMPRESSIONS = (grpc.Compression.NoCompression, grpc.Compression.Gzip, grpc.Compression.Deflate)


@pytest_asyncio.fixture
async def bench(tmp_path: Path) -> AsyncGenerator[Bench]:
    async with opened(tmp_path) as running:
        yield running


def request(size: int) -> trend_pb2.ListTrendsRequest:
    """A request of so many bytes."""
    overhead = trend_pb2.ListTrendsRequest(location="x" * 200_000).ByteSize() - 200_000
    return trend_pb2.ListTrendsRequest(location="x" * (size - overhead))


@pytest.mark.parametrize("compression", COMPRESSIONS)
async def test_a_request_of_256_kib_and_one_byte_more(
    bench: Bench, compression: grpc.Compression
) -> None:
    fits = bench.stub.ListTrends(request(REQUEST_BYTES_MAX), compression=compression)
    large = bench.stub.ListTrends(request(REQUEST_BYTES_MAX + 1), compression=compression)

    assert await fits.code() == grpc.StatusCode.OK
    assert await large.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("compression", COMPRESSIONS[1:])
async def test_a_message_that_unpacks_to_a_thousand_times_its_size_is_refused(
    bench: Bench, compression: grpc.Compression
) -> None:
    bomb = bench.stub.ListTrends(request(64 << 20), compression=compression)
    next_one = bench.stub.ListTrends(request(REQUEST_BYTES_MAX))

    assert await bomb.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await next_one.code() == grpc.StatusCode.OK


async def test_metadata_up_to_its_limit_are_never_refused(bench: Bench) -> None:
    def call(size: int) -> Any:
        return bench.stub.ListTrends(request(200), metadata=(("x-long", "y" * size),))

    # What HTTP/2 counts for each header, and what gRPC sends besides, is below 1 kB.
    fitting = [await call(METADATA_BYTES_MAX - 1_000).code() for _ in range(20)]
    large = await call(METADATA_BYTES_MAX + 1).code()

    assert set(fitting) == {grpc.StatusCode.OK}
    assert large == grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_server_works_on_so_many_calls_and_refuses_one_more(tmp_path: Path) -> None:
    waits, other = trend_pb2.ListTrendsRequest(location="waits"), trend_pb2.ListTrendsRequest()
    async with opened(tmp_path, concurrent_calls_max=2, streams_max=1) as bench:
        under_way = [bench.stub.ListTrends(waits) for _ in range(2)]
        async with asyncio.timeout(DEADLINE_S):
            while bench.servicer.waiting < 2:
                await asyncio.sleep(0.005)

        refused = await failure(bench.stub.ListTrends(other))
        bench.servicer.release.set()
        answered = [await call.code() for call in under_way]
        again = await bench.stub.ListTrends(other).code()

    assert refused.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (refused.reason, refused.retry_after_s) == ("OVERLOADED", 1)
    assert refused.headers["retry-after"] == "1"
    assert answered == [grpc.StatusCode.OK] * 2
    assert again == grpc.StatusCode.OK


async def test_a_token_may_have_4096_characters(bench: Bench) -> None:
    def token(length: int) -> str:
        claims = {
            "sub": "7", "sid": "1", "iss": "chirp", "aud": "chirp",
            "exp": int(time.time()) + 60, "more": "",
        }  # fmt: skip

        def signed(more: int) -> str:
            key = bench.signer._key(time.time())  # pyright: ignore[reportPrivateUsage]
            assert key.private is not None
            claims["more"] = "x" * more
            headers = {"kid": key.key_id}
            return jwt.encode(claims, key.private, algorithm=tokens.ALGORITHM, headers=headers)

        # Base64 makes four characters of three.
        start = (length - len(signed(0))) * 3 // 4 - 4
        return next(
            made for more in range(start, start + 10) if len(made := signed(more)) >= length
        )

    async def code(length: int) -> tuple[int, grpc.StatusCode]:
        made = token(length)
        call = bench.stub.ListTrends(request(200), metadata=bearer(made))
        return len(made), await call.code()

    assert await code(tokens.TOKEN_LENGTH_MAX) == (tokens.TOKEN_LENGTH_MAX, grpc.StatusCode.OK)
    length, large = await code(tokens.TOKEN_LENGTH_MAX + 1)
    assert length - tokens.TOKEN_LENGTH_MAX <= 2
    assert large == grpc.StatusCode.UNAUTHENTICATED

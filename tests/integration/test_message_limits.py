"""What a server takes from those who call it directly, at its limit and one past it."""

from collections.abc import AsyncGenerator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from chirp.v1 import trend_pb2

from mesh.server import METADATA_BYTES_MAX, REQUEST_BYTES_MAX
from tests.integration.test_streams import Bench, opened

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
    def call(size: int) -> "grpc.aio.UnaryUnaryCall[object, object]":
        return bench.stub.ListTrends(request(200), metadata=(("x-long", "y" * size),))

    # What HTTP/2 counts for each header, and what gRPC sends besides, is below 1 kB.
    fitting = [await call(METADATA_BYTES_MAX - 1_000).code() for _ in range(20)]
    large = await call(METADATA_BYTES_MAX + 1).code()

    assert set(fitting) == {grpc.StatusCode.OK}
    assert large == grpc.StatusCode.RESOURCE_EXHAUSTED

import itertools
from collections.abc import AsyncGenerator
from typing import Any

import grpc
import pytest
import pytest_asyncio

from bench import http2
from bench.http2 import Request

LONG = "x" * 5_000  # as a token: its length takes more than one byte


@pytest_asyncio.fixture
async def port() -> AsyncGenerator[int]:
    async def answer(request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        sent = dict(context.invocation_metadata() or ())
        if sent["authorization"] != f"Bearer {LONG}":
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "no")
        return request * 40_000

    handler = grpc.method_handlers_generic_handler(
        "a.B", {"C": grpc.unary_unary_rpc_method_handler(answer)}
    )
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((handler,))
    listening = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield listening
    await server.stop(0)


def call(token: str) -> Request:
    return http2.request("/a.B/C", "localhost", token, b"hi")


async def test_every_call_of_a_closed_loop_is_answered(port: int) -> None:
    requests = itertools.repeat(call(LONG))

    result = await http2.run(port, requests, connections=2, streams=4, count=50)

    assert (len(result.latencies), result.failed) == (50, 0)
    assert result.bytes_received >= 50 * 80_000


async def test_a_refused_call_counts_as_failed(port: int) -> None:
    requests = iter([call(LONG), call("other"), call(LONG)])

    result = await http2.run(port, requests, connections=1, streams=1, count=3)

    assert (len(result.latencies), result.failed) == (2, 1)


async def test_an_open_loop_sends_what_is_due(port: int) -> None:
    requests = itertools.repeat(call(LONG))

    result = await http2.run_at_rate(port, requests, connections=2, rate=200, seconds=0.2)

    assert result.failed == 0
    assert 35 <= len(result.latencies) <= 41


async def test_a_server_that_is_away_is_an_os_error() -> None:
    with pytest.raises(OSError, match="Connect"):
        await http2.run(1, iter([call("x")]), connections=1, streams=1, count=1)

import asyncio
import itertools
from collections.abc import AsyncGenerator
from typing import Any

import grpc
import pytest
import pytest_asyncio

from bench import frames, http2
from bench.frames import Request

STREAMS_MAX = 4
LONG = "x" * 5_000  # as a token: its length takes more than one byte
REASON = "no: 100 % é, " + 20 * "again "  # so is this one's, and it is percent-encoded


@pytest_asyncio.fixture
async def port() -> AsyncGenerator[int]:
    async def answer(request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        sent = dict(context.invocation_metadata() or ())
        if sent["authorization"] != f"Bearer {LONG}":
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, REASON)
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
    return frames.request("/a.B/C", "localhost", token, b"hi")


async def test_every_call_of_a_closed_loop_is_answered(port: int) -> None:
    requests = itertools.repeat(call(LONG))

    result = await http2.run(port, requests, connections=2, streams=4, count=50)

    assert (len(result.latencies), result.failed) == (50, 0)
    assert result.bytes_received >= 50 * 80_000


class Strict(asyncio.Protocol):
    """A server that ends a connection with more calls at once than it allows, as Envoy does."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._received = b""
        self._open: list[int] = []
        setting = frames.MAX_CONCURRENT_STREAMS.to_bytes(2) + STREAMS_MAX.to_bytes(4)
        transport.write(frames.frame_start(len(setting), frames.SETTINGS, 0) + bytes(4) + setting)

    def data_received(self, data: bytes) -> None:
        self._received = (self._received + data).removeprefix(frames.PREFACE)
        while len(self._received) >= frames.FRAME_HEADER_BYTES:
            end = frames.FRAME_HEADER_BYTES + int.from_bytes(self._received[:3])
            if len(self._received) < end:
                return
            frame, self._received = self._received[:end], self._received[end:]
            if frame[3] == frames.HEADERS:
                self._open.append(int.from_bytes(frame[5:9]))
                asyncio.get_running_loop().call_later(0.001, self._answer)
                if len(self._open) > STREAMS_MAX:
                    self._transport.abort()

    def _answer(self) -> None:
        number = self._open.pop(0).to_bytes(4)
        self._transport.write(frames.frame_start(1, frames.DATA, frames.END_STREAM) + number + b"x")


async def test_no_more_calls_are_open_at_once_than_the_server_allows() -> None:
    server = await asyncio.get_running_loop().create_server(Strict, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    requests = itertools.repeat(call(LONG))

    async with server:
        result = await http2.run(port, requests, connections=2, streams=9, count=100)
        late = await http2.run_at_rate(port, requests, connections=1, rate=10_000, seconds=0.02)

    assert (len(result.latencies), result.failed, late.failed) == (100, 0, 0)
    assert len(late.latencies) >= 10 * STREAMS_MAX


async def test_a_refused_call_counts_as_failed(port: int) -> None:
    requests = iter([call(LONG), call("other"), call(LONG)])

    result = await http2.run(port, requests, connections=1, streams=1, count=3)

    assert (len(result.latencies), result.failed) == (2, 1)
    assert result.reasons == {REASON: 1}


async def test_an_open_loop_sends_what_is_due(port: int) -> None:
    requests = itertools.repeat(call(LONG))

    result = await http2.run_at_rate(port, requests, connections=2, rate=200, seconds=0.2)

    assert result.failed == 0
    assert 35 <= len(result.latencies) <= 41


async def test_a_server_that_is_away_is_an_os_error() -> None:
    with pytest.raises(OSError, match="Connect"):
        await http2.run(1, iter([call("x")]), connections=1, streams=1, count=1)

"""Clients that send or read a byte at a time, or not at all, are cut off; others notice nothing."""

import asyncio
import socket
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.e2e.gateway_stack import LARGE, Stack, open_stack

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONNECTIONS_MAX = 12
DEADLINE_S = 20.0
OF_GATEWAY = {"headers_timeout_s": 1.0, "request_timeout_s": 1.0, "idle_timeout_s": 3.0}
HEAD = b"POST /api/tweets HTTP/1.1\r\nhost: x\r\n"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Stack]:
    async with open_stack(
        tmp_path_factory.mktemp("slow"),
        of_gateway=OF_GATEWAY,
        gateway_connections_max=CONNECTIONS_MAX,
        stream_write_s=1.0,
    ) as opened:
        yield opened


@asynccontextmanager
async def connected(
    stack: Stack, **options: Any
) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    host, port = stack.address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port), **options)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def trickle(stack: Stack, first: bytes, rest: bytes) -> tuple[bytes, float]:
    """Sends the rest a byte at a time; returns what came back until the end, and when it came."""
    came = bytearray()

    async def collect(reader: asyncio.StreamReader) -> None:
        # Bytes that are sent to a connection that was closed make it break: what came, stays.
        with suppress(ConnectionError):
            while piece := await reader.read(1_000):
                came.extend(piece)

    async with connected(stack) as (reader, writer):
        began = time.monotonic()
        writer.write(first)
        collecting = asyncio.create_task(collect(reader))
        for byte in rest:
            await asyncio.wait([collecting], timeout=0.05)
            if came or collecting.done():
                break
            writer.write(bytes([byte]))
        async with asyncio.timeout(DEADLINE_S):
            await collecting
        return bytes(came), time.monotonic() - began


async def test_headers_a_byte_at_a_time_are_cut_off(stack: Stack):
    (answer, after_s), fast = await asyncio.gather(
        trickle(stack, HEAD, b"x-slow: " + b"y" * 1_000),
        stack.rest.get("/api/tweets/5"),
    )

    assert answer.startswith(b"HTTP/1.1 408")
    assert b"DEADLINE_EXCEEDED" in answer
    assert 0.9 < after_s < 10
    assert fast.status_code == 200


async def test_a_body_a_byte_at_a_time_is_cut_off(stack: Stack):
    head = HEAD + b"content-length: 1000\r\n\r\n"
    stack.seen.clear()

    answer, after_s = await trickle(stack, head, b"x" * 1_000)

    assert answer.startswith(b"HTTP/1.1 408")
    assert 0.9 < after_s < 10
    assert stack.seen == []


async def test_a_request_that_never_ends_is_cut_off(stack: Stack):
    answer, _ = await trickle(stack, HEAD + b"content-length: 1000\r\n\r\n", b"")

    assert answer.startswith(b"HTTP/1.1 408")


async def test_a_stream_that_never_reads_is_cut_off_at_the_server(stack: Stack):
    stack.seen.clear()
    request = b"GET /api/trends/flood:stream HTTP/1.1\r\nhost: x\r\n\r\n"

    async with connected(stack, limit=1_000) as (reader, writer):
        writer.write(request)
        await reader.readline()
        async with asyncio.timeout(DEADLINE_S):
            while not any(seen.method == "closed" for seen in stack.seen):
                await asyncio.sleep(0.02)
        opened, closed = [seen.at for seen in stack.seen]

    # One of a second, which begins when the gateway, too, takes no more.
    assert closed - opened < 10


async def test_an_answer_that_is_never_read_is_given_up(stack: Stack):
    request = f"GET /api/tweets/{LARGE} HTTP/1.1\r\nhost: x\r\n\r\n".encode()
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    raw.setblocking(False)
    host, port = stack.address.split(":")
    loop = asyncio.get_running_loop()

    with raw:
        await loop.sock_connect(raw, (host, int(port)))
        await loop.sock_sendall(raw, request)
        async with asyncio.timeout(DEADLINE_S):
            while await active_requests(stack) == 0:
                await asyncio.sleep(0.01)
            while await active_requests(stack) > 0:
                await asyncio.sleep(0.02)


async def active_requests(stack: Stack) -> int:
    """How many requests the gateway holds."""
    name = "http.gateway.downstream_rq_active"
    async with httpx.AsyncClient() as admin:
        url = f"http://127.0.0.1:{stack.described.admin_port}/stats?filter={name}"
        return int((await admin.get(url)).text.split()[-1])


async def test_a_stream_that_is_read_goes_on(stack: Stack):
    stack.seen.clear()
    got = 0

    async with stack.rest.stream("GET", "/api/trends/flood:stream") as answer:
        began = time.monotonic()
        async for piece in answer.aiter_raw():
            got += len(piece)
            if time.monotonic() - began > 2.5:
                break

    assert got > 1_000_000
    assert stack.seen[0].method == "TrendService/StreamTrends"


async def test_one_connection_too_many_is_closed_and_one_that_goes_makes_room(stack: Stack):
    async with AsyncExitStack() as others, asyncio.timeout(DEADLINE_S):
        one = await others.enter_async_context(AsyncExitStack())
        while not await opens(stack, one):
            await asyncio.sleep(0.02)
        # Those of other tests may still be there.
        held = 1
        while await opens(stack, others):
            held += 1
            assert held <= CONNECTIONS_MAX

        await one.aclose()
        while not await opens(stack, others):
            await asyncio.sleep(0.02)


async def opens(stack: Stack, held: AsyncExitStack) -> bool:
    """Opens a connection and keeps it; False where it is closed instead of answered."""
    reader, writer = await held.enter_async_context(connected(stack))
    with suppress(ConnectionError):
        writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        return (await reader.readline()).startswith(b"HTTP/1.1 200")
    return False

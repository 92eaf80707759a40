"""Reads thousands of home streams at a few microseconds a message, over HTTP/2 as bench/http2.py
does: grpc.aio's client would cost as much as the server that is measured."""

import asyncio
import time
from collections.abc import Sequence
from typing import cast

from bench import frames
from bench.frames import (
    ACK,
    DATA,
    END_STREAM,
    FRAME_HEADER_BYTES,
    GOAWAY,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    PING,
    RST_STREAM,
    SETTINGS,
    WINDOW_MAX,
    Request,
)
from bench.http2 import CONNECT_TIMEOUT_S, WINDOW_STEP

# A message is 5 bytes of gRPC, then the protobuf: field 1 is an item, 2 a heartbeat.
GRPC_PREFIX_BYTES = 5
ITEM, HEARTBEAT = 0x0A, 0x12


class Streams:
    """Open streams, and when each of their items arrived."""

    def __init__(self) -> None:
        self.begun = 0
        """Streams that have sent their first message."""
        self.ended = 0
        self.arrivals: list[float] = []
        self._opened: list[_Connection] = []

    async def open(self, port: int, requests: Sequence[Request], *, connections: int) -> None:
        """Opens a stream for each request, spread over connections."""
        loop = asyncio.get_running_loop()
        for number in range(connections):
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                _, protocol = await loop.create_connection(
                    lambda: _Connection(self), "127.0.0.1", port
                )
            self._opened.append(protocol)
            protocol.send(requests[number::connections])

    async def until(self, count: int, *, within_s: float, begun: bool = False) -> None:
        """Returns when so many items have arrived, or streams have begun. Raises OSError where it
        takes too long, or a stream ends."""
        deadline = time.perf_counter() + within_s
        while (self.begun if begun else len(self.arrivals)) < count:
            if self.ended or time.perf_counter() > deadline:
                raise OSError(
                    f"{self.begun} streams began, {self.ended} ended,"
                    f" {len(self.arrivals)} of {count} items came"
                )
            await asyncio.sleep(0.002)

    def close(self) -> None:
        """Hangs up."""
        for connection in self._opened:
            connection.abort()


class _Connection(asyncio.Protocol):
    """One connection; see RFC 9113 for the frames."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._transport: asyncio.WriteTransport | None = None
        self._received = b""
        self._silent: set[int] = set()
        self._unacknowledged = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greets the server."""
        self._transport = cast(asyncio.WriteTransport, transport)
        self._write(frames.greeting((INITIAL_WINDOW_SIZE, WINDOW_MAX)))

    def send(self, requests: Sequence[Request]) -> None:
        """Opens a stream for each."""
        for index, call in enumerate(requests):
            stream = 2 * index + 1
            number = stream.to_bytes(4)
            self._silent.add(stream)
            self._write(b"".join((call.head, number, call.middle, number, call.tail)))

    def abort(self) -> None:
        """Closes the connection."""
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Reads frames."""
        now = time.perf_counter()
        received = self._received + data if self._received else data
        at, end = 0, len(received)
        while end - at >= FRAME_HEADER_BYTES:
            length = int.from_bytes(received[at : at + 3])
            begin = at + FRAME_HEADER_BYTES
            if begin + length > end:
                break
            kind, flags = received[at + 3], received[at + 4]
            if kind == DATA and length > GRPC_PREFIX_BYTES:
                self._unacknowledged += length
                if received[begin + GRPC_PREFIX_BYTES] == ITEM:
                    self._streams.arrivals.append(now)
                else:
                    self._begin(int.from_bytes(received[at + 5 : at + 9]))
            elif kind in (RST_STREAM, GOAWAY) or (kind == HEADERS and flags & END_STREAM):
                self._streams.ended += 1
            elif kind == SETTINGS and not flags & ACK:
                self._write(frames.settings_ack())
            elif kind == PING and not flags & ACK:
                payload = received[begin : begin + length]
                self._write(frames.ping_ack(payload))
            at = begin + length
        self._received = received[at:]
        if self._unacknowledged > WINDOW_STEP:
            self._write(frames.window_update(self._unacknowledged))
            self._unacknowledged = 0

    def _begin(self, stream: int) -> None:
        if stream in self._silent:
            self._silent.discard(stream)
            self._streams.begun += 1

    def _write(self, content: bytes) -> None:
        assert self._transport is not None
        self._transport.write(content)

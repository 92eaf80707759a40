"""A load client for gRPC that sends another request each time, at about 10 us of CPU a request.

h2load sends one set of headers for a whole run, so it reads for one viewer; grpc.aio's client costs
more than the server. This one speaks just enough HTTP/2 (RFC 9113) to load a server on the same
machine: requests are encoded before the run, with headers that use no table (RFC 7541, 6.2.2), so
that only the stream's number is filled in; of the answers it reads the frames' headers.

A call has failed where its stream ended without a message, which is how gRPC refuses one.
"""

import asyncio
import itertools
import random
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

from bench.frames import (
    ACK,
    DATA,
    ENABLE_PUSH,
    END_STREAM,
    FRAME_HEADER_BYTES,
    GOAWAY,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    PING,
    RST_STREAM,
    SETTING_BYTES,
    SETTINGS,
    WINDOW_MAX,
    Request,
    greeting,
    grpc_message,
    ping_ack,
    settings_ack,
    window_update,
)

WINDOW_STEP = 1 << 24  # bytes received before the server is told that it may send more
CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 10.0


@dataclass(slots=True)
class Result:
    """What a run gave."""

    seconds: float = 0.0
    bytes_received: int = 0
    latencies: "array[float]" = field(default_factory=lambda: array("d"))
    """Seconds, of the calls that succeeded; under a fixed rate from when the call was due."""
    refusals: "array[float]" = field(default_factory=lambda: array("d"))
    """The same of those that were answered without a message; they are among `failed`."""
    reasons: Counter[str] = field(default_factory=Counter[str])
    """How many failed why, in the server's words where it said any."""

    @property
    def failed(self) -> int:
        """Calls that failed."""
        return self.reasons.total()

    @property
    def rate(self) -> float:
        """Calls that succeeded, per second."""
        return len(self.latencies) / self.seconds

    def percentile_ms(self, part: float) -> float:
        """The latency that this part of the calls was not slower than."""
        return percentile(sorted(self.latencies), part) * 1000


def percentile(ordered: Sequence[float], part: float) -> float:
    """Returns a percentile by the nearest-rank method; 0 of nothing."""
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, max(0, -(-int(part * 1e6) * len(ordered) // 10**6) - 1))]


async def run(
    port: int,
    requests: Iterator[Request],
    *,
    connections: int,
    streams: int,
    seconds: float | None = None,
    count: int | None = None,
) -> Result:
    """Closed loop: `streams` calls at a time on each connection, until the time is over or `count`
    calls were made. Raises OSError where the server is away or hangs."""
    ends_at = time.perf_counter() + seconds if seconds is not None else float("inf")
    source = requests if count is None else itertools.islice(requests, count)

    def next_request() -> Request | None:
        return next(source, None) if time.perf_counter() < ends_at else None

    result = Result()
    opened = [await _connect(port, result, next_request) for _ in range(connections)]
    started = time.perf_counter()
    for connection in opened:
        connection.begin(streams)
    await _finish(opened, (seconds or 0) + (300 if count else 0))
    result.seconds = time.perf_counter() - started
    return result


async def run_at_rate(
    port: int,
    requests: Iterator[Request],
    *,
    connections: int,
    rate: float,
    seconds: float,
    draw: random.Random | None = None,
) -> Result:
    """Open loop: calls leave when they are due, however late the answers are. They are due at even
    gaps, or with `draw` at random ones, as many independent clients would make them (Poisson)."""
    result = Result()
    opened = [await _connect(port, result, lambda: None) for _ in range(connections)]
    turns = itertools.cycle(opened)
    started = time.perf_counter()
    due = 0.0
    while (elapsed := time.perf_counter() - started) < seconds:
        while due <= elapsed:
            next(turns).send(next(requests), started + due)
            due += draw.expovariate(rate) if draw else 1 / rate
        for connection in opened:
            connection.flush()
        await asyncio.sleep(0.001)
    await _finish(opened, 0)
    result.seconds = time.perf_counter() - started
    return result


async def _connect(
    port: int, result: Result, next_request: Callable[[], Request | None]
) -> "Connection":
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(CONNECT_TIMEOUT_S):
        _, protocol = await loop.create_connection(
            lambda: Connection(result, next_request), "127.0.0.1", port
        )
        await protocol.greeted
    return protocol


async def _finish(opened: "Sequence[Connection]", within_s: float) -> None:
    try:
        async with asyncio.timeout(within_s + ANSWER_TIMEOUT_S):
            for connection in opened:
                connection.close_when_idle()
                await connection.closed
    except TimeoutError:
        raise OSError("a server did not answer in time") from None
    finally:
        for connection in opened:
            connection.abort()


class Connection(asyncio.Protocol):
    """One connection; see RFC 9113 for the frames."""

    def __init__(self, result: Result, next_request: Callable[[], Request | None]) -> None:
        self._result = result
        self._next_request = next_request
        self._transport: asyncio.WriteTransport | None = None
        self._received = b""
        self._outgoing: list[bytes] = [
            greeting((INITIAL_WINDOW_SIZE, WINDOW_MAX), (ENABLE_PUSH, 0))
        ]
        self._stream = 1
        self._streams_max = WINDOW_MAX  # until the server says
        self._waiting: deque[tuple[Request, float]] = deque()
        self._started: dict[int, float] = {}
        self._answered: set[int] = set()
        self._unacknowledged = 0
        self._closing = False
        loop = asyncio.get_running_loop()
        self.greeted: asyncio.Future[None] = loop.create_future()
        """Done when the server has said what it allows."""
        self.closed: asyncio.Future[None] = loop.create_future()

    def begin(self, streams: int) -> None:
        """Sends the first calls."""
        for _ in range(streams):
            self._send_next()
        self.flush()

    def send(self, call: Request, due: float) -> None:
        """Puts a call into the next flush, or where the server allows no more streams at once, into
        the first one after another has ended. A server ends a connection that has too many."""
        if len(self._started) >= self._streams_max:
            self._waiting.append((call, due))
            return
        number = self._stream.to_bytes(4)
        self._started[self._stream] = due
        self._outgoing += (call.head, number, call.middle, number, call.tail)
        self._stream += 2

    def flush(self) -> None:
        """Writes what was put together."""
        if self._outgoing and self._transport is not None:
            self._transport.write(b"".join(self._outgoing))
            self._outgoing.clear()

    def arrived(self, stream: int) -> None:
        """Is told that data came for a stream: for who holds streams open."""

    def close_when_idle(self) -> None:
        """Closes the connection once every call is answered."""
        self._closing = True
        self._close_if_idle()

    def abort(self) -> None:
        """Closes the connection now."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greets the server."""
        self._transport = cast(asyncio.WriteTransport, transport)
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """Counts what was not answered as failed."""
        if lost := len(self._started) + len(self._waiting):
            self._result.reasons["the connection ended"] += lost
        self._started.clear()
        self._waiting.clear()
        self._transport = None
        if not self.closed.done():
            self.closed.set_result(None)
        if not self.greeted.done():
            self.greeted.set_exception(ConnectionError("the server closed the connection"))

    def data_received(self, data: bytes) -> None:
        """Reads frames, and sends the next calls in one write."""
        received = self._received + data if self._received else data
        at, end = 0, len(received)
        while end - at >= FRAME_HEADER_BYTES:
            length = int.from_bytes(received[at : at + 3])
            after = at + FRAME_HEADER_BYTES + length
            if after > end:
                break
            kind, flags = received[at + 3], received[at + 4]
            stream = int.from_bytes(received[at + 5 : at + 9])
            if kind == DATA:
                self._unacknowledged += length
                if length:
                    self._answered.add(stream)
                    self.arrived(stream)
                if flags & END_STREAM:
                    self._ended(stream)
            elif kind == HEADERS:
                if flags & END_STREAM:
                    self._ended(stream, received[at + FRAME_HEADER_BYTES : after])
            else:
                self._on_control(kind, flags, stream, received[at + FRAME_HEADER_BYTES : after])
            at = after
        self._received = received[at:]
        if self._unacknowledged > WINDOW_STEP:
            self._result.bytes_received += self._unacknowledged
            self._outgoing.append(window_update(self._unacknowledged))
            self._unacknowledged = 0
        self.flush()
        self._close_if_idle()

    def _on_control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == SETTINGS and not flags & ACK:
            for at in range(0, len(payload), SETTING_BYTES):
                if int.from_bytes(payload[at : at + 2]) == MAX_CONCURRENT_STREAMS:
                    self._streams_max = int.from_bytes(payload[at + 2 : at + SETTING_BYTES])
            if not self.greeted.done():
                self.greeted.set_result(None)
            self._outgoing.append(settings_ack())
        elif kind == PING and not flags & ACK:
            self._outgoing.append(ping_ack(payload))
        elif kind == RST_STREAM:
            self._answered.discard(stream)
            self._ended(stream)
        elif kind == GOAWAY:
            self.abort()

    def _ended(self, stream: int, trailers: bytes = b"") -> None:
        started = self._started.pop(stream, None)
        if started is None:
            return
        if stream in self._answered:
            self._answered.discard(stream)
            self._result.latencies.append(time.perf_counter() - started)
        else:
            self._result.reasons[grpc_message(trailers) or "no reason was given"] += 1
            self._result.refusals.append(time.perf_counter() - started)
        self._send_next()

    def _send_next(self) -> None:
        if self._waiting:
            self.send(*self._waiting.popleft())
            return
        call = self._next_request()
        if call is not None:
            self.send(call, time.perf_counter())

    def _close_if_idle(self) -> None:
        if self._closing and not (self._started or self._waiting) and self._transport is not None:
            self._result.bytes_received += self._unacknowledged
            self._unacknowledged = 0
            self._transport.close()

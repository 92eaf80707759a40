"""500 clients that send or read as slowly as they can, and what others notice: home reads through
the gateway at 100 a second, before and during, in one run. Writes bench/slow_clients.json.

    python -m bench.slow_clients

A third of them sends headers a byte a second, a third a body likewise, and a third opens a home
stream and never reads it, while somebody posts whom all of them follow. Who is cut off comes again.
"""

import asyncio
import http
import itertools
import random
import re
import socket
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from chirp.v1 import tweet_pb2

from bench import alone, http2
from bench.alone import FIRST_ID
from bench.rows import Row, at_most
from bench.stack import BenchStack
from bench.streams_shape import resident_bytes
from bench.world import mint_tokens
from domain.ids import UserId
from mesh.catalogue import OPEN_STREAMS
from ops.processes import KINDS

VIEWERS = 500
SLOW_EACH = 167  # of three kinds: 501
READS_PER_S = 100
WARM_S, MEASURE_S, BEFORE_THEY_COUNT_S = 5.0, 20.0, 40.0
POSTS_PER_S = 5
CONTENT = "\U0001f426" * 280  # with the URLs, the most bytes that a tweet can have
MEDIA_URLS = ["https://example.org/" + "x" * 2_000] * 4
BYTE_S = 1.0
READ_NOTHING_S = 35.0  # who does not read does not see that it was cut off, and opens another
RECEIVE_BYTES = 4_096  # what the system keeps for one that does not read
RATIO_GOAL = 2.0
# The trend server is ready when the worker has published.
ALL = (*(kind.name for kind in KINDS if kind.name != "trend_server"), "trend_server", "gateway")
LATEST = Path(__file__).with_name("slow_clients.json")


def main() -> int:
    """Runs it; returns the exit status."""
    return alone.main(LATEST, VIEWERS, ALL, _compare)


@dataclass(slots=True)
class Latencies:
    """What reads took, in seconds, and which failed."""

    all: list[float] = field(default_factory=list[float])
    failed: int = 0

    def at(self, part: float) -> float:
        """Returns a percentile in milliseconds."""
        return http2.percentile(sorted(self.all), part) * 1_000


async def _compare(running: BenchStack, author: UserId) -> list[Row]:
    viewers = [UserId(FIRST_ID + number) for number in range(1, VIEWERS + 1)]
    tokens = mint_tokens(running.settings, viewers)
    posting = asyncio.create_task(_post(running, author))
    slow = SlowClients(running.settings.port, tokens)
    gateway, server = running.process_id("gateway"), running.process_id("timeline_server")
    try:
        # A first read builds its timeline, and would stand in the tail of those before only.
        await _read_each(running.settings.port, tokens)
        await _read(running.settings.port, tokens, WARM_S)
        before = await _read(running.settings.port, tokens, MEASURE_S)
        memory = [resident_bytes(process) for process in (gateway, server)]
        slow.start()
        await asyncio.sleep(BEFORE_THEY_COUNT_S)
        during = await _read(running.settings.port, tokens, MEASURE_S)
        grown = [
            (resident_bytes(process) - earlier) / 1e6
            for process, earlier in zip((gateway, server), memory, strict=True)
        ]
        left = await asyncio.to_thread(_open_streams, running)
        if posting.done():
            await posting  # raises what it failed with
    finally:
        posting.cancel()
        await slow.stop()
    opened = slow.opened
    how = (
        f"{READS_PER_S} home reads a second by REST, {MEASURE_S:g} s each; {3 * SLOW_EACH} slow"
        " clients, a third each: headers and bodies of a byte a second, home streams that are never"
        f" read while {POSTS_PER_S} of the longest tweets a second come; opened {opened[HEADERS]},"
        f" {opened[BODY]} and {opened[STREAM]} times, since they are cut off; {left} streams were"
        f" open at the end; p50 {before.at(0.5):.1f} ms before, {during.at(0.5):.1f} ms during;"
        f" {before.failed} and {during.failed} reads failed; the gateway grew by {grown[0]:.0f} MB,"
        f" the timeline server by {grown[1]:.0f} MB; all clients on the same cores"
    )
    row = at_most(
        "slow_clients_p99",
        during.at(0.99),
        "ms",
        value_goal=RATIO_GOAL * before.at(0.99),
        errors=before.failed + during.failed,
        against=f"before {before.at(0.99):.1f} ms",
        how=how,
    )
    return [replace(row, ratio=round(during.at(0.99) / before.at(0.99), 2))]


class Connections:
    """Kept connections to the gateway, as many as are needed at once."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def get(self, path: str, token: str) -> int:
        """Returns the status of the answer, which is read whole. Raises OSError and EOFError."""
        pair = self._free.pop() if self._free else None
        reader, writer = pair or await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(
            f"GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n".encode()
        )
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"\r\ncontent-length: (\d+)", head)
        await reader.readexactly(int(length[1]) if length else 0)
        self._free.append((reader, writer))
        return int(head.split(b" ", 2)[1])

    def close(self) -> None:
        """Closes them."""
        for _, writer in self._free:
            writer.close()


async def _read_each(port: int, tokens: Sequence[str]) -> None:
    connections = Connections(port)
    for token in tokens:
        await connections.get("/api/timeline/home", token)
    connections.close()


async def _read(port: int, tokens: Sequence[str], seconds: float) -> Latencies:
    """Begins a read every 1/READS_PER_S seconds, whether or not earlier ones have answered."""
    draw, latencies = random.Random(1), Latencies()  # noqa: S311 -- not a secret
    connections = Connections(port)

    async def read(due: float) -> None:
        try:
            status = await connections.get("/api/timeline/home", draw.choice(tokens))
            latencies.failed += status != http.HTTPStatus.OK
        except (OSError, EOFError):
            latencies.failed += 1
        latencies.all.append(time.perf_counter() - due)

    async with asyncio.TaskGroup() as reads:
        began = time.perf_counter()
        for number in range(round(seconds * READS_PER_S)):
            due = began + number / READS_PER_S
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            reads.create_task(read(due))
    connections.close()
    return latencies


async def _post(running: BenchStack, author: UserId) -> None:
    async with alone.posting(running, author) as post:
        while True:
            await post(tweet_pb2.CreateTweetRequest(content=CONTENT, media_urls=MEDIA_URLS))
            await asyncio.sleep(1 / POSTS_PER_S)


def _open_streams(running: BenchStack) -> int:
    port = running.local.metrics_ports["timeline_server"][0]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        found = re.search(rf"^{OPEN_STREAMS.name} (\d+)", answer.read().decode(), re.MULTILINE)
    return int(found[1]) if found else 0


HEADERS, BODY, STREAM = "headers", "body", "stream"


class SlowClients:
    """Connections that are as slow as can be, each in a task that opens another when it is cut."""

    def __init__(self, port: int, tokens: Sequence[str]) -> None:
        self._port = port
        self._tokens = itertools.cycle(tokens)
        self._tasks: list[asyncio.Task[None]] = []
        self.opened: Counter[str] = Counter()

    def start(self) -> None:
        """Begins to open them, one after the other: all at once, again and again, is a flood, which
        the limits of rates are for."""
        for kind in (HEADERS, BODY, STREAM):
            self._tasks += [
                asyncio.create_task(self._again(kind, READ_NOTHING_S * number / SLOW_EACH))
                for number in range(SLOW_EACH)
            ]

    async def stop(self) -> None:
        """Closes them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _again(self, kind: str, begin_s: float) -> None:
        await asyncio.sleep(begin_s)
        while True:
            with suppress(OSError):
                await self._once(kind)
            await asyncio.sleep(BYTE_S)

    async def _once(self, kind: str) -> None:
        raw = socket.socket()
        raw.setblocking(False)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_connect(raw, ("127.0.0.1", self._port))
            self.opened[kind] += 1
            bearer = f"host: x\r\nauthorization: Bearer {next(self._tokens)}\r\n"
            if kind == STREAM:
                request = f"GET /api/timeline/home:stream HTTP/1.1\r\n{bearer}\r\n"
                await loop.sock_sendall(raw, request.encode())
                await asyncio.sleep(READ_NOTHING_S)
                return
            request = f"POST /api/tweets HTTP/1.1\r\n{bearer}"
            request += "x-slow: " if kind == HEADERS else "content-length: 60000\r\n\r\n"
            await loop.sock_sendall(raw, request.encode())
            while True:
                await asyncio.sleep(BYTE_S)
                await loop.sock_sendall(raw, b"x")
        finally:
            raw.close()


if __name__ == "__main__":
    sys.exit(main())

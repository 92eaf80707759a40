"""Trends: one worker's counting, ranking and memory; lists beside a bare echo; open streams.

The lists that servers answer with here are made up and published directly: what is measured is how
they are served.
"""

import asyncio
import itertools
import json
import os
import sys
import time
from dataclasses import dataclass, field
from statistics import fmean

import grpc
from chirp.v1 import trend_pb2, trend_pb2_grpc

from bench import frames, http2, tools
from bench.frames import Request
from bench.http2 import Connection, Result
from bench.rows import Row, at_least, at_most
from bench.stack import PYTHONPATH, BenchStack
from bench.tools import LoadFailed
from domain.ids import UserId
from mesh.tokens import TokenSigner
from storage import valkey
from storage.trends import NO_VERSION, TrendStore

LIST, STREAM = "ListTrends", "StreamTrends"
SERVICE = "/chirp.v1.TrendService/"

USES, TAGS, PLACES = 5_000_000, 1_000_000, 250
COUNTING_TIMEOUT_S = 1_800.0

TURNS, TURN_S = 4, 3.0
CONNECTIONS, STREAMS = 8, 8

FIRST_MESSAGES = 200  # streams opened one after the other
OPEN_STREAMS, STREAM_CONNECTIONS = 2_000, 8
CHANGES = 5
# More than a second: a stream is told at most once a second.
BETWEEN_CHANGES_S = 1.5
FENCE = 1 << 60  # above every worker's


async def measure(stack: BenchStack) -> list[Row]:
    """Measures all of it; starts what it needs, and stops it."""
    rows = await _counting(stack)
    async with valkey.connect(stack.settings.valkey_url, stack.settings) as cache:
        await cache.delete(*(f"trends:{{trends}}:{part}" for part in ("head", "lists", "changed")))
        store = TrendStore(cache)
        version = await _publish(store, NO_VERSION, 0)
        await stack.start("trend_server")
        rows += await _lists(stack)
        rows.append(await _first_messages(stack))
        rows.append(await _streams(stack, store, version))
    await stack.stop("trend_server")
    return rows


async def _counting(stack: BenchStack) -> list[Row]:
    settings = stack.settings
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.trend_counting", str(USES), str(TAGS), str(PLACES),
        env={
            **os.environ,
            "PYTHONPATH": PYTHONPATH,
            # A busy machine is no failure.
            "CHIRP_VALKEY_TIMEOUT_S": "30",
            # Room for the few more that come while rankings are timed.
            "CHIRP_TREND_USES_MAX": str(USES + 1_000),
            "CHIRP_DATABASE_URL": settings.database_url,
            "CHIRP_VALKEY_URL": settings.valkey_url,
            "CHIRP_EVENTLOG_URL": settings.eventlog_url,
        },
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(COUNTING_TIMEOUT_S):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise LoadFailed("bench.trend_counting failed")
    found: dict[str, float] = json.loads(output)
    if found["dropped"]:
        raise LoadFailed(f"{found['dropped']:,.0f} uses were dropped: not all were measured")
    what = f"{USES:,} uses of {TAGS:,} tags by Zipf's law at {PLACES} places within two hours"
    memory = found["resident_bytes"] + found["published_bytes"]
    return [
        at_least(
            "trend_count", found["uses_per_s"], "uses/s", value_goal=100_000,
            how=f"{what}, one in each event; from the events' bytes in memory, by their tweets in"
            f" PostgreSQL, to ranked and published lists, ranking every second; one worker on one"
            f" core; a tenth of all, spread over all, was measured;"
            f" {found['uses_per_cpu_s']:,.0f} uses / CPU-s",
        ),
        at_most(
            "trend_refresh", found["refresh_s"], "s", value_goal=1,
            how=f"ranking of all places both ways and publishing what changed, behind {what}; the"
            f" middle of several; when a minute begins {found['new_minute_s']:.2f}",
        ),
        at_most(
            "trend_memory", memory / 1e9, "GB", value_goal=1.5,
            how=f"{what}; resident memory of the worker ({found['empty_bytes'] / 1e6:,.0f} MB when"
            f" it had counted nothing, {found['peak_bytes'] / 1e9:.2f} GB at its peak), and"
            f" {found['published_bytes'] / 1e6:.1f} MB in Valkey",
        ),
    ]  # fmt: skip


async def _publish(store: TrendStore, after: str, number: int) -> str:
    """Publishes lists of 50 tags in which the first and the second change places each time."""
    entries = [
        trend_pb2.Trend(
            tag=f"Tag{place}", name=f"tag{place}", score=1_000.0 - place, count=2_000 - place,
            velocity=1.5, authors=1_500 - place, surprise=99.5,
        )
        for place in range(50)
    ]  # fmt: skip
    if number % 2:
        entries[0], entries[1] = entries[1], entries[0]
    for rank, entry in enumerate(entries, start=1):
        entry.rank = rank
    lists = trend_pb2.TrendLists(score=entries, rising=entries).SerializeToString()
    now_ms = time.time_ns() // 1_000_000
    return await store.publish({"world": lists}, after=after, fence=FENCE, as_of_ms=now_ms)


async def _lists(stack: BenchStack) -> list[Row]:
    port = stack.port("trend_server")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = trend_pb2_grpc.TrendServiceStub(channel)
        answer = (await stub.ListTrends(trend_pb2.ListTrendsRequest())).SerializeToString()
    echo_port = await stack.start_echo_of({f"chirp.v1.TrendService/{LIST}": answer})
    sides = {"trend_server": (port, _Side()), "echo": (echo_port, _Side())}
    for _ in range(TURNS):
        for name, (at, side) in sides.items():
            requests = itertools.repeat(_request(stack, at, LIST))
            before = tools.cpu_seconds(stack.process_id(name))
            result = await http2.run(
                at, requests, connections=CONNECTIONS, streams=STREAMS, seconds=TURN_S
            )
            if result.failed:
                raise LoadFailed(f"{result.failed} reads of trends failed")
            side.cpu_s += tools.cpu_seconds(stack.process_id(name)) - before
            side.calls += len(result.latencies)
            side.rates.append(result.rate)
    await stack.stop("echo")
    chirp, echo = sides["trend_server"][1], sides["echo"][1]
    return [
        at_least(
            "trend_list", chirp.calls / chirp.cpu_s, "requests / CPU-s of the server",
            ratio=chirp.calls / chirp.cpu_s / (echo.calls / echo.cpu_s), ratio_goal=0.7,
            against=f"bare echo {echo.calls / echo.cpu_s:,.0f}",
            how=f"ListTrends by gRPC, 10 tags, {len(answer):,} bytes; our own client"
            f" (bench/http2.py), {CONNECTIONS} connections of {STREAMS} streams, in turns with the"
            f" echo of the same bytes; {fmean(chirp.rates):,.0f} requests/s, the echo"
            f" {fmean(echo.rates):,.0f}; load generator on the same cores",
        )
    ]  # fmt: skip


async def _first_messages(stack: BenchStack) -> Row:
    latencies: list[float] = []
    async with grpc.aio.insecure_channel(f"127.0.0.1:{stack.port('trend_server')}") as channel:
        stub = trend_pb2_grpc.TrendServiceStub(channel)
        for _ in range(FIRST_MESSAGES):
            started = time.perf_counter()
            stream = stub.StreamTrends(trend_pb2.StreamTrendsRequest())
            await stream.read()
            latencies.append(time.perf_counter() - started)
            stream.cancel()
    ordered = sorted(latencies)
    return at_most(
        "trend_stream_first_p99", http2.percentile(ordered, 0.99) * 1000, "ms", value_goal=100,
        how=f"StreamTrends by gRPC, from the call to its first message, the whole list;"
        f" {FIRST_MESSAGES} streams one after the other; p50"
        f" {http2.percentile(ordered, 0.5) * 1000:.1f} ms",
    )  # fmt: skip


@dataclass(slots=True)
class _Side:
    calls: int = 0
    cpu_s: float = 0.0
    rates: list[float] = field(default_factory=list[float])


class _Listener(Connection):
    """A connection that holds streams open and notes when each was told something."""

    def __init__(self, arrivals: dict[tuple[int, int], float]) -> None:
        super().__init__(Result(), lambda: None)
        self._arrivals = arrivals

    def arrived(self, stream: int) -> None:
        """Notes the first data of a stream since somebody looked."""
        self._arrivals.setdefault((id(self), stream), time.perf_counter())


async def _streams(stack: BenchStack, store: TrendStore, version: str) -> Row:
    port = stack.port("trend_server")
    loop = asyncio.get_running_loop()
    arrivals: dict[tuple[int, int], float] = {}
    opened: list[_Listener] = []
    latencies: list[float] = []
    # An account has only so many streams.
    requests = [_request(stack, port, STREAM, user) for user in range(1, OPEN_STREAMS + 1)]
    try:
        started = time.perf_counter()
        for number in range(1, STREAM_CONNECTIONS + 1):
            _, connection = await loop.create_connection(
                lambda: _Listener(arrivals), "127.0.0.1", port
            )
            opened.append(connection)
            # One wave after the other: gRPC's core refuses some of more than 1,000 at a time.
            wave = OPEN_STREAMS // STREAM_CONNECTIONS
            for _ in range(wave):
                connection.send(requests.pop(), 0.0)
            connection.flush()
            await _until_told(arrivals, number * wave)
        first_s = time.perf_counter() - started
        before = tools.cpu_seconds(stack.process_id("trend_server"))
        for number in range(1, CHANGES + 1):
            await asyncio.sleep(BETWEEN_CHANGES_S)
            arrivals.clear()
            published = time.perf_counter()
            version = await _publish(store, version, number)
            await _until_told(arrivals, OPEN_STREAMS)
            latencies += [at - published for at in arrivals.values()]
        cpu_s = tools.cpu_seconds(stack.process_id("trend_server")) - before
    finally:
        for connection in opened:
            connection.abort()
    ordered = sorted(latencies)
    return at_most(
        "trend_streams_p99", http2.percentile(ordered, 0.99) * 1000, "ms", value_goal=250,
        how=f"{OPEN_STREAMS:,} open StreamTrends of one server told of a change of the list, from"
        f" before it is published in Valkey until the last byte's frame is read; {CHANGES} changes;"
        f" p50 {http2.percentile(ordered, 0.5) * 1000:.0f} ms; all opened and sent their list in"
        f" {first_s:.2f} s; {cpu_s / CHANGES * 1000:.0f} ms of the server's CPU a change; client on"
        f" the same cores",
    )  # fmt: skip


async def _until_told(arrivals: dict[tuple[int, int], float], streams: int) -> None:
    try:
        async with asyncio.timeout(http2.ANSWER_TIMEOUT_S):
            # An event for each arrival would cost as much as what is measured.
            while len(arrivals) < streams:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise LoadFailed(f"only {len(arrivals)} of {streams} streams were told") from None


def _request(stack: BenchStack, port: int, method: str, user: int = 1) -> Request:
    # Trends are open, but the client always sends a token, and so does this one.
    token = TokenSigner(stack.settings).sign_user(
        UserId(user), 0, lifetime_s=3_600, now=time.time()
    )
    message = trend_pb2.ListTrendsRequest().SerializeToString()
    return frames.request(SERVICE + method, f"127.0.0.1:{port}", token, message)

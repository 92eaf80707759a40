"""10,000 home streams on one timeline server: what each costs in memory, and how long a tweet takes
until all of them have it. A part of `make bench-shape`; writes bench/streams_shape.json.

    python -m bench.streams_shape
"""

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path

import grpc
import uvloop
from chirp.v1 import tweet_pb2, tweet_pb2_grpc
from rich.console import Console

from bench import http2, live, rows, stack
from bench.rows import Row, at_most
from bench.stack import BenchStack
from bench.stream_client import Streams
from bench.world import mint_tokens
from domain.ids import UserId
from mesh import settings as settings_module
from ops.children import StartError
from storage import bulk

STREAMS = 10_000
WARM = 100
CONNECTIONS = 20
POSTS = 10
FOLLOWEES = 22  # of each viewer: the mean of the real graph
FIRST_ID = 10_000_000
BEGIN_S, ARRIVE_S = 300.0, 60.0
LATEST = Path(__file__).with_name("streams_shape.json")


def main() -> int:
    """Runs it; returns the exit status."""
    folder = Path(tempfile.mkdtemp(prefix="chirp-streams-"))
    try:
        folder.chmod(0o755)  # PostgreSQL's account must enter it
        measured = uvloop.run(measure(folder))
    except (OSError, StartError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    finally:
        stack.remove_folder(folder)
    Console().print(rows.table(measured))
    rows.write_json(measured, LATEST)
    return 0


async def measure(folder: Path) -> list[Row]:
    """Measures in a stack of its own, which lives in this folder. Raises OSError and StartError."""
    # Whatever this shell is set up for, a benchmark writes into nobody's database.
    for name in [name for name in os.environ if name.startswith("CHIRP_")]:
        del os.environ[name]
    os.environ.update(stack.QUOTAS, CHIRP_DATA=str(folder))
    async with stack.opened(settings_module.load()) as running:
        author = await make_world(running, STREAMS)
        running.place_processes()
        await running.start("tweet_server", "graph_server", "timeline_server", "outbox_relay")
        return await _streams(running, author)


async def make_world(running: BenchStack, viewers: int) -> UserId:
    """Makes accounts that all follow one, and some others; returns the one."""
    async with bulk.connect(running.settings) as connection:
        await connection.execute(
            "INSERT INTO users (id, username, display_name)"
            " SELECT n, 'shape_' || n, 'shape' FROM generate_series(%s::bigint, %s::bigint) AS n",
            (FIRST_ID, FIRST_ID + viewers),
        )
        await connection.execute(
            "INSERT INTO follows (follower_id, followee_id, id)"
            " SELECT n, CASE k WHEN 0 THEN %(first)s"
            "   ELSE %(first)s + 1 + (n * 7 + k * 131) %% %(count)s END,"
            "  (n - %(first)s) * 100 + k"
            " FROM generate_series(%(first)s::bigint + 1, %(first)s::bigint + %(count)s) AS n,"
            "  generate_series(0, %(followees)s - 1) AS k"
            " WHERE k = 0 OR 1 + (n * 7 + k * 131) %% %(count)s <> n - %(first)s"
            " ON CONFLICT DO NOTHING",
            {"first": FIRST_ID, "count": viewers, "followees": FOLLOWEES},
        )
        await connection.execute("ANALYZE")
    return UserId(FIRST_ID)


async def _streams(running: BenchStack, author: UserId) -> list[Row]:
    viewers = [UserId(FIRST_ID + number) for number in range(1, STREAMS + 1)]
    requests = live.stream_requests(running, viewers)
    port, server = running.port("timeline_server"), running.process_id("timeline_server")
    streams = Streams()
    try:
        await streams.open(port, requests[:WARM], connections=1)
        await streams.until(WARM, within_s=BEGIN_S, begun=True)
        before = resident_bytes(server)
        began = time.perf_counter()
        await streams.open(port, requests[WARM:], connections=CONNECTIONS)
        await streams.until(STREAMS, within_s=BEGIN_S, begun=True)
        opening_s = time.perf_counter() - began
        latencies, until_all = await _posts(running, author, streams)
        each = (resident_bytes(server) - before) / (STREAMS - WARM)
    finally:
        streams.close()
    how = (
        f"{STREAMS:,} home streams by gRPC on one timeline_server, each of another viewer with"
        f" {FOLLOWEES} followees; our own client on the same machine; opened in {opening_s:.0f} s"
    )
    return [
        at_most("streams_memory", each / 1000, "kB/stream", value_goal=40, how=how),
        at_most(
            "streams_told_p99", http2.percentile(latencies, 0.99) * 1000, "ms", value_goal=1_000,
            how=f"{how}; {POSTS} tweets by one whom all follow, from the POST's answer to the item"
            f" at each stream; all had it after {sorted(until_all)[POSTS // 2]:.2f} s (median)",
        ),
    ]  # fmt: skip


async def _posts(
    running: BenchStack, author: UserId, streams: Streams
) -> tuple[list[float], list[float]]:
    """Returns the latencies of all items, sorted, and for each tweet when the last one had it."""
    (token,) = mint_tokens(running.settings, [author])
    latencies: list[float] = []
    until_all: list[float] = []
    target = f"127.0.0.1:{running.port('tweet_server')}"
    async with grpc.aio.insecure_channel(target) as channel:
        stub = tweet_pb2_grpc.TweetServiceStub(channel)
        for number in range(POSTS):
            streams.arrivals.clear()
            await stub.CreateTweet(
                tweet_pb2.CreateTweetRequest(content=f"to all of you, number {number}"),
                metadata=(("authorization", f"Bearer {token}"),),
            )
            answered = time.perf_counter()
            await streams.until(STREAMS, within_s=ARRIVE_S)
            latencies += [max(0.0, at - answered) for at in streams.arrivals]
            until_all.append(max(streams.arrivals) - answered)
            await asyncio.sleep(1.0)
    return sorted(latencies), until_all


def resident_bytes(process_id: int) -> int:
    """Returns what a process holds in memory. Raises OSError where it is gone."""
    for line in Path(f"/proc/{process_id}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"process {process_id} is gone")


if __name__ == "__main__":
    sys.exit(main())

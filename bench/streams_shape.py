"""10,000 home streams on one timeline server: what each costs in memory, and how long a tweet takes
until all of them have it. A part of `make bench-shape`; writes bench/streams_shape.json.

    python -m bench.streams_shape
"""

import asyncio
import sys
import time
from pathlib import Path

from chirp.v1 import tweet_pb2

from bench import alone, http2, live
from bench.alone import FIRST_ID, FOLLOWEES
from bench.rows import Row, at_most
from bench.stack import BenchStack
from bench.stream_client import Streams
from domain.ids import UserId

STREAMS = 10_000
WARM = 100
CONNECTIONS = 20
POSTS = 10
BEGIN_S, ARRIVE_S = 300.0, 60.0
LATEST = Path(__file__).with_name("streams_shape.json")


def main() -> int:
    """Runs it; returns the exit status."""
    processes = ("tweet_server", "graph_server", "timeline_server", "outbox_relay")
    return alone.main(LATEST, STREAMS, processes, _streams)


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
    latencies: list[float] = []
    until_all: list[float] = []
    async with alone.posting(running, author) as post:
        for number in range(POSTS):
            streams.arrivals.clear()
            await post(tweet_pb2.CreateTweetRequest(content=f"to all of you, number {number}"))
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

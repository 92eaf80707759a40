"""`make bench-shape`: how costs grow, in bench/shape.json, bench/shape.md and bench/shape.svg.

    python -m bench.shape [--data GRAPH] [--only AXIS,AXIS]

    accounts     a home read, where there are 1,000 to 1,000,000 accounts: random graphs by a power
                 law, and the real one. Everywhere 70 readers, who follow 20 to 40 accounts
    readers      the same in the largest, by 70 to 2,000 readers who come again and again
    followees    a home read of viewers who follow 10 to 10,000
    celebrities  a home read of viewers who follow 0 to 200 pulled authors
    rebuild      a home read without a window, of viewers who follow 10 to 10,000
    fanout       deliveries of authors with 10 to 1,000,000 followers, thresholds raised

Takes about fifteen minutes and 12 GB of disk and memory each. What is not measured in a run keeps
its last figures.
"""

import argparse
import os
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from rich.console import Console

from bench import runs, shape_fanout, shape_picture, shape_reads, shape_worlds, stack
from bench.shape_picture import Point
from bench.shape_worlds import Plan, account_id
from bench.stack import BenchStack
from storage import valkey

AXES = ("accounts", "readers", "followees", "celebrities", "rebuild", "fanout")
SIZES = (1_000, 10_000, 81_306, 1_000_000)
REAL_SIZE = 81_306
LARGEST = SIZES[-1]
LARGEST_LENGTH = 100  # of its timelines: 3.4 GB of windows, all of them filled
CACHE_BYTES = 12_000_000_000
READERS = (70, 200, 600, 2_000)  # the smallest world has 70 who follow so many
READERS_FOLLOW = (20, 40)

CROWD = 20_000  # accounts that the viewers of the other axes follow
VIEWERS_EACH = 20
FOLLOWEES = (10, 30, 100, 300, 1_000, 3_000, 10_000)
CELEBRITIES = (0, 1, 3, 10, 30, 60, 100, 101, 150, 200)
FOLLOWED_BESIDE = 30  # accounts that are no celebrities
STRIDE = 7_919  # a prime, so that followees are different ones

# Followers: how many authors have so many, and how many tweets each of them sends.
AUDIENCES = {
    10: (200, 100), 100: (50, 50), 1_000: (20, 20), 10_000: (5, 10), 100_000: (1, 5),
    1_000_000: (1, 2),
}  # fmt: skip

console = Console(stderr=True)


def main(arguments: Sequence[str]) -> int:
    """Runs the measurements; returns the exit status."""
    options = _options(arguments)
    graph: Path | None = options.data
    if graph is not None and not graph.exists():
        console.print(f"{graph} is not there: {REAL_SIZE:,} accounts at random instead")
        graph = None
    return runs.run("bench-shape", lambda folder: _run(folder, graph, options.only))


async def _run(folder: Path, graph: Path | None, axes: Sequence[str]) -> None:
    async with stack.opened(runs.settings_in(folder)) as running:
        async with valkey.connect(running.settings.valkey_url, running.settings) as cache:
            await cache.config_set("maxmemory", str(CACHE_BYTES))
        if {"followees", "celebrities", "rebuild"} & set(axes):
            await _by_viewer(running, axes)
        for size in SIZES:
            if "accounts" in axes or ({"readers", "fanout"} & set(axes) and size == LARGEST):
                await _by_size(running, size, graph, axes)


async def _by_size(running: BenchStack, size: int, graph: Path | None, axes: Sequence[str]) -> None:
    largest, real = size == LARGEST, size == REAL_SIZE and graph is not None
    authors = sum(count for count, _ in AUDIENCES.values()) if largest else 0
    plan = Plan(
        accounts=size + authors,
        reserved=authors,
        follows=size * shape_worlds.FOLLOWS_PER_ACCOUNT,
        graph=graph if real else None,
        more=_audiences(size) if largest else (),
    )
    length = LARGEST_LENGTH if largest else None
    async with _world(running, plan, length):
        low, high = READERS_FOLLOW
        viewers = await shape_worlds.fetch_readers(
            running.settings, low=low, high=high, count=READERS[-1], up_to=size
        )
        await shape_reads.materialise(running, viewers)
        readers = set(viewers)
        others = [account_id(number) for number in range(1, size + 1)]
        await shape_reads.fill_windows(
            running, viewers[0], [account for account in others if account not in readers]
        )
        wanted = [("accounts", size, READERS[0])]
        if largest:
            wanted += [("readers", count, count) for count in READERS]
        for axis, place, count in wanted:
            if axis not in axes:
                continue
            some = viewers[:count]
            cost = await shape_reads.read_cost(running, some)
            note = (
                f"{'the real graph' if real else 'power law'}, {len(some):,} readers who follow"
                f" {low} to {high}, all {size:,} windows filled"
                f" ({running.settings.timeline_length} entries at most)"
            )
            _keep([Point(axis, place, cost.cpu_us, cost.p50_ms, cost.cache_us, note)])
        if largest and "fanout" in axes:
            await _by_followers(running, size)


async def _by_followers(running: BenchStack, size: int) -> None:
    await running.stop("timeline_server")
    number = size
    for followers, (count, tweets) in AUDIENCES.items():
        authors = [account_id(number + place) for place in range(1, count + 1)]
        number += count
        cost = await shape_fanout.fanout_cost(running, authors, tweets, aside=account_id(1))
        each = 1e6 * cost.warm_s / cost.deliveries
        cold = 1_000 * cost.cold_s / len(authors)
        note = (
            f"{count} author{'s' if count > 1 else ''}, {count * tweets:,} tweets,"
            f" {cost.deliveries:,} insertions, {cost.deliveries / cost.warm_s:,.0f} a second; the"
            f" first tweet of an author, with the list to fetch, {cold:,.1f} ms"
        )
        whole_ms = 1_000 * cost.warm_s / (count * tweets)
        _keep([Point("fanout", followers, each, whole_ms, 0.0, note)])


async def _by_viewer(running: BenchStack, axes: Sequence[str]) -> None:
    followees = {count: place * VIEWERS_EACH for place, count in enumerate(FOLLOWEES)}
    beside = len(FOLLOWEES) * VIEWERS_EACH
    celebrities = {count: beside + i * VIEWERS_EACH for i, count in enumerate(CELEBRITIES)}
    viewers = (len(FOLLOWEES) + len(CELEBRITIES)) * VIEWERS_EACH
    reserved = viewers + max(CELEBRITIES)
    more: list[tuple[int, int]] = []
    for count, first in followees.items():
        for viewer in range(first, first + VIEWERS_EACH):
            more += _follows(viewer, count)
    for count, first in celebrities.items():
        for viewer in range(first, first + VIEWERS_EACH):
            more += _follows(viewer, FOLLOWED_BESIDE)
            more += [(CROWD + 1 + viewer, CROWD + viewers + 1 + i) for i in range(count)]
    plan = Plan(
        accounts=CROWD + reserved, reserved=reserved, more=more, celebrities=max(CELEBRITIES),
        follows=CROWD * shape_worlds.FOLLOWS_PER_ACCOUNT,
    )  # fmt: skip
    async with _world(running, plan, None):
        for axis, firsts in (("followees", followees), ("celebrities", celebrities)):
            for count, first in firsts.items():
                who = [account_id(CROWD + 1 + first + i) for i in range(VIEWERS_EACH)]
                if axis in axes:
                    await shape_reads.materialise(running, who)
                    cost = await shape_reads.read_cost(running, who)
                    note = f"{VIEWERS_EACH} viewers"
                    _keep([Point(axis, count, cost.cpu_us, cost.p50_ms, cost.cache_us, note)])
                if axis == "followees" and "rebuild" in axes:
                    await shape_reads.rebuild_ms(running, who)  # tweets come into the caches
                    took = await shape_reads.rebuild_ms(running, who)
                    note = f"{VIEWERS_EACH} viewers, one after the other"
                    _keep([Point("rebuild", count, 1_000 * took, took, 0.0, note)])


@asynccontextmanager
async def _world(running: BenchStack, plan: Plan, length: int | None) -> AsyncGenerator[None]:
    """A world, and the servers that serve it."""
    console.print(f"making {plan.accounts:,} accounts")
    await shape_worlds.make(running.settings, plan)
    if length is not None:
        os.environ["CHIRP_TIMELINE_LENGTH"] = str(length)
        running.settings = running.settings.model_copy(update={"timeline_length": length})
    running.place_processes()
    await running.start("tweet_server", "graph_server", "timeline_server")
    try:
        yield
    finally:
        await running.stop_all()


def _follows(viewer: int, count: int) -> list[tuple[int, int]]:
    start = viewer * 1_031
    return [(CROWD + 1 + viewer, 1 + (start + i * STRIDE) % CROWD) for i in range(count)]


def _audiences(size: int) -> list[tuple[int, int]]:
    pairs: list[tuple[int, int]] = []
    author = size
    for followers, (count, _) in AUDIENCES.items():
        for place in range(count):
            author += 1
            first = place * followers % size
            pairs += [(1 + (first + i) % size, author) for i in range(followers)]
    return pairs


def _keep(points: Sequence[Point]) -> None:
    for point in points:
        console.print(point.sentence())
    shape_picture.keep(points)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.shape", description=__doc__)
    runs.add_graph(parser)
    parser.add_argument(
        "--only", type=runs.some_of(AXES, "axis"), default=list(AXES),
        help=f"some of {','.join(AXES)}",
    )  # fmt: skip
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

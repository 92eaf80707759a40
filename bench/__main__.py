"""`make bench`: measures side by side in one run, prints a table, writes bench/latest.json.

    python -m bench [--data GRAPH] [--only home,rest,live,freshness,costs,mixed,peer,post,fanout,
                                    trends]

Takes about 25 minutes on two cores, ten of them of mixed load. The goals are for an otherwise
idle machine; absolute figures move from run to run, ratios less. The exit status is 0 when
everything was measured (the table says which goals were met), 1 where something failed or `verify`
found a difference, and 2 where a tool is missing.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from bench import (
    beside,
    costs,
    deliveries,
    freshness,
    home,
    live,
    mixed,
    peer_fanout,
    peer_reads,
    posts,
    rows,
    runs,
    stack,
    tools,
    trends,
    verification,
    world,
)
from bench.rows import Row
from bench.turns import Side
from mesh.settings import Settings
from ops.children import StartError

LATEST = Path(__file__).with_name("latest.json")
PARTS = (
    "home", "rest", "live", "freshness", "costs", "mixed", "peer", "post", "fanout", "trends",
)  # fmt: skip
WITH_ALL_WINDOWS = {"freshness", "costs", "mixed", "post"}
CACHE_LINE = "cache: "  # what timeline_server says of its caches when it stops

COMPLAINT = re.compile(" (WARNING|ERROR) ")
COMPLAINTS_EACH = 5

console = Console(stderr=True)


def main(arguments: Sequence[str]) -> int:
    """Runs the benchmarks; returns the exit status."""
    options = _options(arguments)
    try:
        tools.check_installed()
    except tools.Missing as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    measured: list[Row] = []

    async def all_of_it(folder: Path) -> None:
        settings = runs.settings_in(
            folder, CHIRP_INFLUENCER_FOLLOWERS=str(world.INFLUENCER_FOLLOWERS)
        )
        try:
            await _run(settings, world.at_hand(options.data, console), options.only, measured)
        except (StartError, OSError, tools.LoadFailed):
            _say_complaints(folder)
            raise
        finally:
            # Also what was measured before something failed.
            Console().print(rows.table(measured))

    if status := runs.run("bench", all_of_it):
        return status
    out: Path | None = LATEST if set(options.only) == set(PARTS) else options.out
    if out is not None:
        rows.write_json(measured, out)
        console.print(f"written to {out}")
    return 1 if any(row.name == "verify" and not row.met for row in measured) else 0


async def _run(
    settings: Settings, graph: Path | None, parts: Sequence[str], measured: list[Row]
) -> None:
    async with stack.opened(settings) as running:
        if "trends" in parts:
            console.print("trends")
            running.place_processes()
            measured += await trends.measure(running)
        if tuple(parts) == ("trends",):
            return
        with Progress(console=console) as progress:
            await world.load(running.settings, graph, progress)
        made = await world.describe(running.settings)
        console.print(
            f"{graph.name if graph else 'generated graph'}: {len(made.accounts):,} accounts,"
            f" {sum(made.follower_counts):,} follows, {made.tweets:,} tweets;"
            f" accounts with {world.INFLUENCER_FOLLOWERS:,} followers are pulled"
        )
        running.place_processes()
        await running.start("tweet_server", "graph_server", "timeline_server")
        # One after the other: the trend server is ready when the worker has published.
        await running.start("outbox_relay", "fanout_worker", "trend_worker", "trend_server")
        await running.start("notification_server", "notification_worker", "gateway")
        cold_rate, viewers = await home.materialise(running, made)
        console.print(f"{viewers}; caches cold, {cold_rate:,.0f} reads/s")
        page = await home.average_page(running, made)
        tweet = await posts.one_tweet(running, made)
        echo_port, echo_gateway_port = await running.start_echo(page, tweet)
        # They were there for the gateways' /healthz; what follows is not about them.
        await running.stop("trend_worker", "trend_server")
        if "home" in parts:
            console.print("home reads by gRPC")
            port = await running.start_verifying_echo(page)
            echo = Side(stack.VERIFYING_ECHO, port)
            measured += await home.by_random_viewers(running, made, echo, len(page))
            measured += await home.by_h2load(running, made, echo, len(page))
            await running.stop(stack.VERIFYING_ECHO)
        if "rest" in parts:
            console.print("home reads by REST")
            measured += await home.by_rest(running, made, echo_gateway_port)
        await running.stop("gateway", "echo-gateway", "notification_server")
        if "live" in parts:
            console.print("open streams")
            measured += await live.measure(running, made)
        await running.stop("notification_worker")
        if "peer" in parts:
            console.print("home reads with other systems' commands")
            measured += await peer_reads.measure(running, made, page)
        if WITH_ALL_WINDOWS & set(parts):
            await _with_all_windows(running, made, parts, echo_port, measured)
        await running.stop("timeline_server", "outbox_relay", "fanout_worker")
        if "fanout" in parts or "peer" in parts:
            console.print("fan-out")
            await deliveries.materialise_all(running, made)
            measured += await deliveries.measure(running, made)
            if "fanout" in parts:
                console.print("home reads beside fan-out")
                await running.start("timeline_server")
                measured += await beside.measure(running, made, echo_port)
                await running.stop("timeline_server")
        if "peer" in parts:
            console.print("fan-out with other systems' commands")
            (ours,) = (row.value for row in measured if row.name == "fanout")
            measured += await peer_fanout.measure(running, made, ours)
    for line in (settings.data / "logs" / "timeline_server-1.log").read_text().splitlines():
        if CACHE_LINE in line:
            console.print(line.partition(CACHE_LINE)[2].strip())


async def _with_all_windows(
    running: stack.BenchStack,
    made: world.World,
    parts: Sequence[str],
    echo_port: int,
    measured: list[Row],
) -> None:
    """What is measured while posts fan out to everybody; then looks whether all is right."""
    audience = await freshness.gather_audience(running, made)
    if "freshness" in parts:
        console.print("freshness")
        measured.append(await freshness.measure(running, made, audience))
    if "costs" in parts:
        console.print("what each process spends on a call")
        measured += await costs.measure(running, made)
    if "mixed" in parts:
        console.print("mixed load")
        measured += await mixed.measure(running, made)
    if "post" in parts:
        console.print("posting")
        measured += await posts.measure(running, made, echo_port)
    console.print("comparing timelines with the oracle")
    with Progress(console=console) as progress:
        measured.append(await verification.measure(running, made, audience.followers, progress))


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    runs.add_graph(parser)
    parser.add_argument(
        "--only",
        type=runs.some_of(PARTS, "part"),
        default=list(PARTS),
        help=f"some of {','.join(PARTS)}; then latest.json is not written",
    )
    parser.add_argument("--out", type=Path, help="where to write the rows of some parts")
    return parser.parse_args(arguments)


def _say_complaints(folder: Path) -> None:
    for log in sorted((folder / "logs").glob("*-1.log")):
        lines = [line for line in log.read_text().splitlines() if COMPLAINT.search(line)]
        for line in lines[-COMPLAINTS_EACH:]:
            print(f"    {line}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
